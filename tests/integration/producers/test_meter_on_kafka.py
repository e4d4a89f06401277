"""The meter over a real broker: acknowledged means readable, and a refusal is got over."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from meterproof import DeliveryFailed, Meter, MeterSettings, ProducerKey
from meterproof._kafka_transport import KafkaTransport
from meterproof.kafka.connection import admin_client
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_local.broker import LocalBroker
from meterproof_schemas.batch import decode_batch
from meterproof_schemas.topics import Topic

pytestmark = pytest.mark.broker

PATIENCE_S = 180


async def batches_topic(kafka: KafkaSettings, **configs: str) -> str:
    """`usage.batches` alone, as a service sees it."""
    name = kafka.topic(Topic.BATCHES)
    async with admin_client(kafka) as admin:
        await admin.create_topics([NewTopic(name, 2, 1, topic_configs=configs)])
    return name


def meter(kafka: KafkaSettings) -> Meter:
    """A meter with a new key."""
    settings = MeterSettings(deployment="test", producer="p", source="s", key_file=Path("unused"), partitions=2)
    return Meter(settings, KafkaTransport(kafka), key=ProducerKey.generate())


async def ids(kafka: KafkaSettings) -> list[str]:
    """Ids of all events on the topic."""
    found: list[str] = []
    for partition in range(2):
        async with PartitionReader(kafka, kafka.topic(Topic.BATCHES), partition) as reader:
            async for chunk in reader.read(*await reader.bounds()):
                for record in chunk:
                    batch = decode_batch(record.value or b"")
                    assert batch.header.partition == partition
                    found += [line.split(b'"id":"')[1].split(b'"')[0].decode() for line in batch.lines]
    return found


async def record(open_meter: Meter, name: str, **fields: Any) -> None:
    """One event of an agent of its own."""
    await open_meter.record(agent=f"agent of {name}", customer="c", usage={"requests": 1}, id=name, **fields)


async def test_what_flush_returned_for_is_on_the_topic(broker: LocalBroker, topic_prefix: str) -> None:
    kafka = KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)
    await batches_topic(kafka)
    async with meter(kafka) as open_meter:
        for number in range(50):
            await record(open_meter, str(number))
        await open_meter.flush()
        assert sorted(map(int, await ids(kafka))) == list(range(50))


async def test_a_batch_that_kafka_refused_is_sent_again_by_flush(broker: LocalBroker, topic_prefix: str) -> None:
    kafka = KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)
    name = await batches_topic(kafka, **{"max.message.bytes": "3000"})
    async with meter(kafka) as open_meter:
        await record(open_meter, "large", receipt="x" * 4000)
        with pytest.raises(DeliveryFailed, match="1 events"):
            await open_meter.flush()
        await record(open_meter, "small")
        with pytest.raises(DeliveryFailed):
            await open_meter.flush()
        async with admin_client(kafka) as admin:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": "9000"})])
        async with asyncio.timeout(PATIENCE_S):
            while open_meter.buffered:  # the broker takes a moment to apply it
                with contextlib.suppress(DeliveryFailed):
                    await open_meter.flush()
    assert sorted(await ids(kafka)) == ["large", "small"]
