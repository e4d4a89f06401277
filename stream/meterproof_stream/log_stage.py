"""A stage that reads `usage.log` and makes what follows from it durable: the frame of checkpointer and budgets.

Knows nothing of the runtime: whatever delivers records of `usage.log` can drive it, with any repeats or omissions.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog

from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.chain import LogChain
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.topics import Topic
from meterproof_stream.log_watch import LogWatch
from meterproof_stream.room import Room

WATCH_INTERVAL_S: Final = 5.0
"""How often a stage makes sure that the logs are still the ones that it has read."""
TAKEN_MAX: Final = 5_000
"""Records that are taken and not yet durable. One flush makes all of them durable, so they may be many."""

_log: Final = structlog.get_logger("meterproof.log_stage")

Acknowledge = Callable[[], object]


class StageLane(Protocol):
    """What a stage keeps of one log, from take-over to the end of the process."""

    chain: LogChain
    """The accepted prefix that `take` has seen; after opening: up to the stage's own cursor."""

    def take(self, offset: int, record: LogRecord) -> None:
        """Take the next accepted record; `chain` is already behind it."""

    async def flush(self) -> None:
        """Make everything durable, in the stage's own output, that was taken before the call.

        What it needs of the lane it takes before it waits for the first time: `take` may be called meanwhile.
        """

    def status(self) -> dict[str, Any]:
        """What an operator wants to see, ready for JSON."""


class StageLanes(Protocol):
    """Opens the lanes of a stage. Lives from `start` to `stop`."""

    async def start(self) -> None:
        """Connect."""

    async def stop(self) -> None:
        """Disconnect."""

    async def open(self, partition: int) -> StageLane:
        """Take a log over, from the stage's own output."""


@dataclass(slots=True)
class _Held:
    """A lane with where the runtime must go on reading."""

    lane: StageLane
    next_offset: int
    taken: list[tuple[Acknowledge, int]] = field(default_factory=list)
    """Of each record that no flush has come behind: how to acknowledge it, and its bytes."""
    flushing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by a flush: one of a lane at a time."""


class LogStage:
    """Carries the logs of the partitions that it holds into lanes, and flushes them at an interval.

    Promises: a lane takes every accepted record once, in order; a record is acknowledged only after a flush that came
    behind it. Records are taken while others are made durable, up to a bound (`Room`). A flush that has begun is
    carried through, whoever stops waiting for it: a lane that has handed its changes over to half a flush would leave
    them out of the next. An error goes to `on_failure`; the process must then end. Lives from `start` to `stop`, in one
    loop.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        lanes: StageLanes,
        *,
        flush_interval_s: float,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._kafka = kafka
        self._lanes = lanes
        self._flush_interval_s = flush_interval_s
        self._on_failure = on_failure
        self._topic = kafka.topic(Topic.LOG)
        self._tending: list[asyncio.Task[None]] = []
        self._watch = LogWatch(kafka, self._topic, WATCH_INTERVAL_S)
        """Of every partition ever held, with the last log record that was made durable."""
        self._stopping = False
        self._held: dict[int, _Held] = {}
        self._room = Room(records_max=TAKEN_MAX)
        self._hurry = asyncio.Event()
        """Flush now."""

    async def start(self) -> None:
        """Connect and begin to flush at the interval; call once, before anything else."""
        await self._lanes.start()
        self._tending = [asyncio.create_task(self._flush_for_ever()), asyncio.create_task(self._watch_for_ever())]

    async def stop(self) -> None:
        """Take nothing more, flush what was taken, disconnect."""
        self._stopping = True
        for task in self._tending:
            task.cancel()
        await self._flush_all()
        await self._lanes.stop()
        if self._tending:
            await asyncio.wait(self._tending)  # the watch disconnects

    async def take_over(self, partitions: Iterable[int], generation: int) -> None:
        """Hold exactly these partitions from now on; those held before go on where they are.

        Raises:
            StageStopped: `log_diverged`: a log is not the one that this stage's output was made from.
            KafkaProblem: a topic cannot be read.
        """
        wanted = sorted(set(partitions))
        await self._flush_all()
        before, self._held = self._held, {}
        for partition, held in before.items():
            if partition not in wanted:
                self._give_back(held.taken)  # its next owner takes them again
        # Together, since opening is mostly waiting for answers.
        opened = await asyncio.gather(*(self._lanes.open(partition) for partition in wanted if partition not in before))
        lanes = iter(opened)
        for partition in wanted:
            if partition in before:
                held = before[partition]
            else:
                lane = next(lanes)
                held = _Held(lane, lane.chain.log_offset + 1)
            self._held[partition] = held
            self._remember(partition, held.lane.chain)
            _log.info(
                "partition_taken",
                partition=partition,
                generation=generation,
                next=held.next_offset,
                position=held.lane.chain.position,
            )

    async def revoke(self, partitions: Iterable[int]) -> None:
        """These partitions may belong to another from now on: what was taken is made durable."""
        await self._flush_all(partitions)

    def next_offsets(self) -> dict[int, int]:
        """The log offset that is due, by partition held."""
        return {partition: held.next_offset for partition, held in self._held.items()}

    async def feed(
        self, partition: int, offset: int, value: bytes | None, append_ms: int, acknowledge: Acknowledge
    ) -> None:
        """Take one physical record of the log; `append_ms` is not looked at. Repeats are acknowledged and skipped.

        Raises:
            StageStopped: `log_diverged`.
        """
        del append_ms
        held = self._held.get(partition)
        if held is None or self._stopping:
            return
        if self._room.is_full:
            self._hurry.set()
            await self._room.wait()
        if offset > held.next_offset:
            await self._fill(held, partition, offset)
        if self._held.get(partition) is not held or self._stopping:
            return  # given up while this waited
        if offset == held.next_offset:
            _offer(held, offset, value)
        size_bytes = len(value or b"")
        self._room.take(size_bytes)
        held.taken.append((acknowledge, size_bytes))

    def waits_for(self) -> str | None:
        """Kafka's answer to a flush, where so much was taken since that nothing more is."""
        return f"Kafka's acknowledgement of {self._room.records} log records" if self._room.is_full else None

    def status(self) -> dict[str, Any]:
        """What an operator wants to see, ready for JSON."""
        return {
            "partitions": {
                str(partition): {
                    "log_offset": held.lane.chain.log_offset,
                    "next": held.next_offset,
                    "position": held.lane.chain.position,
                    "foreign": held.lane.chain.foreign,
                    **held.lane.status(),
                }
                for partition, held in self._held.items()
            }
        }

    async def _fill(self, held: _Held, partition: int, offset: int) -> None:
        """Read what the runtime left out, with a reader of our own."""
        async with PartitionReader(self._kafka, self._topic, partition) as reader:
            async for records in reader.read(held.next_offset, offset):
                for record in records:
                    _offer(held, record.offset, record.value)
        held.next_offset = offset

    async def _flush_for_ever(self) -> None:
        """Flush all lanes together, at the interval from beginning to beginning: their waiting adds up to nothing."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        try:
            while True:
                due_s = max(due_s + self._flush_interval_s, loop.time())
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(due_s):
                        await self._hurry.wait()
                self._hurry.clear()
                await self._flush_all()
        except Exception as error:  # noqa: BLE001 - handed to the process, which ends by it
            self._on_failure(error)

    async def _flush_all(self, partitions: Iterable[int] | None = None) -> None:
        """Flush these lanes together, or all, each once whatever flush is under way has ended."""
        chosen = self._held if partitions is None else {one: self._held[one] for one in partitions if one in self._held}
        await asyncio.shield(asyncio.gather(*(self._flush(partition, held) for partition, held in chosen.items())))

    async def _flush(self, partition: int, held: _Held) -> None:
        """Make durable, then acknowledge, what was taken before it began."""
        async with held.flushing:
            # Up to the lane's first wait nothing else runs, so the lane flushes exactly what is taken here.
            taken, held.taken = held.taken, []
            chain = copy(held.lane.chain)
            try:
                await held.lane.flush()
            except Exception as error:
                self._on_failure(error)  # whoever waited for this may have been cancelled
                raise
        if self._held.get(partition) is held:
            self._remember(partition, chain)
        self._give_back(taken)
        for acknowledge, _ in taken:
            acknowledge()

    def _give_back(self, taken: Iterable[tuple[Acknowledge, int]]) -> None:
        for _, size_bytes in taken:
            self._room.give_back(size_bytes)

    def _remember(self, partition: int, chain: LogChain) -> None:
        if chain.log_offset >= 0:
            self._watch.remember(partition, chain.log_offset, chain.digest)

    async def _watch_for_ever(self) -> None:
        """Make sure that each log still holds the last record that was taken from it."""
        try:
            await self._watch.run()
        except Exception as error:  # noqa: BLE001 - handed to the process, which ends by it
            self._on_failure(error)


def _offer(held: _Held, offset: int, value: bytes | None) -> None:
    record = held.lane.chain.offer(offset, value)
    held.next_offset = offset + 1
    if record is not None:
        held.lane.take(offset, record)
