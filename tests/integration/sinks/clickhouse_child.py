"""A process that carries a log into a ClickHouse folder and may be killed: at a step, or at any moment.

`python -m tests.integration.sinks.clickhouse_child FOLDER SEED BATCHES CUT KILL`, where KILL is `never`, `<step>:<n>`
(SIGKILL right after the n-th of `events`, `records`, `progress`, or insert into another table) or
`after:<milliseconds>` from the first write on.
"""

import asyncio
import os
import random
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.clickhouse_sink import ClickHouseSink
from meterproof_sinks.migrate import migrate
from tests.rated_log import BOOKS, RatedLog

_STEPS = {"record_lines": "events", "usage_records": "records", "sink_progress": "progress"}


def make_log(seed: int, batches: int) -> RatedLog:
    """The log that parent and child agree on."""
    log = RatedLog(seed=seed)
    log.grow(batches)
    return log


async def carry(clickhouse: ClickHouse, log: RatedLog, cut: int) -> None:
    """Write what the database lacks, cut at random, after verifying its cursor as a follower does."""

    async def books() -> Mapping[int, Any]:
        return BOOKS

    sink = ClickHouseSink(clickhouse, books)
    cursor = await sink.cursor(log.partition)
    rest = log.records
    if cursor is not None:
        at = next(number for number, (offset, _) in enumerate(log.records) if offset == cursor.log_offset)
        assert log.records[at][1].digest == cursor.digest
        assert log.records[at][1].header.size == cursor.position
        assert cursor.epoch == log.epoch
        rest = log.records[at + 1 :]
    draw = random.Random(cut)
    while rest:
        count = draw.randrange(1, 12)
        await sink.write(log.partition, log.genesis, rest[:count])
        rest = rest[count:]


class _Killed(ClickHouse):
    """Ends its process with SIGKILL at the appointed step."""

    appointed = ("never", 0)
    seen = 0

    def insert(self, table: str, columns: Sequence[str], body: bytes, format_name: str, rows: int) -> None:
        if self.appointed[0] == "after" and not self.seen:
            self.seen = 1
            threading.Timer(self.appointed[1] / 1000, os.kill, (os.getpid(), signal.SIGKILL)).start()
        super().insert(table, columns, body, format_name, rows)
        self._step(_STEPS.get(table, table))

    def _step(self, name: str) -> None:
        if self.appointed[0] == name:
            self.seen += 1
            if self.seen == self.appointed[1]:
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Carry, or be killed."""
    folder, seed, batches, cut, kill = sys.argv[1:]
    clickhouse = _Killed.open_folder(Path(folder))
    migrate(clickhouse)
    step, _, number = kill.partition(":")
    clickhouse.appointed = (step, int(number or 0))
    asyncio.run(carry(clickhouse, make_log(int(seed), int(batches)), int(cut)))
    clickhouse.close()


if __name__ == "__main__":
    main()
