"""All partitions of a topic on a real broker, without a group."""

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition

from meterproof.kafka.connection import admin_client
from meterproof.kafka.errors import OffsetTrimmed, TopicMissing
from meterproof.kafka.reader import Record
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_ends import TopicEnds
from meterproof.kafka.topic_reader import TopicReader
from meterproof_local.broker import LocalBroker
from tests.integration.producers.test_kafka_reader import create_topic, produce

pytestmark = pytest.mark.broker


@pytest.fixture
def settings(broker: LocalBroker) -> KafkaSettings:
    return KafkaSettings(bootstrap=broker.bootstrap)


async def aborted(settings: KafkaSettings, topic: str, partition: int) -> None:
    """A record of a transaction that is aborted: it stands there, with a marker behind it that is no record.

    The answer to an abort says that it was decided; the brokers write the marker afterwards.
    """
    async with AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap, transactional_id=f"{topic}{partition}"
    ) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted", partition=partition)
        await producer.abort_transaction()
    ends = TopicEnds(settings, topic)
    while (await ends.ask([partition]))[partition] < 2:
        pass
    await ends.stop()


async def until(reader: TopicReader) -> dict[int, list[bytes | None]]:
    found: dict[int, list[bytes | None]] = {}
    async for partition, record in reader.read_until(await reader.bounds()):
        found.setdefault(partition, []).append(record.value)
    return found


async def some(reader: TopicReader) -> dict[int, list[Record]]:
    """The next records, however long they take."""
    while True:
        found = await reader.poll(1.0)
        if found:
            return found


async def test_every_partition_is_read_to_its_end_and_followed_from_there(
    settings: KafkaSettings, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}all"
    await create_topic(settings, topic, 4)
    values = [b"%d" % number for number in range(9_000)]
    await produce(settings, topic, values, partition=1)
    await produce(settings, topic, [b"trimmed", b"kept"], partition=2)
    async with admin_client(settings) as admin:
        await admin.delete_records({TopicPartition(topic, 2): RecordsToDelete(before_offset=1)})
    await aborted(settings, topic, 3)
    async with TopicReader(settings, topic) as reader:
        assert reader.partitions == 4
        assert await reader.bounds() == {0: (0, 0), 1: (0, 9_000), 2: (1, 2), 3: (0, 2)}
        assert await until(reader) == {1: values, 2: [b"kept"], 3: [b"aborted"]}
        await produce(settings, topic, [b"new"], partition=0)
        followed = await some(reader)
        assert {partition: [record.value for record in records] for partition, records in followed.items()} == {
            0: [b"new"]
        }
        reader.seek({0: 0, 1: 8_998, 2: 1, 3: 1})
        assert await until(reader) == {0: [b"new"], 1: values[-2:], 2: [b"kept"]}
        reader.seek({2: 0})
        with pytest.raises(OffsetTrimmed, match="offset 0 was asked for, but the partition begins at 1"):
            await some(reader)


async def test_a_topic_that_is_missing_is_named(settings: KafkaSettings, topic_prefix: str) -> None:
    with pytest.raises(TopicMissing, match=f"{topic_prefix}none"):
        await TopicReader(settings, f"{topic_prefix}none").start()
