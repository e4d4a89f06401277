"""How long a log record takes until its events can be queried: the ClickHouse sink while events come in steadily.

From the broker's append time of the log record until a query through the worker has counted its last event. The bench
asks 20 times a second, so what it sees is up to 50 ms late.
"""

import asyncio
import time
from bisect import bisect_left
from collections import defaultdict
from statistics import quantiles
from typing import Final

from meterproof.status import read_status
from meterproof_schemas.log_record import LogRecord
from meterproof_sinks.clickhouse_access import open_reader
from tests.bench.figure import Figure
from tests.bench.rig import Rig

OFFERED_PER_S: Final = 20_000
"""Events."""
_BATCH: Final = 100
_P99_TARGET_MS: Final = 1_000
_WARM_UP_SHARE: Final = 0.2
"""What came before this share of the records is start-up."""
_ASK_INTERVAL_S: Final = 0.05
_PROGRESS: Final = "SELECT log, argMax(next, log_offset) FROM sink_progress GROUP BY log"


async def measure_freshness(rig: Rig, *, seconds: float) -> list[Figure]:
    """Offer log records for so long, and ask meanwhile; every event must become visible."""
    async with rig.deployment(priced=True) as deployment:
        seen: dict[str, list[tuple[int, float]]] = defaultdict(list)  # by log: first position not there, asked when
        with deployment.worker("sink", "clickhouse", "run") as sink:
            rig.say("waiting for the worker")

            async def ready() -> bool:
                return (read_status(deployment.data / "status", "clickhouse") or {}).get("state") == "running"

            await sink.until(ready)
            events = int(OFFERED_PER_S * seconds)
            publishing = asyncio.ensure_future(
                deployment.publish("log", batch=_BATCH, events=events, batches_per_s=OFFERED_PER_S / _BATCH)
            )
            reader = await asyncio.to_thread(open_reader, deployment.data, None)

            async def visible() -> bool:
                rows = await asyncio.to_thread(reader.rows, _PROGRESS)
                for log, position in rows:
                    seen[log].append((position, time.time_ns() / 1e6))
                there = sum(position for _, position in rows)
                return publishing.done() and there >= sum(one.accepted for one in publishing.result())

            try:
                await sink.until(visible, interval_s=_ASK_INTERVAL_S)
            finally:
                reader.close()
                await asyncio.wait([publishing])
            await sink.stop()
        waits_ms: dict[str, list[float]] = defaultdict(list)
        origins: list[str] = []

        def note(append_ms: int, record: LogRecord) -> None:
            header = record.header
            if header.genesis is not None:
                origins.append(header.genesis.origin)
                return
            steps = seen[origins[-1]]
            asked_ms = steps[bisect_left(steps, header.size, key=lambda step: step[0])][1]
            waits_ms[origins[-1]].append(asked_ms - append_ms)

        await deployment.fold_log(note)
    warm = [wait for waits in waits_ms.values() for wait in waits[int(len(waits) * _WARM_UP_SHARE) :]]
    cuts = quantiles(warm, n=100, method="inclusive")
    name = f"log record to queryable at {OFFERED_PER_S:,} events/s"
    return [
        Figure("freshness", f"{name}, p50", "ms", None, [cuts[49]]),
        Figure("freshness", f"{name}, p99", "ms", ("≤", _P99_TARGET_MS), [cuts[98]]),
    ]
