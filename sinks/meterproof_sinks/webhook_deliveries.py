"""The webhook sink's cursor: what `usage.deliveries` says was sent, and the way to say more."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.delivery import Delivery, decode_delivery, delivery_key, encode_delivery, parse_delivery_key
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.instant import parse_instant_us
from meterproof_schemas.topics import Topic

SINK: Final = "webhook"
Record = Callable[[Delivery], Awaitable[None]]
"""Says durably how far a delivery has come."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A message that was tried and is to be tried again."""

    attempts: int
    next_attempt_ms: int


@dataclass(slots=True)
class History:
    """What one endpoint got. Lives as long as its lane, which goes on writing it."""

    done: set[str] = field(default_factory=set)
    """Ids of messages that are delivered or given up."""
    retrying: dict[str, Pending] = field(default_factory=dict)


async def read_histories(kafka: KafkaSettings, endpoints: Iterable[str]) -> dict[str, History]:
    """What each of these endpoints got by now.

    Raises:
        InvalidRecord: a delivery is not of this version.
        KafkaProblem: the brokers do not answer, deny access, or have no such topic.
    """
    histories = {endpoint: History() for endpoint in endpoints}
    async for endpoint, message_id, delivery in _deliveries(kafka):
        history = histories.get(endpoint)
        if history is None:
            continue
        if delivery is None:
            history.done.discard(message_id)
            history.retrying.pop(message_id, None)
        elif delivery.outcome != "retrying":
            history.done.add(message_id)
            history.retrying.pop(message_id, None)
        elif message_id not in history.done:
            next_us = parse_instant_us(delivery.next_attempt or delivery.time)
            history.retrying[message_id] = Pending(delivery.attempts, next_us // 1000)
    return histories


async def read_deliveries(kafka: KafkaSettings) -> list[Delivery]:
    """The newest record of every webhook's delivery, in the order in which they were written.

    Raises:
        InvalidRecord, KafkaProblem: see `read_histories`.
    """
    newest: dict[tuple[str, str], Delivery] = {}
    async for endpoint, message_id, delivery in _deliveries(kafka):
        newest.pop((endpoint, message_id), None)
        if delivery is not None:
            newest[endpoint, message_id] = delivery
    return list(newest.values())


async def forget(kafka: KafkaSettings, deliveries: Iterable[Delivery]) -> None:
    """Take deliveries away, so that a worker that starts after it sends their messages again, under the same ids.

    Raises:
        KafkaProblem: the brokers do not answer or deny access.
    """
    topic = kafka.topic(Topic.DELIVERIES)
    async with RecordProducer(kafka) as producer:
        for one in deliveries:
            await (await producer.send(topic, 0, None, delivery_key(SINK, one.endpoint, one.id)))


def recorder(producer: RecordProducer, kafka: KafkaSettings) -> Record:
    """Writes deliveries to their topic; returns when Kafka has acknowledged."""
    topic = kafka.topic(Topic.DELIVERIES)

    async def record(delivery: Delivery) -> None:
        key = delivery_key(SINK, delivery.endpoint, delivery.id)
        await (await producer.send(topic, 0, encode_delivery(delivery), key))

    return record


async def _deliveries(kafka: KafkaSettings) -> AsyncIterator[tuple[str, str, Delivery | None]]:
    """Every record of this sink, with endpoint and message id; None for one that was taken away.

    Raises:
        InvalidRecord: at the end, if the newest record of a key is not of this version.
    """
    topic = kafka.topic(Topic.DELIVERIES)
    faults: dict[bytes, str] = {}
    async with PartitionReader(kafka, topic, 0) as reader:
        async for chunk in reader.read(*await reader.bounds()):
            for record in chunk:
                named = parse_delivery_key(record.key)
                if record.key is None or named is None or named[0] != SINK:
                    continue  # another sink's, or a probe of the broker
                try:
                    delivery = None if record.value is None else decode_delivery(record.value)
                except InvalidRecord as error:
                    faults[record.key] = f"offset {record.offset}: {error}"
                    continue
                faults.pop(record.key, None)
                yield named[1], named[2], delivery
    if faults:
        key, fault = next(iter(faults.items()))
        raise InvalidRecord(
            f"{topic}: {fault}; a newer version wrote it, which then must run, or somebody else: a record without a "
            f"value under its key, {key.decode()}, takes it away, and its message may be sent again"
        )
