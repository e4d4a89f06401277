"""Whether logs are still the ones that were read is looked at over one connection, again and again."""

import asyncio

import pytest
from aiokafka.admin import NewTopic

from meterproof.kafka.connection import admin_client
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_local.broker import LocalBroker
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.log_record import record_digest
from meterproof_stream.log_watch import LogWatch

pytestmark = pytest.mark.broker
PATIENCE_S = 120
INTERVAL_S = 0.02
PARTITIONS = 3


async def create(settings: KafkaSettings, topic: str) -> None:
    """A topic with two records in each partition; a name that is being given free is waited for."""
    async with asyncio.timeout(PATIENCE_S), admin_client(settings) as admin:
        while True:
            answer = await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
            if not answer.topic_errors[0][1]:
                break
            await asyncio.sleep(0.05)
    async with RecordProducer(settings) as producer:
        for partition in range(PARTITIONS):
            for number in range(2):
                await (await producer.send(topic, partition, b"%d %d" % (partition, number)))


async def looked(reads: list[int], times: int) -> None:
    """Wait until each log was looked at so often."""
    async with asyncio.timeout(PATIENCE_S):
        while any(reads.count(partition) < times for partition in range(PARTITIONS)):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The partitions that a record was read from, in order."""
    found: list[int] = []
    at = PartitionReader.at

    async def noted(self: PartitionReader, offset: int) -> object:
        record = await at(self, offset)
        found.append(self._partition.partition)
        return record

    monkeypatch.setattr(PartitionReader, "at", noted)
    return found


@pytest.mark.parametrize("change", ["another record", "truncated", "created again", "deleted"])
async def test_every_log_is_looked_at_until_one_is_not_what_was_read(
    broker: LocalBroker, topic_prefix: str, reads: list[int], change: str
) -> None:
    settings, topic = KafkaSettings(bootstrap=broker.bootstrap), f"{topic_prefix}watched"
    await create(settings, topic)
    watch = LogWatch(settings, topic, INTERVAL_S)
    for partition in range(PARTITIONS):
        watch.remember(partition, 1, record_digest(b"%d 1" % partition))
    running = asyncio.create_task(watch.run())
    await looked(reads, 3)
    assert not running.done()
    match change:
        case "another record":
            watch.remember(2, 1, record_digest(b"2 0"))
        case "truncated":
            watch.remember(2, 2, record_digest(b"2 2"))
        case _:
            async with admin_client(settings) as admin:
                await admin.delete_topics([topic])
            if change == "created again":
                watch.remember(0, 0, record_digest(b"0 0"))  # which stands there again
                watch.remember(1, 0, record_digest(b"1 0"))
                watch.remember(2, 5, record_digest(b"2 5"))
                await create(settings, topic)
    with pytest.raises(StageStopped, match=rf"{topic}\[\d\] no longer holds the record") as stopped:
        await asyncio.wait_for(running, PATIENCE_S)
    if change in {"another record", "truncated"}:
        assert f"{topic}[2]" in str(stopped.value)


async def test_what_is_remembered_while_it_runs_is_looked_at(
    broker: LocalBroker, topic_prefix: str, reads: list[int]
) -> None:
    settings, topic = KafkaSettings(bootstrap=broker.bootstrap), f"{topic_prefix}late"
    await create(settings, topic)
    watch = LogWatch(settings, topic, INTERVAL_S)
    running = asyncio.create_task(watch.run())
    for partition in range(PARTITIONS):
        watch.remember(partition, 0, record_digest(b"%d 0" % partition))
    await looked(reads, 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
