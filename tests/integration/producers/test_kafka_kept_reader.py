"""`KeptReader` on a real broker: one connection for many looks; and single records of topics that go away meanwhile."""

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete

from meterproof.kafka import reader as kafka_reader
from meterproof.kafka.connection import admin_client
from meterproof.kafka.errors import TopicMissing
from meterproof.kafka.kept_reader import KeptReader
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_local.broker import LocalBroker

pytestmark = pytest.mark.broker
PATIENCE_S = 120


@pytest.fixture
async def settings(broker: LocalBroker) -> KafkaSettings:
    return KafkaSettings(bootstrap=broker.bootstrap)


@pytest.fixture
async def topic(settings: KafkaSettings, topic_prefix: str) -> str:
    """Three records in each of two partitions."""
    name = f"{topic_prefix}kept"
    async with admin_client(settings) as admin:
        await admin.create_topics([NewTopic(name, 2, 1)])
    async with RecordProducer(settings) as producer:
        for partition in range(2):
            for number in range(3):
                await (await producer.send(name, partition, b"%d %d" % (partition, number)))
    return name


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What became of connections, in order."""
    noted: list[str] = []
    start, stop = PartitionReader.start, PartitionReader.stop

    async def starting(self: PartitionReader) -> None:
        noted.append("start")
        await start(self)

    async def stopping(self: PartitionReader) -> None:
        noted.append("stop")
        await stop(self)

    monkeypatch.setattr(PartitionReader, "start", starting)
    monkeypatch.setattr(PartitionReader, "stop", stopping)
    return noted


async def look(kept: KeptReader, partition: int, offset: int) -> bytes | None:
    async with kept.of(partition) as reader:
        record = await reader.at(offset)
    return None if record is None else record.value


async def test_many_looks_over_one_connection_one_at_a_time(
    settings: KafkaSettings, topic: str, connected: list[str]
) -> None:
    kept = KeptReader(settings, topic)
    places = [(partition, offset) for offset in (2, 0, 1, 3) for partition in range(2)]
    found = await asyncio.gather(*(look(kept, *place) for place in places))
    assert found == [b"%d %d" % place if place[1] < 3 else None for place in places]
    assert connected == ["start"]
    await kept.stop()
    await kept.stop()
    assert connected == ["start", "stop"]


async def test_after_an_error_there_is_a_new_connection(
    settings: KafkaSettings, topic: str, connected: list[str]
) -> None:
    kept = KeptReader(settings, topic)

    async def fail() -> None:
        async with kept.of(0):
            raise ValueError("whatever it is")

    with pytest.raises(ValueError, match="whatever"):
        await fail()
    assert await look(kept, 1, 0) == b"1 0"
    assert connected == ["start", "stop", "start"]
    async with kept.of(0) as reader:
        await kept.stop()
        assert await reader.bounds() == (0, 3)
    assert connected == ["start", "stop", "start", "stop"]


@pytest.mark.parametrize("change", ["deleted", "trimmed"])
async def test_a_record_that_goes_away_between_two_requests_for_it_is_not_waited_for(
    settings: KafkaSettings, topic: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(kafka_reader, "_LOOKUP_S", 0.2)
    bounds = PartitionReader.bounds
    changed = False

    async def then_changed(self: PartitionReader) -> tuple[int, int]:
        nonlocal changed
        found = await bounds(self)
        if not changed:
            changed = True
            async with admin_client(settings) as admin:
                if change == "deleted":
                    await admin.delete_topics([topic])
                    while topic in await admin.list_topics():
                        pass
                else:
                    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=2)})
        return found

    monkeypatch.setattr(PartitionReader, "bounds", then_changed)
    async with asyncio.timeout(PATIENCE_S), PartitionReader(settings, topic, 0) as reader:
        if change == "deleted":
            with pytest.raises(TopicMissing):
                await reader.at(1)
        else:
            assert await reader.at(1) is None
            assert (await reader.at(2)) is not None
