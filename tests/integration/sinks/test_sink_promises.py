"""What every sink promises its worker, held against each: the cursor is the destination's, a repeat changes nothing."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meterproof_schemas.chain import Cursor
from meterproof_sinks.audit_sink import AuditSink
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.sink import Sink
from tests.integration.sinks.clickhouse_folder import new_sink, opened
from tests.rated_log import RatedLog

pytestmark = pytest.mark.clickhouse

_PARTITIONS = 2


class Destination(ABC):
    """Something that outlives the sinks which write to it."""

    @abstractmethod
    def sink(self) -> Sink:
        """A sink as a worker makes it when it starts."""

    @abstractmethod
    def content(self) -> Any:
        """All that is there, whatever wrote it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""


class Rows(Destination):
    """ClickHouse."""

    def __init__(self, folder: Path) -> None:
        self._opened = opened(folder)
        self._clickhouse: ClickHouse = self._opened.__enter__()

    def sink(self) -> Sink:
        return new_sink(self._clickhouse)

    def content(self) -> Any:
        events = "SELECT log, position, entry, id, agent, cost, currency, usage FROM usage ORDER BY log, position"
        records = (
            "SELECT log, log_offset, digest, size, root, accepted, duplicates FROM records ORDER BY log, log_offset"
        )
        return self._clickhouse.rows(events), self._clickhouse.rows(records)

    def close(self) -> None:
        self._opened.__exit__(None, None, None)


class Files(Destination):
    """The audit folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sink(self) -> Sink:
        return AuditSink(self._folder, limits=SegmentLimits(bytes_max=1 << 30))

    def content(self) -> Any:
        files = sorted(path for path in self._folder.rglob("*.jsonl") if path.is_file())
        return [(path.relative_to(self._folder), path.read_bytes()) for path in files]

    def close(self) -> None:
        pass


KINDS: dict[str, type[Rows | Files]] = {"clickhouse": Rows, "audit": Files}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def destination(kind: str, tmp_path: Path) -> Iterator[Destination]:
    made = KINDS[kind](tmp_path / "destination")
    yield made
    made.close()


@pytest.fixture
def logs() -> list[RatedLog]:
    made = [RatedLog(partition=number, partitions=_PARTITIONS, seed=70 + number) for number in range(_PARTITIONS)]
    for log in made:
        log.grow(12)
    return made


def _named(log: RatedLog, end: int) -> Cursor:
    """The cursor behind so many records."""
    log_offset, record = log.records[end - 1]
    return Cursor(log.genesis.epoch, log_offset, record.digest, record.header.size)


async def test_the_cursor_is_what_the_destination_says(destination: Destination, logs: list[RatedLog]) -> None:
    """Of a sink that has just been made, too: it has no other memory."""
    for log in logs:
        sink = destination.sink()
        assert await sink.cursor(log.partition) is None
        for first, last in ((0, 1), (1, 7), (7, len(log.records))):
            await sink.write(log.partition, log.genesis, log.records[first:last])
            assert await sink.cursor(log.partition) == _named(log, last)
        await sink.close()
        again = destination.sink()
        assert await again.cursor(log.partition) == _named(log, len(log.records))
        await again.close()


async def test_cut_in_any_way_over_any_restarts_the_content_is_the_same(
    kind: str, logs: list[RatedLog], tmp_path: Path
) -> None:
    contents = []
    for seed in range(2):
        draw, destination = random.Random(seed), KINDS[kind](tmp_path / f"{seed}")
        ends = [0] * _PARTITIONS
        sink = destination.sink()
        for log in logs:
            await sink.cursor(log.partition)
        while any(end < len(log.records) for end, log in zip(ends, logs, strict=True)):
            if draw.random() < 0.3:  # the worker was started anew: it goes on where the destination says
                await sink.close()
                sink = destination.sink()
                for log in logs:
                    cursor = await sink.cursor(log.partition)
                    offsets = [log_offset for log_offset, _ in log.records]
                    assert ends[log.partition] == (0 if cursor is None else offsets.index(cursor.log_offset) + 1)
            log = draw.choice(logs)
            first = ends[log.partition]
            ends[log.partition] = min(len(log.records), first + draw.randrange(1, 5))
            await sink.write(log.partition, log.genesis, log.records[first : ends[log.partition]])
        await sink.close()
        contents.append(destination.content())
        destination.close()
    assert contents[0] == contents[1]


async def test_a_log_that_cannot_be_written_keeps_no_other_back(destination: Destination, logs: list[RatedLog]) -> None:
    """And its own cursor stays where it was."""
    sink = destination.sink()
    first, second = logs
    for log in logs:
        await sink.cursor(log.partition)
        await sink.write(log.partition, log.genesis, log.records[:5])
    failing = first.records[5:7]
    broken = [(log_offset, None) for log_offset, _ in failing]
    with pytest.raises(AttributeError):
        await sink.write(first.partition, first.genesis, broken)  # type: ignore[arg-type]
    await sink.write(second.partition, second.genesis, second.records[5:])
    await sink.close()
    again = destination.sink()
    assert await again.cursor(first.partition) == _named(first, 5)
    assert await again.cursor(second.partition) == _named(second, len(second.records))
    await again.write(first.partition, first.genesis, first.records[5:])
    assert await again.cursor(first.partition) == _named(first, len(first.records))
    await again.close()
