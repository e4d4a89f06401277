"""`RecordProducer`: bytes to explicit partitions, in order, exactly once per send."""

import asyncio
from collections import defaultdict
from functools import partial
from typing import Any, Final, NamedTuple, Self

import aiokafka.errors
from aiokafka import AIOKafkaProducer

from meterproof.kafka.connection import start_client, translated
from meterproof.kafka.errors import DeliveryRefused, TopicMissing
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.limits import RECORD_BYTES_MAX

LINGER_MS: Final = 5
"""A batch of records waits this long for company; without it each record is a request of its own."""
BATCH_BYTES_MAX: Final = 1024 * 1024
"""Largest batch of records; the library sends one batch per partition at a time."""
_REQUEST_BYTES_MAX: Final = RECORD_BYTES_MAX + 512 * 1024
_UNKNOWN_PARTITION: Final = "Unrecognized partition"


class Delivery(NamedTuple):
    """Where a record stands, acknowledged by all in-sync replicas."""

    topic: str
    partition: int
    offset: int
    """-1 where the broker acknowledged a repeated send and no longer knows the offset."""
    timestamp_ms: int
    """The broker's append time on topics with LogAppendTime, else the time of sending."""


class RecordProducer:
    """Sends records: idempotent, acknowledged by all in-sync replicas, retried until acknowledged or refused.

    Promises: records of one partition are written in the order of the calls of `send`, each at most once however often
    the connection breaks; a delivery that resolves is durable. Once a record of a partition is refused, later ones to
    it are refused as well: stop this producer and start another. Lives from `start` (or `async with`) to `stop`, in
    one event loop.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer: Any = None
        self._orders: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)

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
        try:
            await start_client(self._settings, producer)
        except BaseException:
            await producer.stop()
            raise
        self._producer = producer

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
        if self._producer is None:
            raise DeliveryRefused(topic, partition, "the producer is not started, or stopped")
        place = (topic, partition)
        order = self._orders[place]
        await order.acquire()  # fair: waiting calls go on in their order
        try:
            sent = await self._producer.send(topic, value, key=key, partition=partition)
        except aiokafka.errors.UnknownTopicOrPartitionError:
            raise TopicMissing(topic) from None
        except AssertionError as error:
            if str(error) != _UNKNOWN_PARTITION:
                raise
            raise TopicMissing(topic, partition) from None
        except aiokafka.errors.KafkaError as error:
            raise DeliveryRefused(topic, partition, str(translated(self._settings, error))) from error
        finally:
            order.release()
        delivery: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        sent.add_done_callback(partial(_resolve, delivery, place))
        return delivery


def _resolve(delivery: asyncio.Future[Delivery], place: tuple[str, int], acknowledged: asyncio.Future[Any]) -> None:
    """Hand on what the library says of a record."""
    if delivery.done():  # whoever waited has given up
        return
    error = asyncio.CancelledError() if acknowledged.cancelled() else acknowledged.exception()
    if error is not None:
        delivery.set_exception(DeliveryRefused(*place, str(error) or type(error).__name__))
    else:
        record = acknowledged.result()
        delivery.set_result(Delivery(record.topic, record.partition, record.offset, record.timestamp))
