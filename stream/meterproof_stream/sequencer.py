"""The sequencer: turns source records into log records, exactly one each, whatever calls it and how often.

Knows nothing of the runtime: anything that delivers records of `usage.batches` can drive it, in any order and with any
repeats or omissions. Its only state is the log.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from meterproof.kafka.errors import KafkaProblem
from meterproof.kafka.kept_reader import KeptReader
from meterproof.kafka.price_books import read_price_books
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_descriptions import partitions_of
from meterproof_schemas.keys import KeyRegistry
from meterproof_schemas.log_record import Genesis, RecordHeader
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook
from meterproof_schemas.topics import Topic
from meterproof_stream.engine import Delivered
from meterproof_stream.errors import LaneClosed, TopicUnfit
from meterproof_stream.judge import Judgement, genesis_of, judge_hole, judge_opened
from meterproof_stream.lane import Acknowledge, Lane
from meterproof_stream.opened_record import OpenedRecord, SourceRecord, open_records
from meterproof_stream.refusal_watch import RefusalWatch
from meterproof_stream.registry_file import RegistryFile
from meterproof_stream.room import Room
from meterproof_stream.source_comparison import check_source, source_lost
from meterproof_stream.source_watch import SOURCE_CHECK_INTERVAL_S, SourceWatch
from meterproof_stream.take_over import FoldedLog, check_genesis, first_geneses, fold_log

REGISTRY_POLL_INTERVAL_S: Final = 1.0
"""How often the key registry's file is looked at."""
PRICE_BOOK_POLL_INTERVAL_S: Final = 5.0
"""How often it is looked whether there are other price books."""
REFUSAL_POLL_INTERVAL_S: Final = 1.0
"""How often it is looked whether a producer has everything refused."""
_WRITER_BYTES: Final = 16

_log: Final = structlog.get_logger("meterproof.sequencer")


class Sequencer:
    """Verifies, validates and deduplicates the batches of the partitions that it holds, and appends to their logs.

    Promises, for each partition, whatever happens to this process or to another that believes to hold it:
        - every source offset is answered by exactly one accepted log record, in order;
        - every event that is accepted has one position, and no identity has two within the horizon;
        - a source record is acknowledged only after its log record is durable.

    An error that could break one of these goes to `on_failure` and out of the call; the process must then end without
    acknowledging anything. Lives from `start` to `stop`, in one event loop. `feed` is called by one task at a time.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        registry_path: Path,
        *,
        random_bytes: Callable[[int], bytes],
        on_failure: Callable[[BaseException], None],
        index_dir: Path | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
        refusals: RefusalWatch | None = None,
        source_check_interval_s: float = SOURCE_CHECK_INTERVAL_S,
    ) -> None:
        """Hold nothing yet.

        Args:
            kafka: where the topics are.
            registry_path: the key registry's file.
            random_bytes: names writers.
            on_failure: told an error after which nothing may be acknowledged.
            index_dir: where the dedupe indexes are kept on disk, a folder for each partition; None: in memory.
            monotonic_s: a clock that goes on while the process is frozen.
            refusals: notices producers whose every event is refused.
            source_check_interval_s: how often each source is compared with its log while its records are fed.

        """
        self._kafka = kafka
        self._index_dir = index_dir
        self._folding: dict[int, tuple[int, int]] = {}
        self._registry = RegistryFile(registry_path)
        self._random_bytes = random_bytes
        self._on_failure = on_failure
        self._room = Room()
        self._source_topic = kafka.topic(Topic.BATCHES)
        self._producer = RecordProducer(kafka)
        self._partitions = 0
        self._geneses: dict[int, Genesis] = {}
        self._books: Mapping[int, PriceBook] = {}
        self._price_book = 0
        self._book_topic = KeptReader(kafka, kafka.topic(Topic.PRICE_BOOKS))
        self._books_read: tuple[bytes | None, tuple[int, int]] | None = None
        """Id and bounds of that topic, when it was last read."""
        self._meters = frozenset(meter.name for meter in DEFAULT_METERS)
        self._monotonic_s = monotonic_s
        self._refusals = refusals or RefusalWatch(monotonic_s=monotonic_s)
        self._source = SourceWatch(
            kafka,
            self._source_topic,
            lambda: self.lanes,
            monotonic_s=monotonic_s,
            interval_s=source_check_interval_s,
        )
        self._watchers: list[asyncio.Task[None]] = []
        self.lanes: dict[int, Lane] = {}
        """The partitions held, by number."""

    async def start(self) -> None:
        """Connect and read the price books; call once, before anything else.

        Raises:
            KafkaProblem: Kafka cannot be used.
        """
        self._partitions = await partitions_of(self._kafka, self._source_topic)
        self._geneses = await first_geneses(self._kafka)
        try:
            await self._refresh_price_book()
            await self._producer.start()
        except BaseException:
            await self._book_topic.stop()
            raise
        watches = self._source.run, self._watch_registry, self._watch_price_books, self._watch_refusals
        self._watchers = [asyncio.create_task(self._watch(one)) for one in watches]

    async def stop(self) -> None:
        """Take nothing more, wait for what is on its way, disconnect. Harmless when repeated."""
        for watcher in self._watchers:
            watcher.cancel()
        for lane in self.lanes.values():
            lane.close()
        for lane in self.lanes.values():
            if lane.failure is None:
                await lane.quiesce()
                lane.state.close()
        await self._producer.stop()
        if self._watchers:
            await asyncio.wait(self._watchers)
        await self._source.stop()
        await self._book_topic.stop()

    async def take_over(self, partitions: Iterable[int], generation: int) -> None:
        """Hold exactly these partitions from now on.

        Step 1 of the sequencer's design, for each partition:

        1. Close the lanes and wait for own deliveries, so that nothing of ours can land behind what is read next.
        2. Fold the log: from the genesis, from what our own folder holds, or from where our own lane expects its next
           record.
        3. Compare genesis and source with what the log says.
        4. A new lane with a new random writer.

        After a `KafkaProblem` nothing more is taken, and the same call may be made again: what was known of a partition
        is kept, unless its fold was under way.

        Raises:
            StageStopped: `log_diverged`, `source_diverged` or `source_lost`.
            KafkaProblem: a topic cannot be read.
        """
        wanted = sorted(set(partitions))
        for lane in self.lanes.values():  # 1
            lane.close()
        for partition, lane in self.lanes.items():
            await lane.quiesce()
            if partition not in wanted:
                lane.state.close()
                _log.info("partition_left", partition=partition, next=lane.next)
        self.lanes = {partition: lane for partition, lane in self.lanes.items() if partition in wanted}
        await self._refresh_price_book()
        # Together, since a take-over is mostly waiting for answers, unless the log is long.
        outcomes = await asyncio.gather(
            *(self._take_over(partition, generation, self.lanes.get(partition)) for partition in wanted),
            return_exceptions=True,
        )
        failures: list[BaseException] = []
        for partition, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                failures.append(outcome)
            else:
                self.lanes[partition] = outcome
        if failures:
            # What cannot be waited for is told before what can.
            raise min(failures, key=lambda error: isinstance(error, KafkaProblem) and error.retriable)

    async def _take_over(self, partition: int, generation: int, before: Lane | None) -> Lane:
        known = None if before is None else (before.state, before.log_end)
        try:
            folded: FoldedLog = await fold_log(  # 2
                self._kafka,
                partition,
                known,
                folder=None if self._index_dir is None else self._index_dir / f"p{partition}",
                on_progress=lambda offset, end: self._folding.update({partition: (offset, end)}),
            )
        except BaseException:
            if before is not None and partition in self._folding:
                # It holds a part of what came, behind its own expected offset: nobody may go on with that.
                del self.lanes[partition]
                before.state.close()
            raise
        finally:
            self._folding.pop(partition, None)
        last: RecordHeader | None = folded.last or (None if before is None else before.last)
        lane = self._lane(partition, folded, last, generation)
        try:
            check_genesis(  # 3
                folded.state,
                partition,
                partitions=self._partitions,
                source_topic=self._source_topic,
                kept=self._geneses,
            )
            async with PartitionReader(self._kafka, self._source_topic, partition, fetch_bytes_max=1) as reader:
                await check_source(reader, self._source_topic, lane)
        except BaseException:
            lane.close()  # what was folded is kept for another call
            self.lanes[partition] = lane
            raise
        self._source.taken(partition)
        _log.info(
            "partition_taken",
            partition=partition,
            generation=generation,
            writer=lane.writer,
            next=lane.next,
            position=lane.state.position,
            foreign=lane.state.foreign,
            kept=before is not None,
        )
        return lane  # 4

    def _lane(self, partition: int, folded: FoldedLog, last: RecordHeader | None, generation: int) -> Lane:
        return Lane(
            partition=partition,
            state=folded.state,
            last=last,
            log_end=folded.end,
            writer=self._random_bytes(_WRITER_BYTES).hex(),
            generation=generation,
            kafka=self._kafka,
            producer=self._producer,
            room=self._room,
            on_failure=self._on_failure,
        )

    async def revoke(self, partitions: Iterable[int]) -> None:
        """These partitions may belong to another from now on: wait for own deliveries, keep what is known of them."""
        for partition in partitions:
            lane = self.lanes.get(partition)
            if lane is not None:
                lane.close()
                await lane.quiesce()

    def next_offsets(self) -> dict[int, int]:
        """The source offset that is due, by partition held: where the runtime must go on reading."""
        return {partition: lane.next for partition, lane in self.lanes.items()}

    async def feed(
        self, partition: int, offset: int, value: bytes | None, append_ms: int, acknowledge: Acknowledge
    ) -> None:
        """Take one record of the source. Step 2 of the sequencer's design.

        Below what is due: it is in the log already; acknowledged and skipped. Above: what was left out is read first.
        `acknowledge` is called later, from the delivery. Records of partitions that are not held are ignored.

        Raises:
            StageStopped: `source_lost`, `source_diverged`, or the lane's failure.
        """
        await self.feed_many(partition, [Delivered(offset, value, append_ms, acknowledge)])

    async def feed_many(self, partition: int, records: Sequence[Delivered]) -> None:
        """`feed` each record, in order. What does not depend on the log is found out for all of them together.

        Whatever is waited for, what was appended before is on its way: each log record is as early as if it came alone.

        Raises:
            StageStopped: as `feed` does.
        """
        lane = self.lanes.get(partition)
        if lane is None:
            return
        if self._source.paused(partition):
            await self._source.compare(lane)
        opened: dict[int, OpenedRecord] = {}
        registry: KeyRegistry | None = None
        room = self._room
        try:
            for number, record in enumerate(records):
                if lane.closed:
                    return
                offset = record.offset
                if offset < lane.next:
                    record.acknowledge()
                    continue
                if offset > lane.next:
                    await lane.send()
                    await self._fill(lane, offset)
                if room.is_full:
                    await lane.send()
                    await room.wait()
                if registry is not self._registry.current:  # another one came into force while something was awaited
                    registry = self._registry.current
                    opened = _opened(records[number:], lane, registry)
                judgement = self._judge(lane, offset, opened[offset], registry)
                if judgement.rejections:
                    await self._submit(lane, judgement, registry, record.acknowledge)
                else:
                    lane.append(
                        judgement,
                        source_offset=offset,
                        registry=registry.digest,
                        price_book=self._price_book,
                        acknowledge=record.acknowledge,
                    )
        except LaneClosed:
            _log.info("record_left", partition=partition, offset=lane.next)
        finally:
            await lane.send()

    def _judge(self, lane: Lane, offset: int, opened: OpenedRecord, registry: KeyRegistry) -> Judgement:
        """Steps 3 to 5 for the record that is due."""
        judgement = judge_opened(
            opened,
            partition=lane.partition,
            offset=offset,
            state=lane.state,
            registry=registry,
            meters=self._meters,
            books=self._books,
        )
        self._refusals.note(judgement, opened.value, registry.entries)
        return judgement

    async def _submit(
        self, lane: Lane, judgement: Judgement, registry: KeyRegistry, acknowledge: Acknowledge | None = None
    ) -> None:
        """Step 6 for the record that is due."""
        await lane.submit(
            judgement,
            source_offset=lane.next,
            registry=registry.digest,
            price_book=self._price_book,
            acknowledge=acknowledge,
        )

    async def _fill(self, lane: Lane, offset: int) -> None:
        """Read what the runtime left out, with a reader of our own: records found are recorded like any other.

        Each run of offsets without a record (transaction markers) is one hole record.
        """
        async with PartitionReader(self._kafka, self._source_topic, lane.partition) as reader:
            start, _ = await reader.bounds()
            if start > lane.next:
                raise source_lost(self._source_topic, lane.partition, lane.next, start)
            async for records in reader.read(lane.next, offset):
                for record in records:
                    if not record.append_time:
                        raise TopicUnfit(self._source_topic)
                    await self._record_hole(lane, record.offset)
                    await self._room.wait()
                    registry = self._registry.current
                    source = SourceRecord(record.value, record.timestamp_ms)
                    (opened,) = open_records([source], genesis_of(lane.state), registry)
                    await self._submit(lane, self._judge(lane, record.offset, opened, registry), registry)
        await self._record_hole(lane, offset)

    async def _record_hole(self, lane: Lane, until: int) -> None:
        """Record that no record stands at the source offsets from the one that is due to `until`, if there are any."""
        missing = until - lane.next
        if missing:
            await self._room.wait()
            await lane.submit(
                judge_hole(lane.state),
                source_offset=lane.next,
                source_count=missing,
                registry=self._registry.current.digest,
                price_book=self._price_book,
            )

    async def _refresh_price_book(self) -> None:
        async with self._book_topic.of(0) as reader:
            there = await reader.topic_id(), await reader.bounds()
        if there == self._books_read:
            return
        books = await read_price_books(self._kafka)
        self._books_read = there
        changed = sorted(version for version, book in self._books.items() if books.get(version) != book)
        if changed:  # as when the topic was made again: what was judged by a version is judged by it for ever
            _log.error("price_books_changed", versions=changed, in_force=self._price_book)
        newest = max(books, default=0)
        if newest <= self._price_book:
            return
        self._books, self._price_book = {**books, **self._books}, newest
        meters = books[newest].meters
        self._meters = frozenset(meter.name for meter in meters)
        _log.info("price_book_in_force", version=newest, meters=len(meters))

    async def _watch_price_books(self) -> None:
        while True:
            await asyncio.sleep(PRICE_BOOK_POLL_INTERVAL_S)
            try:
                await self._refresh_price_book()
            except Exception as error:  # noqa: BLE001 - the book in force stays in force; the next look may succeed
                _log.warning("price_books_unread", error=str(error))

    async def _watch(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a watch for ever: one that failed must not be missing in silence."""
        try:
            await run()
        except Exception as error:  # noqa: BLE001 - handed to the process, which ends by it
            self._on_failure(error)

    async def _watch_registry(self) -> None:
        while True:
            await asyncio.sleep(REGISTRY_POLL_INTERVAL_S)
            if self._registry.refresh():
                if self._registry.fault is None:
                    _log.info("registry_in_force", digest=self._registry.current.digest)
                else:
                    _log.error("registry_faulty", error=self._registry.fault, in_force=self._registry.current.digest)

    async def _watch_refusals(self) -> None:
        while True:
            await asyncio.sleep(REFUSAL_POLL_INTERVAL_S)
            refused, cleared = self._refusals.news()
            for one in refused:
                told = {name: value for name, value in one.as_json(self._monotonic_s()).items() if name != "events"}
                _log.error("producer_refused", **told, refused_events=one.events)
            for one in cleared:
                _log.info("producer_accepted_again", key_id=one.key_id, producer=one.producer)

    def waits_for(self) -> str | None:
        """Kafka: its acknowledgements, or its answers about a source that is compared with its log."""
        if self._source.waits:
            return "Kafka's answer about the source topic"
        records = self._room.records
        return f"Kafka's acknowledgement of {records} log records" if records else None

    def status(self) -> dict[str, Any]:
        """What an operator wants to see, ready for JSON."""
        return {
            "registry": self._registry.current.digest,
            "registry_fault": self._registry.fault,
            "price_book": self._price_book,
            "refused_producers": self._refusals.as_json(),
            "folding": {str(partition): {"offset": at, "end": end} for partition, (at, end) in self._folding.items()},
            "in_flight": {"records": self._room.records, "bytes": self._room.bytes},
            "partitions": {
                str(partition): {
                    "next": lane.next,
                    "position": lane.state.position,
                    "log_end": lane.log_end,
                    "clock_ms": lane.state.clock_ms,
                    "counts": dict(lane.state.counts),
                    "foreign": lane.state.foreign,
                    "identities": len(lane.state.index),
                    "index_disk_bytes": lane.state.index.disk_bytes(),
                    "generation": lane.generation,
                    "writer": lane.writer,
                }
                for partition, lane in self.lanes.items()
            },
        }


def _opened(records: Sequence[Delivered], lane: Lane, registry: KeyRegistry) -> dict[int, OpenedRecord]:
    """Records of a lane's partition, by offset, taken apart under a registry."""
    offsets = [record.offset for record in records]
    return dict(zip(offsets, open_records(records, genesis_of(lane.state), registry), strict=True))
