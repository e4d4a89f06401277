"""The one loop that carries `usage.log` into a destination, the same for every sink."""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from typing import Any, Final, TypeVar

import structlog

from meterproof.kafka.errors import KafkaProblem
from meterproof.kafka.follower import Accepted, LogFollower
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_descriptions import partitions_of
from meterproof.kafka.topic_ends import TopicEnds
from meterproof.progress import Progress as Movement
from meterproof.watchdog import WorkerStalled
from meterproof_schemas.topics import Topic
from meterproof_sinks.batch_bounds import Batch, BatchBounds
from meterproof_sinks.sink import Sink, SinkUnavailable
from meterproof_sinks.sink_settings import SinkSettings
from meterproof_sinks.sink_status import StatusWriter

STATUS_INTERVAL_S: Final = 0.2
"""How often the status file is written."""
_IDLE_POLL_S: Final = 0.5
"""How long a poll waits for records while nothing is gathered: bounds how long a stop takes."""
_LOOK_INTERVAL_S: Final = 2.0
_COUNT_INTERVAL_S: Final = 10.0
"""How often a destination is asked for its own count of a log."""
_FIRST_COUNT_S: Final = 0.5
"""How soon it is asked again while it has none."""
_DEFAULT_BOUNDS: Final = BatchBounds()
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 15.0
"""Between two attempts at a destination that is away: doubled from the first to the longest, less a random half."""
_Answer = TypeVar("_Answer")

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.sink")


@dataclass(slots=True)
class Progress:
    """How far one log has been carried; what the status file shows per partition."""

    log_offset: int = -1
    """Of the last record that is durable in the destination."""
    position: int = 0
    """Events that are durable in the destination."""
    lag: int | None = None
    """Log offsets that are not durable here yet, echoes included; None until the log's end was asked for."""
    foreign: int = 0
    """Echoes of other writers that were skipped since the worker started."""
    records: int = 0
    """Written since the worker started."""
    rows: int = 0
    """Events written since the worker started."""
    batches: int = 0
    """Writes since the worker started."""
    write_s: float = 0.0
    """Spent in writing since the worker started."""
    away: str | None = None
    """Why the destination cannot be written to now; None when it can."""
    attempts: int = 0
    """At reaching the destination that failed, since the worker started."""
    next: int | None = None
    """Offset on the log that reading goes on at; None before it has begun."""
    writing_s: float = 0.0
    """How long the call to the destination that is under way has lasted; 0 while none is."""
    waiting_s: float = 0.0
    """How long records have waited while none was read."""
    dense: bool | None = None
    """Whether the destination has each position once, by its own quick count; None if it was not counted."""
    surplus_rows: int | None = None
    """Rows that it has more than positions, which no reader counts; below 0 some are missing."""


async def run_sink(
    sink: Sink,
    settings: KafkaSettings,
    partitions: Sequence[int] | None = None,
    *,
    status: StatusWriter,
    stop: asyncio.Event,
    bounds: BatchBounds = _DEFAULT_BOUNDS,
    worker: SinkSettings | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Carry these partitions of `usage.log` (None: all) into the sink until `stop` is set.

    The caller assigns partitions, for as long as the worker runs: no consumer group, no rebalance, and committed
    offsets are never looked at. Closes nothing that it was given. Per partition, one task:

    1. ask the sink for its cursor
    2. start a follower there: it re-reads the record that the cursor names, and refuses if it is another one
    3. poll: accepted records, in order
    4. batch: until a bound on rows, bytes, records or age is reached; also while a write is under way, so that what
       came during a long one is not made to wait again, and no further than one batch
    5. write; a destination that is away is waited for: the log keeps what comes, and lag and the status file's state
       `waiting` show it; any other error ends the worker before anything is counted
    6. advance: the write's return is the new cursor, which the status file shows
    7. back to 4, or end if asked to stop; what is gathered and not written is read again by the next run

    Beside them one task shows the destination's own count of each log, and one watches that every log moves. A
    destination that takes long or is away, and a broker that does not answer, are told and waited for. A log that
    stands while its records wait for this worker alone is unhealthy; if it still does at the next look, the worker
    ends.

    Raises:
        WorkerStalled: records wait, nothing outside is waited for, and none is read for `worker.stall_timeout_s`.
        StageStopped: `log_diverged`; the log is not the one that the destination was made from.
        Exception: whatever the sink or Kafka raised. The process should end and be started again.
    """
    if partitions is None:
        partitions = range(await partitions_of(settings, settings.topic(Topic.LOG)))
    share = bounds.share_of(len(partitions))
    carriers = [_Carrier(sink, settings, partition, share, clock) for partition in partitions]
    watch = _Watch(carriers, settings, worker or SinkSettings(), clock)

    def show(state: str, error: BaseException | None = None) -> None:
        status.write(
            {
                "worker": sink.name,
                "pid": os.getpid(),
                "state": state,
                "written_ms": time.time_ns() // 1_000_000,
                "error": None if error is None else str(error),
                "topic": settings.topic(Topic.LOG),
                "broker_fault": watch.broker_fault,
                "stuck": watch.stuck,
                "slow": watch.slow,
                "partitions": {str(carrier.partition): carrier.shown() for carrier in carriers},
            }
        )

    show("starting")
    tasks = [asyncio.create_task(carrier.run(stop), name=f"{sink.name}-{carrier.partition}") for carrier in carriers]
    tasks.append(asyncio.create_task(watch.run(stop), name=f"{sink.name}-watch"))
    tasks.append(asyncio.create_task(_count(carriers, stop), name=f"{sink.name}-count"))
    ended: set[asyncio.Task[None]] = set()
    try:
        while not ended and not stop.is_set():
            ended, _ = await asyncio.wait(tasks, timeout=STATUS_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
            show("waiting" if any(carrier.progress.away for carrier in carriers) else "running")
        # The others finish the write that they are in, so that a failure of one leaves nothing torn of another.
        stop.set()
        show("stopping")
        if watch.stuck:
            # Whoever stands still in anything but a write would not end by itself.
            for carrier, task in zip(carriers, tasks, strict=False):
                if carrier.waits_for is None:
                    task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    failure = next((error for error in failures if not isinstance(error, asyncio.CancelledError)), None)
    show("stopped" if failure is None else "failed", failure)
    if failure is not None:
        raise failure


async def _count(carriers: "Sequence[_Carrier]", stop: asyncio.Event) -> None:
    """Let the destination count one log after another until `stop` is set."""
    for carrier in cycle(carriers):
        await carrier.count()
        pause_s = _FIRST_COUNT_S if carrier.progress.dense is None else _COUNT_INTERVAL_S / len(carriers)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s)
        if stop.is_set():
            return


class _AskedToStop(Exception):
    """The worker was asked to stop while its destination was away."""


class _Carrier:
    """Carries one log. Lives as long as the worker."""

    def __init__(
        self, sink: Sink, settings: KafkaSettings, partition: int, bounds: BatchBounds, clock: Callable[[], float]
    ) -> None:
        self.partition = partition
        self.progress = Progress()
        self._sink = sink
        self._settings = settings
        self._bounds = bounds
        self._clock = clock
        self.end: int | None = None
        """Of the log, when it was last asked for; None if no broker told."""
        self._ready = asyncio.Event()
        """A batch has begun, or is full."""
        self._room = asyncio.Event()
        """What was gathered has been taken."""
        self._writing_since_s: float | None = None

    @property
    def waits_for(self) -> str | None:
        """What outside of this process must answer before more is read."""
        return None if self._writing_since_s is None else "the destination"

    def shown(self) -> dict[str, Any]:
        """For the status."""
        own, since_s = self.progress, self._writing_since_s
        own.lag = None if self.end is None or own.next is None else max(0, self.end - own.log_offset - 1)
        own.writing_s = 0.0 if since_s is None else round(self._clock() - since_s, 1)
        return asdict(own)

    async def run(self, stop: asyncio.Event) -> None:
        """Steps 1 to 7 of `run_sink`."""
        with contextlib.suppress(_AskedToStop):
            await self._carry(stop)

    async def _carry(self, stop: asyncio.Event) -> None:
        cursor = await self._reached(lambda: self._sink.cursor(self.partition), stop)  # 1
        if cursor is not None:
            self.progress.log_offset, self.progress.position = cursor.log_offset, cursor.position
        async with LogFollower(self._settings, self.partition, cursor) as follower:  # 2
            _log.info("following", sink=self._sink.name, partition=self.partition, position=self.progress.position)
            batch = Batch(self._bounds)
            reading = asyncio.create_task(self._read(follower, batch))
            try:
                while not stop.is_set() and not reading.done():
                    left_s = batch.left_s(self._clock())
                    if not batch.full and left_s != 0:
                        self._ready.clear()
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(self._ready.wait(), _IDLE_POLL_S if left_s is None else left_s)
                        continue
                    records = batch.take()
                    self._room.set()
                    began_s = self._clock()
                    await self._reached(partial(self._sink.write, self.partition, follower.genesis, records), stop)  # 5
                    self._advance(records, self._clock() - began_s)  # 6
                if reading.done():
                    await reading
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    async def _read(self, follower: LogFollower, batch: Batch) -> None:
        """Steps 3 and 4, for as long as nobody cancels it."""
        while True:
            polled = await follower.poll(_IDLE_POLL_S)  # 3
            self.progress.foreign = follower.chain.foreign
            self.progress.next = await follower.next_offset()
            for accepted in polled:  # 4
                while batch.full:
                    self._room.clear()
                    await self._room.wait()
                began = not batch.records
                batch.add(*accepted, self._clock())
                if began or batch.full:
                    self._ready.set()

    async def _reached(self, call: Callable[[], Awaitable[_Answer]], stop: asyncio.Event) -> _Answer:
        """What the destination answers, asked again, ever less often, for as long as it is away.

        Raises:
            _AskedToStop: it was still away when the worker was asked to stop.
            Exception: any other error of the destination.
        """
        pause_s = _FIRST_PAUSE_S
        self._writing_since_s = self._clock()
        while True:
            try:
                answer = await call()
            except SinkUnavailable as error:
                away = str(error)
            else:
                if self.progress.away is not None:
                    _log.info("destination_back", sink=self._sink.name, partition=self.partition)
                self.progress.away = self._writing_since_s = None
                return answer
            if self.progress.away is None:
                _log.warning("destination_away", sink=self._sink.name, partition=self.partition, reason=away)
            self.progress.away = away
            self.progress.attempts += 1
            with contextlib.suppress(TimeoutError):
                # Not all at once when it is back: the pauses of several workers differ.
                await asyncio.wait_for(stop.wait(), pause_s * random.uniform(0.5, 1))  # noqa: S311 - nothing secret
            if stop.is_set():
                raise _AskedToStop
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _advance(self, records: list[Accepted], write_s: float) -> None:
        """Count a write that returned."""
        log_offset, last = records[-1]
        own = self.progress
        own.log_offset, own.position = log_offset, last.header.size
        own.records += len(records)
        own.rows += sum(record.header.accepted for _, record in records)
        own.batches += 1
        own.write_s += write_s

    async def count(self) -> None:
        """Let the destination count, once reading has begun. For display only, so one that is away is let be."""
        if self.progress.next is None:
            return
        with contextlib.suppress(SinkUnavailable):
            density = await self._sink.density(self.partition)
            if density is not None:
                self.progress.dense, self.progress.surplus_rows = density.dense, density.surplus_rows


class _Watch:
    """Looks whether every log moves. Lives as long as the worker."""

    def __init__(
        self,
        carriers: Sequence[_Carrier],
        settings: KafkaSettings,
        worker: SinkSettings,
        clock: Callable[[], float],
    ) -> None:
        self.broker_fault: str | None = None
        """Why the broker does not answer; None while it does."""
        self.stuck: tuple[str, ...] = ()
        """Why the process should be ended."""
        self.slow: tuple[str, ...] = ()
        """Why nothing is carried now, though the process is alive."""
        self._movements = [(carrier, Movement()) for carrier in carriers]
        self._settings = settings
        self._topic = settings.topic(Topic.LOG)
        self._worker = worker
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Look every few seconds until `stop` is set.

        Raises:
            WorkerStalled: a log stands.
        """
        ends = TopicEnds(self._settings, self._topic)
        interval_s = min(_LOOK_INTERVAL_S, self._worker.stall_timeout_s / 5)
        try:
            while not stop.is_set():
                await self._look(ends)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), interval_s)
        finally:
            await ends.stop()

    async def _look(self, ends_of: TopicEnds) -> None:
        ends: dict[int, int] | None = None
        try:
            ends = await ends_of.ask([carrier.partition for carrier, _ in self._movements])
        except KafkaProblem as error:
            self.broker_fault = str(error)
        else:
            self.broker_fault = None
        now_s, stall_s = self._clock(), self._worker.stall_timeout_s
        slow, stuck = [], []
        for carrier, movement in self._movements:
            carrier.end = None if ends is None else ends.get(carrier.partition)
            partition, waits_for, at = carrier.partition, carrier.waits_for, carrier.progress.next
            due = {} if at is None else {partition: at}
            movement.look(now_s, due, ends, waits_for=waits_for)
            carrier.progress.waiting_s = round(movement.waiting_s(now_s).get(partition, 0.0), 1)
            if carrier.progress.waiting_s >= self._worker.slow_after_s or (
                waits_for is not None and carrier.shown()["writing_s"] >= self._worker.slow_after_s
            ):
                waiting = "" if waits_for is None else f"; waiting for {waits_for}"
                slow.append(f"partition {partition}: nothing was carried for a while, though records wait{waiting}")
            if movement.stuck_s(now_s).get(partition, 0.0) >= stall_s:
                stuck.append(
                    f"{self._topic}[{partition}]: nothing was read for {stall_s} s, though records stand at offset "
                    f"{at} and behind it"
                )
        if self.stuck and stuck:
            raise WorkerStalled("; ".join(self.stuck))
        self.slow, self.stuck = tuple(slow), tuple(stuck)
        for reason in stuck:
            _log.error("partition_stuck", reason=reason)
