"""`RecordProducer`: bytes to explicit partitions, in order, exactly once per send."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Self

import aiokafka.errors
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from meterproof.kafka.connection import start_client, translated
from meterproof.kafka.errors import DeliveryRefused, TopicMissing
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.limits import RECORD_BYTES_MAX

LINGER_MS: Final = 5
"""A batch of records waits this long for company; without it each record is a request of its own."""
BATCH_BYTES_MAX: Final = 1024 * 1024
"""Largest batch of records; the library sends one batch per partition at a time."""
_REQUEST_BYTES_MAX: Final = RECORD_BYTES_MAX + 512 * 1024
_SMALL_BYTES: Final = 1024 * 1024
"""A record below this needs no closer look at its size."""
_UNKNOWN_PARTITION: Final = "Unrecognized partition"


class Delivery(NamedTuple):
    """Where a record stands, acknowledged by all in-sync replicas."""

    topic: str
    partition: int
    offset: int
    """-1 where the broker acknowledged a repeated send and no longer knows the offset."""
    timestamp_ms: int
    """The broker's append time on topics with LogAppendTime, else the time of sending."""


class Posted(NamedTuple):
    """Records on their way that stand one behind the other: part of a batch that is acknowledged as a whole."""

    batch: "asyncio.Future[Delivery]"
    """Where the batch's first record stands (its time is -1 on topics without LogAppendTime); raises
    `DeliveryRefused`. One for all records of the batch."""
    number: int
    """The first one's place in the batch, from 0."""
    sent_ms: int
    """The time of sending."""
    records: int = 1
    """How many."""

    def offset(self) -> int:
        """Where the first one stands, once the batch is done; -1 where the broker no longer knows.

        Raises:
            DeliveryRefused: it was not taken.
        """
        first = self.batch.result().offset
        return first if first < 0 else first + self.number


class _Place:
    """One partition's open batch: records join it until the library takes it away to send it, or it is full."""

    __slots__ = ("at", "batch", "builder", "callers", "count", "order", "waiting", "waiting_batch")

    def __init__(self, topic: str, partition: int, waiting: Any) -> None:  # noqa: ANN401 - the library has no types
        self.at = TopicPartition(topic, partition)
        self.waiting = waiting
        """The library's batches that it has not yet taken away, by partition."""
        self.waiting_batch: Any = None
        """The open batch as it stands there."""
        self.order = asyncio.Lock()
        """Held by whoever opens the next batch: waits for the one before to leave. Fair, so calls keep their order."""
        self.callers = 0
        """Calls that hold `order` or wait for it: nobody may overtake them."""
        self.builder: Any = None
        self.batch: asyncio.Future[Delivery] | None = None
        self.count = 0


class RecordProducer:
    """Sends records: idempotent, acknowledged by all in-sync replicas, retried until acknowledged or refused.

    Promises: records of one partition are written in the order of the calls of `send` and `post`, each at most once
    however often the connection breaks; a delivery that resolves is durable. Once a record of a partition is refused,
    later ones to it are refused as well: stop this producer and start another. Lives from `start` (or `async with`) to
    `stop`, in one event loop.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer: Any = None
        self._places: dict[tuple[str, int], _Place] = {}

    async def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnreachable: no broker answers.
            AccessDenied: the brokers refuse the credentials.
        """
        producer = AIOKafkaProducer(
            **self._settings.client_args(),
            acks="all",
            enable_idempotence=True,
            linger_ms=LINGER_MS,
            max_batch_size=BATCH_BYTES_MAX,
            max_request_size=_REQUEST_BYTES_MAX,
        )
        await start_client(self._settings, producer)
        self._producer, self._places = producer, {}

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Wait for what was sent and disconnect; harmless when repeated.

        What is not acknowledged within the time is given up: its deliveries raise `DeliveryRefused`, and whether it is
        on the topic is unknown.
        """
        producer, self._producer = self._producer, None
        if producer is None:
            return
        stopping = asyncio.ensure_future(producer.stop())
        await asyncio.wait([stopping], timeout=timeout_s)
        if stopping.done():
            await stopping
            return
        # The library tries for ever while no broker answers, and offers no way to stop it. In this order, since its
        # sender puts back the batches that are under way, and fails on those that have an outcome.
        stopping.cancel()
        await asyncio.wait([stopping])
        await producer._sender.close()  # noqa: SLF001
        given_up = aiokafka.errors.KafkaTimeoutError("the producer was stopped before Kafka acknowledged it")
        producer._message_accumulator.fail_all(given_up)  # noqa: SLF001
        await producer.client.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def send(
        self, topic: str, partition: int, value: bytes | None, key: bytes | None = None
    ) -> asyncio.Future[Delivery]:
        """Buffer a record behind those sent before it; the future resolves when Kafka has acknowledged it.

        Waits while the partition's buffer (one batch) is full. `topic` is the full name; a record needs a value or a
        key. The future raises `DeliveryRefused`.

        Raises:
            TopicMissing: there is no such topic or partition.
            DeliveryRefused: the record was not taken: too large, or the producer has failed before.
        """
        posted = await self.post(topic, partition, value, key)
        delivery: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        posted.batch.add_done_callback(partial(_hand_on, delivery, posted))
        return delivery

    def post_at_once(self, topic: str, partition: int, values: Sequence[bytes]) -> Posted | None:
        """`post` as many, from the first on, as need not wait: into a batch that is open and has room. None: none."""
        place = self._places.get((topic, partition))
        if place is None or place.callers or self._producer is None:
            return None
        return _join(place, values)

    async def post(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> Posted:
        """`send` for whoever sends much: without a future for every record.

        Raises:
            TopicMissing: there is no such topic or partition.
            DeliveryRefused: the record was not taken: too large, or the producer has failed before.
        """
        if self._producer is None:
            raise DeliveryRefused(topic, partition, "the producer is not started, or stopped")
        if len(value or b"") + len(key or b"") > _SMALL_BYTES:
            _check_size(topic, partition, value, key)
        place = self._places.get((topic, partition))
        if place is None:
            waiting = self._producer._message_accumulator._batches  # noqa: SLF001 - see `_join`
            place = self._places[topic, partition] = _Place(topic, partition, waiting)
        elif not place.callers and (posted := _join(place, (value,), key)) is not None:
            return posted
        place.callers += 1
        try:
            async with place.order:
                # While this call waited, another one may have opened a batch.
                return _join(place, (value,), key) or await self._open(place, value, key)
        finally:
            place.callers -= 1

    async def _open(self, place: _Place, value: bytes | None, key: bytes | None) -> Posted:
        """Begin a batch with this record. The library waits for the one before to leave, and then for company."""
        producer, (topic, partition) = self._producer, place.at
        if producer is None:
            raise DeliveryRefused(topic, partition, "the producer was stopped")
        builder = producer.create_batch()
        appended = builder.append(timestamp=None, key=key, value=value)  # the first one fits always
        try:
            sent = await producer.send_batch(builder, topic, partition=partition)
        except aiokafka.errors.UnknownTopicOrPartitionError:
            raise TopicMissing(topic) from None
        except AssertionError as error:
            if str(error) != _UNKNOWN_PARTITION:
                raise
            raise TopicMissing(topic, partition) from None
        except aiokafka.errors.KafkaError as error:
            raise DeliveryRefused(topic, partition, str(translated(self._settings, error))) from error
        batch: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        sent.add_done_callback(partial(_resolve, batch, (topic, partition)))
        place.builder, place.batch, place.count = builder, batch, 1
        place.waiting_batch = place.waiting[place.at][-1]
        return Posted(batch, 0, appended.timestamp)


def _join(place: _Place, values: Sequence[bytes | None], key: bytes | None = None) -> Posted | None:
    """Put records into the open batch, from the first on as many as have room; None where there is none, or no room.

    The library closes a batch some time after it has taken it away and counted its records: until then the builder
    would take one more, which nobody counts. So the batch must still be the one that waits.
    """
    batch, waiting = place.batch, place.waiting.get(place.at)
    if batch is None or not waiting or waiting[-1] is not place.waiting_batch or batch.done():
        return None
    number, append, sent_ms, count = place.count, place.builder.append, -1, 0
    for value in values:
        appended = append(timestamp=None, key=key, value=value)
        if appended is None:
            break
        sent_ms, count = appended.timestamp, count + 1
    if not count:
        return None
    place.count = number + count
    return Posted(batch, number, sent_ms, count)


def _check_size(topic: str, partition: int, value: bytes | None, key: bytes | None) -> None:
    size_bytes = DefaultRecordBatchBuilder.estimate_size_in_bytes(key, value, [])
    if size_bytes > _REQUEST_BYTES_MAX:
        raise DeliveryRefused(
            topic, partition, f"a record of {size_bytes} bytes is larger than the maximum request size"
        )


def _resolve(batch: asyncio.Future[Delivery], place: tuple[str, int], acknowledged: asyncio.Future[Any]) -> None:
    """Hand on what the library says of a batch."""
    error = asyncio.CancelledError() if acknowledged.cancelled() else acknowledged.exception()
    if error is None:
        first = acknowledged.result()
        batch.set_result(Delivery(first.topic, first.partition, first.offset, first.timestamp))
    else:
        batch.set_exception(DeliveryRefused(*place, str(error) or type(error).__name__))
        batch.exception()  # whoever wants to know of it looks; nobody has to


def _hand_on(delivery: asyncio.Future[Delivery], posted: Posted, batch: asyncio.Future[Delivery]) -> None:
    """Tell of one record what became of its batch."""
    if delivery.done():  # whoever waited has given up
        return
    error = batch.exception()
    if isinstance(error, DeliveryRefused):  # one of its own, since each that is raised gets a traceback
        delivery.set_exception(DeliveryRefused(error.topic, error.partition, error.cause))
    else:
        first = batch.result()
        at_ms = posted.sent_ms if first.timestamp_ms < 0 else first.timestamp_ms
        delivery.set_result(Delivery(first.topic, first.partition, posted.offset(), at_ms))
