"""The frame of the stages behind the log: taking goes on while a flush waits, and no flush is ever left half done."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.chain import LogChain
from meterproof_schemas.log_record import LogRecord
from meterproof_stream import log_stage
from meterproof_stream.log_stage import LogStage
from tests.log_builder import LogBuilder

PATIENCE_S = 60
NEVER_S = 3600.0
"""A flush interval that no test waits for."""


class Lane:
    """A lane whose output answers when it is told to. Like a real one, it hands its changes over at once."""

    def __init__(self) -> None:
        self.chain = LogChain()
        self.changes: list[int] = []
        self.durable: list[int] = []
        self.flushes = 0
        self.answers = asyncio.Event()
        self.fault: OSError | None = None

    def take(self, offset: int, record: LogRecord) -> None:
        del record
        self.changes.append(offset)

    async def flush(self) -> None:
        changes, self.changes = self.changes, []
        self.flushes += 1
        await self.answers.wait()
        if self.fault is not None:
            raise self.fault
        self.durable += changes

    def status(self) -> dict[str, Any]:
        return {}


class Lanes:
    """Opens the one lane."""

    def __init__(self) -> None:
        self.lane = Lane()

    async def start(self) -> None:
        """Nothing to connect."""

    async def stop(self) -> None:
        """Nothing to disconnect."""

    async def open(self, partition: int) -> Lane:
        del partition
        return self.lane


class Fixture:
    """A stage over one lane, and a log to feed it."""

    def __init__(self, flush_interval_s: float) -> None:
        lanes = Lanes()
        self.lane = lanes.lane
        self.failures: list[BaseException] = []
        self.acknowledged: list[int] = []
        self.stage = LogStage(
            KafkaSettings(), lanes, flush_interval_s=flush_interval_s, on_failure=self.failures.append
        )
        log = LogBuilder()
        for _ in range(8):
            log.batch(1)
        self._records = iter(log.records)

    async def feed(self, count: int = 1) -> None:
        for _ in range(count):
            offset, record = next(self._records)
            await self.stage.feed(0, offset, record.value, 0, lambda offset=offset: self.acknowledged.append(offset))  # type: ignore[misc]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - of what is asked, nothing tells
                await asyncio.sleep(0.001)


@asynccontextmanager
async def started(flush_interval_s: float) -> AsyncIterator[Fixture]:
    fixture = Fixture(flush_interval_s)
    await fixture.stage.start()
    await fixture.stage.take_over([0], 1)
    try:
        yield fixture
    finally:
        fixture.lane.answers.set()
        with suppress(OSError):
            await fixture.stage.stop()


async def test_records_are_taken_while_a_flush_waits_and_acknowledged_by_the_one_behind_them() -> None:
    async with started(0.001) as it:
        it.lane.answers.clear()
        await it.feed(2)
        await it.until(lambda: it.lane.flushes > 0 and not it.lane.changes)
        await it.feed(3)
        assert it.lane.changes == [2, 3, 4]
        assert it.acknowledged == []
        assert it.stage.waits_for() is None
        it.lane.answers.set()
        await it.until(lambda: it.acknowledged == [0, 1, 2, 3, 4])
        assert it.lane.durable == [0, 1, 2, 3, 4]
        assert not it.failures


async def test_a_clock_that_jumps_ahead_flushes_what_was_taken_and_the_next_flush_comes_in_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop's clock, by which flushes come, goes on while the process is frozen; it never goes back."""
    loop, ahead_s = asyncio.get_running_loop(), 0.0
    real_s = loop.time
    monkeypatch.setattr(loop, "time", lambda: real_s() + ahead_s)
    async with started(NEVER_S) as it:
        it.lane.answers.set()
        for number in range(1, 4):
            await it.feed()
            ahead_s = number * 24 * NEVER_S
            await it.until(lambda number=number: it.acknowledged == list(range(number)))  # type: ignore[misc]
    assert it.lane.durable == [0, 1, 2]
    assert not it.failures


async def test_a_flush_is_carried_through_though_the_stage_is_stopped_in_its_middle() -> None:
    async with started(0.001) as it:
        await it.feed(3)
        await it.until(lambda: it.lane.flushes > 0 and not it.lane.changes)
        stopping = asyncio.create_task(it.stage.stop())
        await asyncio.sleep(0.01)
        assert not stopping.done()
        it.lane.answers.set()
        await asyncio.wait_for(stopping, PATIENCE_S)
        assert it.lane.durable == it.acknowledged == [0, 1, 2]


async def test_a_flush_is_carried_through_though_who_waited_for_it_is_cancelled() -> None:
    async with started(NEVER_S) as it:
        await it.feed(2)
        revoking = asyncio.create_task(it.stage.revoke([0]))
        await it.until(lambda: it.lane.flushes > 0)
        revoking.cancel()
        await asyncio.wait([revoking])
        await it.feed(1)
        again = asyncio.create_task(it.stage.revoke([0]))
        it.lane.answers.set()
        await asyncio.wait_for(again, PATIENCE_S)
        assert it.lane.durable == it.acknowledged == [0, 1, 2]


async def test_a_flush_that_fails_ends_the_process_also_where_nobody_waits_for_it_any_more() -> None:
    async with started(NEVER_S) as it:
        await it.feed(1)
        it.lane.fault = OSError("the disk is full")
        revoking = asyncio.create_task(it.stage.revoke([0]))
        await it.until(lambda: it.lane.flushes > 0)
        revoking.cancel()
        it.lane.answers.set()
        await it.until(lambda: bool(it.failures))
        assert it.failures[0] is it.lane.fault
        assert it.acknowledged == []


async def test_what_is_taken_ahead_of_a_flush_is_bounded_and_asks_for_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_stage, "TAKEN_MAX", 3)
    async with started(NEVER_S) as it:
        await it.feed(3)
        feeding = asyncio.create_task(it.feed(1))
        await it.until(lambda: it.lane.flushes > 0)
        assert not feeding.done()
        assert it.stage.waits_for() == "Kafka's acknowledgement of 3 log records"
        it.lane.answers.set()
        await asyncio.wait_for(feeding, PATIENCE_S)
        assert it.stage.waits_for() is None
        assert it.acknowledged == [0, 1, 2]
