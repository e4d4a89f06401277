"""One partition under one writer, from take-over to revocation: what is recorded, on its way, and delivered."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from meterproof.kafka.producer import Delivery, Posted, RecordProducer
from meterproof.kafka.reader import PartitionReader, Record
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.chain import states_prev
from meterproof_schemas.errors import InvalidRecord, StageStopped
from meterproof_schemas.fold import LogState
from meterproof_schemas.log_record import Operator, RecordHeader, decode_record, record_digest
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.rejection import encode_rejection, rejection_key
from meterproof_schemas.topics import Topic
from meterproof_stream.errors import DeliveryLost, LaneClosed
from meterproof_stream.judge import Judgement
from meterproof_stream.record_builder import BuiltRecord, InForce, append_record
from meterproof_stream.room import Room

Acknowledge = Callable[[], object]
"""Called once, when the log record of a source record is durable and known to be accepted by readers."""


@dataclass(slots=True)
class _Pending:
    """Log records, one behind the other, that are not yet known to be accepted."""

    refusals: Sequence[asyncio.Future[Delivery]] = ()
    """What must be acknowledged before they are sent."""
    built: list[BuiltRecord] = field(default_factory=list)
    acknowledges: list[Acknowledge | None] = field(default_factory=list)
    """One per record."""


class _Sent(NamedTuple):
    """Log records of one batch of records, one behind the other."""

    posted: Posted
    built: list[BuiltRecord]
    acknowledges: list[Acknowledge | None]


class Lane:
    """The writer of one partition's log.

    Promises:
        - `state` is the fold of the log with everything submitted or appended; the log follows it, in order, or the
          lane fails;
        - a log record is sent only after the refusals that it states are acknowledged;
        - a source record is acknowledged, in order, only after its log record stands where every reader accepts it;
        - after a failure nothing more is sent or acknowledged;
        - after `close` nothing more is submitted, so that after `quiesce` nothing more changes.

    Lives from one take-over of its partition to the next, or to the end of the process; one task at a time submits,
    appends and sends, and it sends what it appended before it waits for anything.
    """

    def __init__(
        self,
        *,
        partition: int,
        state: LogState,
        last: RecordHeader | None,
        log_end: int,
        writer: str,
        generation: int,
        kafka: KafkaSettings,
        producer: RecordProducer,
        room: Room,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.partition = partition
        self.state = state
        self.last = last
        """Header of the last record in `state`."""
        self.writer = writer
        self.generation = generation
        self.delivered = 0
        """Log records delivered and accepted."""
        self.failure: BaseException | None = None
        self.closed = False
        self._kafka = kafka
        self._log_topic = kafka.topic(Topic.LOG)
        self._rejected_topic = kafka.topic(Topic.REJECTED)
        self._producer = producer
        self._room = room
        self._on_failure = on_failure
        self._expected = log_end
        self._submitted_end = log_end
        self._appended = _Pending()
        """Records that the next `send` takes along."""
        self._outbox: deque[_Pending] = deque()
        self._sent: deque[_Sent] = deque()
        self._watched: asyncio.Future[Delivery] | None = None
        """The newest batch of records whose end is awaited."""
        self._sender: asyncio.Task[None] | None = None
        self._resolver: asyncio.Task[None] | None = None
        self.in_flight = 0
        """Log records in `state` that are not known to be accepted."""
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def next(self) -> int:
        """The source offset that is due."""
        return self.state.next_source_offset

    @property
    def log_end(self) -> int:
        """The log offset that the next delivery is expected to have."""
        return self._expected

    async def submit(
        self,
        judgement: Judgement,
        *,
        source_offset: int,
        source_count: int = 1,
        registry: str,
        price_book: int,
        acknowledge: Acknowledge | None = None,
        operator: Operator | None = None,
    ) -> None:
        """Record a judgement: it becomes the next record of the log.

        1. Its refusals are sent.
        2. State and outbox advance together, without a pause between them: a cancellation before this point leaves
           nothing but refusals, which will be made again under the same keys; after it the record is on its way.
        3. The log record is sent: at once if nothing waits before it, else by the lane's own task.

        Raises:
            LaneClosed: nothing was recorded.
            Exception: the lane's failure.
        """
        self._check_open()
        await self.send()
        refusals: Sequence[asyncio.Future[Delivery]] = ()
        if judgement.rejections:
            refusals = [  # 1
                await self._producer.send(
                    self._rejected_topic, self.partition, encode_rejection(rejection), rejection_key(rejection.header)
                )
                for rejection in judgement.rejections
            ]
        self.append(  # 2
            judgement,
            source_offset=source_offset,
            source_count=source_count,
            registry=registry,
            price_book=price_book,
            acknowledge=acknowledge,
            operator=operator,
        )
        self._appended.refusals = refusals
        await self.send()  # 3

    def append(
        self,
        judgement: Judgement,
        *,
        source_offset: int,
        source_count: int = 1,
        registry: str,
        price_book: int,
        acknowledge: Acknowledge | None = None,
        operator: Operator | None = None,
    ) -> None:
        """`submit` a judgement without refusals, up to its step 2: `send` takes several along as one.

        Raises:
            LaneClosed: nothing was recorded.
            Exception: the lane's failure.
        """
        self._check_open()
        built = append_record(
            self.state,
            judgement,
            log_offset=self._submitted_end,
            source_offset=source_offset,
            source_count=source_count,
            in_force=InForce(registry, price_book, self.writer, self.generation),
            operator=operator,
        )
        self.last = built.header
        self._submitted_end += 1
        self.in_flight += 1
        self._room.take(len(built.value))
        appended = self._appended
        appended.built.append(built)
        appended.acknowledges.append(acknowledge)

    async def send(self) -> None:
        """Send what was appended: at once if nothing waits before it, else by the lane's own task.

        Raises:
            Exception: sending failed, and the lane with it.
        """
        pending = self._appended
        if not pending.built:
            return
        self._appended = _Pending()
        if self.failure is not None:
            return  # nothing is sent after it
        self._idle.clear()
        waits = bool(pending.refusals or self._outbox)
        self._outbox.append(pending)
        if not waits:
            await self._send_first()
        elif self._sender is None:
            self._sender = asyncio.create_task(self._send_outbox())

    def close(self) -> None:
        """Take nothing more; what is on its way goes on."""
        self.closed = True

    def _check_open(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self.closed:
            raise LaneClosed(f"partition {self.partition} was given up")

    async def quiesce(self) -> None:
        """Return when everything submitted is accepted.

        Raises:
            Exception: the lane's failure.
        """
        while self.failure is None and self.in_flight:
            await self._idle.wait()
        if self.failure is not None:
            raise self.failure

    async def _send_first(self) -> None:
        """Send the records that wait first; each leaves the outbox when its place behind those sent is certain."""
        pending, producer = self._outbox[0], self._producer
        built, acknowledges = pending.built, pending.acknowledges
        first = 0
        try:
            while first < len(built):
                values = [one.value for one in built[first:]]
                posted = producer.post_at_once(self._log_topic, self.partition, values)
                if posted is None:
                    posted = await producer.post(self._log_topic, self.partition, values[0])
                end = first + posted.records
                self._sent.append(_Sent(posted, built[first:end], acknowledges[first:end]))
                first = end
                if posted.batch is not self._watched:
                    self._watched = posted.batch
                    posted.batch.add_done_callback(self._on_delivery)
        except BaseException as error:
            # Also when cancelled: whether the record was taken is unknown, so the state may be ahead of the log.
            self.fail(error)
            raise
        self._outbox.popleft()

    async def _send_outbox(self) -> None:
        try:
            while self._outbox:
                for refusal in self._outbox[0].refusals:
                    await refusal
                await self._send_first()
        except BaseException as error:
            self.fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._sender = None

    def _on_delivery(self, _: object) -> None:
        """Go through what was delivered, oldest first, as far as it is plain."""
        if self._resolver is not None or self.failure is not None:
            return
        sent = self._sent
        try:
            while sent and (posted := sent[0].posted).batch.done():
                if posted.batch.cancelled():
                    raise DeliveryLost(f"{self._log_topic}[{self.partition}]: the producer gave a log record up")
                offset = posted.offset()
                if offset != self._expected:
                    self._resolver = asyncio.create_task(self._resolve(offset))
                    return
                self._accept(sent.popleft(), offset)
        except BaseException as error:  # noqa: BLE001 - whatever it is, nothing may be acknowledged after it
            self.fail(error)

    def _accept(self, accepted: _Sent, first: int) -> None:
        """Records stand on the log, from this offset on."""
        self._expected = end = first + len(accepted.built)
        self.delivered += end - first
        self.in_flight -= end - first
        for offset in range(first, end):
            self.state.acknowledge(offset)
        for built, acknowledge in zip(accepted.built, accepted.acknowledges, strict=True):
            self._room.give_back(len(built.value))
            if acknowledge is not None:
                acknowledge()
        if not self.in_flight:
            self._idle.set()

    async def _resolve(self, offset: int) -> None:
        """The oldest delivery is not where it was expected: find out what readers make of it.

        - Below: the log is not the one that we wrote to.
        - Above, or unknown (-1): read from the expected offset on. Every record before our own must be an echo: if one
          continues the chain, readers accept it in place of ours.

        Nothing can stand between records of one batch, so what holds for the first of them holds for all.
        """
        try:
            sent = self._sent[0]
            if 0 <= offset < self._expected:
                raise StageStopped(
                    StopReason.LOG_DIVERGED,
                    f"a record was appended to {self._log_topic}[{self.partition}] at offset {offset} where "
                    f"{self._expected} was due: the topic was re-created or truncated under this sequencer. "
                    "Restore the topic, or start a new deployment.",
                )
            found = await self._find(sent.built[0], None if offset < 0 else offset + 1)
            shift = found - self._expected
            self.state.foreign += shift
            self._submitted_end += shift
            self.state.log_offset += shift
            self._sent.popleft()
            self._accept(sent, found)
        except BaseException as error:
            self.fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._resolver = None
        self._on_delivery(None)

    async def _find(self, built: BuiltRecord, end: int | None) -> int:
        """The offset of our record on the log, at or behind the expected one; only echoes may stand before it."""
        async with PartitionReader(self._kafka, self._log_topic, self.partition) as reader:
            if end is None:
                _, end = await reader.bounds()
            async for records in reader.read(self._expected, end):
                for record in records:
                    if record.value is not None and record_digest(record.value) == built.digest:
                        return record.offset
                    if continues(record, built.prev):
                        raise StageStopped(
                            StopReason.FENCED,
                            f"another writer appended to {self._log_topic}[{self.partition}] at {record.offset}; "
                            "this one ends without acknowledging anything. Started again, it goes on behind the other.",
                        )
        raise StageStopped(
            StopReason.LOG_DIVERGED,
            f"a record that Kafka acknowledged is not on {self._log_topic}[{self.partition}] between offsets "
            f"{self._expected} and {end}. Restore the topic, or start a new deployment.",
        )

    def fail(self, error: BaseException) -> None:
        """Send and acknowledge nothing more, and tell the process, which must end. The first error counts."""
        if self.failure is not None:
            return
        cancelled = isinstance(error, asyncio.CancelledError)
        self.failure = DeliveryLost(f"partition {self.partition}: sending was cancelled") if cancelled else error
        self._idle.set()
        if not cancelled:  # whoever cancelled knows; any further use of this lane raises
            self._on_failure(error)


def continues(record: Record, prev: str) -> bool:
    """Whether readers would take a physical record as the one after the record with digest `prev`."""
    try:
        return decode_record(record.value).header.prev == prev
    except InvalidRecord:
        return states_prev(record.value, prev)
