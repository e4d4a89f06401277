"""The one loop that carries `usage.log` into a destination, the same for every sink."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass

import structlog

from meterproof.kafka.follower import LogFollower
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import partitions_of
from meterproof.status import StatusFile
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.topics import Topic
from meterproof_sinks.batch_bounds import Batch, BatchBounds
from meterproof_sinks.sink import Sink

_log = structlog.get_logger(__name__)
_STATUS_INTERVAL_S = 1.0
_DEFAULT_BOUNDS = BatchBounds()


@dataclass(slots=True)
class Progress:
    """How far one log has been carried; what the status file shows per partition."""

    log_offset: int = -1
    """Of the last record that is durable in the destination."""
    position: int = 0
    """Events that are durable in the destination."""
    records: int = 0
    """Written since the worker started."""
    rows: int = 0
    """Events written since the worker started."""
    batches: int = 0
    foreign: int = 0
    """Echoes of other writers that were skipped."""
    append_ms: int = 0
    """Broker's append time of the last durable record's source."""
    write_s: float = 0.0
    """Spent in writing since the worker started."""


async def run_sink(
    sink: Sink,
    settings: KafkaSettings,
    partitions: Sequence[int] | None = None,
    *,
    status: StatusFile,
    stop: asyncio.Event,
    bounds: BatchBounds = _DEFAULT_BOUNDS,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Carry these partitions of `usage.log` (None: all) into the sink until `stop` is set. Closes nothing it was given.

    Partitions are assigned by the caller, for as long as it runs: no consumer group, no rebalance, and offsets committed
    by anyone are never looked at. Per partition, one task:

    1. ask the sink for its cursor
    2. start a follower there: it re-reads the record that the cursor names, and refuses if it is another one
    3. poll: accepted records, in order
    4. batch: until a bound on rows, bytes, records or age is reached
    5. write; an error ends the worker before anything is counted
    6. advance: the write's return is the new cursor, which the status file shows
    7. back to 3, or end if asked to stop; what is gathered and unwritten is read again next time

    Raises:
        StageStopped: `log_diverged`; the log is not the one that the destination was made from.
        Exception: whatever the sink or Kafka raised; the process should end and be started again.
    """
    if partitions is None:
        partitions = range(await partitions_of(settings, settings.topic(Topic.LOG)))
    progress = {partition: Progress() for partition in partitions}

    def show(state: str) -> None:
        status.write(
            {"sink": sink.name, "state": state, "partitions": {str(p): asdict(own) for p, own in progress.items()}}
        )

    show("starting")
    tasks = [
        asyncio.create_task(
            _carry(sink, settings, partition, own, bounds, stop, clock), name=f"{sink.name}-{partition}"
        )
        for partition, own in progress.items()
    ]
    ended: set[asyncio.Task[None]] = set()
    try:
        while not ended and not stop.is_set():
            ended, _ = await asyncio.wait(tasks, timeout=_STATUS_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
            show("running")
        stop.set()
        # A failed partition ends the worker; the others finish the write they are in, so nothing is torn by our own hand.
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    show("failed" if failures else "stopped")
    if failures:
        raise failures[0]


async def _carry(
    sink: Sink,
    settings: KafkaSettings,
    partition: int,
    progress: Progress,
    bounds: BatchBounds,
    stop: asyncio.Event,
    clock: Callable[[], float],
) -> None:
    """Steps 1 to 7 for one partition."""
    cursor = await sink.cursor(partition)  # 1
    if cursor is not None:
        progress.log_offset, progress.position = cursor.log_offset, cursor.position
    follower = LogFollower(settings, partition, cursor)
    await follower.start()  # 2
    _log.info("sink_partition_started", sink=sink.name, partition=partition, position=progress.position)
    chunks = aiter(follower.read())
    stopping = asyncio.create_task(stop.wait())
    polling: asyncio.Task[list[tuple[int, LogRecord]]] | None = None
    polled: deque[tuple[int, LogRecord]] = deque()
    batch = Batch(bounds)
    try:
        while not stop.is_set():
            if polling is None and not polled:  # 3; the next chunk is fetched while this one is written
                polling = asyncio.create_task(_next(chunks))
            if polling is not None and not polled and not batch.full:
                await asyncio.wait(
                    {polling, stopping}, timeout=batch.left_s(clock()), return_when=asyncio.FIRST_COMPLETED
                )
                if polling.done():
                    polled.extend(polling.result())
                    polling = None
                    progress.foreign = follower.chain.foreign
            while polled and not batch.full:  # 4
                batch.add(*polled.popleft(), clock())
            if stop.is_set() or not (batch.full or batch.left_s(clock()) == 0):
                continue
            if polling is None and not polled:
                polling = asyncio.create_task(_next(chunks))
            genesis = follower.chain.genesis
            if genesis is None:
                message = f"the follower of partition {partition} handed out records before it knew their genesis"
                raise RuntimeError(message)
            records = batch.take()
            began_s = clock()
            await sink.write(partition, genesis, records)  # 5
            _advance(progress, records, clock() - began_s)  # 6
    finally:
        stopping.cancel()
        if polling is not None:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
        await follower.stop()


async def _next(chunks: AsyncIterator[list[tuple[int, LogRecord]]]) -> list[tuple[int, LogRecord]]:
    """The next chunk, as a task can await it."""
    return await anext(chunks)


def _advance(progress: Progress, records: list[tuple[int, LogRecord]], write_s: float) -> None:
    """Count a write that returned."""
    log_offset, last = records[-1]
    progress.log_offset, progress.position, progress.append_ms = log_offset, last.header.size, last.header.append_ms
    progress.records += len(records)
    progress.rows += sum(record.header.accepted for _, record in records)
    progress.batches += 1
    progress.write_s += write_s
