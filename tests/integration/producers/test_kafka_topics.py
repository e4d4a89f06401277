"""Creating and checking a deployment's topics on a real broker."""

import asyncio
from dataclasses import replace
from itertools import count

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition

from meterproof.kafka.errors import BrokerUnreachable, TopicMissing, TopicsRefused
from meterproof.kafka.geneses import read_geneses, read_genesis
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_check import TopicFault, check_topics
from meterproof.kafka.topic_descriptions import partitions_of
from meterproof.kafka.topics import CreateReport, Deployment, create_topics
from meterproof_local.broker import LocalBroker
from meterproof_schemas.checkpoint_record import genesis_key
from meterproof_schemas.log_record import decode_record, make_genesis
from meterproof_schemas.topics import TOPICS, Topic

pytestmark = pytest.mark.broker

PATIENCE_S = 180

DEPLOYMENT = Deployment(name="meter.example.com/test", deployment="test", partitions=3)


@pytest.fixture
def settings(broker: LocalBroker, topic_prefix: str) -> KafkaSettings:
    return KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)


_seeds = count(1)


async def create(settings: KafkaSettings, deployment: Deployment = DEPLOYMENT) -> CreateReport:
    seed = next(_seeds)
    return await create_topics(settings, deployment, now_ms=1_000, random_bytes=lambda size: bytes([seed]) * size)


async def records_of(
    settings: KafkaSettings, topic: Topic, partition: int = 0
) -> list[tuple[bytes | None, bytes | None]]:
    async with PartitionReader(settings, settings.topic(topic), partition) as reader:
        return [(record.key, record.value) async for chunk in reader.read(*await reader.bounds()) for record in chunk]


async def make_topic(settings: KafkaSettings, topic: Topic, partitions: int, **configs: str) -> None:
    """Create one topic by hand; names of settings with _ for dots."""
    (spec,) = (spec for spec in TOPICS if spec.topic is topic)
    wanted = {**spec.settings(), **{key.replace("_", "."): value for key, value in configs.items()}}
    admin = AIOKafkaAdminClient(**settings.client_args())
    await admin.start()
    answer = await admin.create_topics([NewTopic(settings.topic(topic), partitions, 1, topic_configs=wanted)])
    await admin.close()
    assert [error[1] for error in answer.topic_errors] == [0]


def of(faults: list[TopicFault], settings: KafkaSettings, topic: Topic) -> list[TopicFault]:
    return [fault for fault in faults if fault.topic == settings.topic(topic)]


async def test_create_makes_every_topic_and_one_genesis_per_log(settings: KafkaSettings) -> None:
    told: list[str] = []
    report = await create_topics(
        settings, DEPLOYMENT, now_ms=77, random_bytes=lambda size: b"\xab" * size, on_progress=told.append
    )
    assert set(report.created) == {settings.topic(topic) for topic in Topic}
    assert report.existing == ()
    assert report.epoch == "ab" * 16
    assert report.geneses_written == report.geneses_copied == (0, 1, 2)
    assert len(told) >= len(Topic) + 2
    kept = await read_geneses(settings)
    for partition, origin in enumerate(report.origins):
        assert origin == f"meter.example.com/test/{'ab' * 16}/p{partition}"
        ((key, value),) = await records_of(settings, Topic.LOG, partition)
        assert key is None
        genesis = decode_record(value).header.genesis
        assert genesis is not None
        assert (genesis.partition, genesis.partitions, genesis.created_ms) == (partition, 3, 77)
        assert genesis.source_topic == settings.topic(Topic.BATCHES)
        assert genesis.origin == origin
        assert kept[origin] == value
        assert await read_genesis(settings, partition) == genesis
    assert await check_topics(settings) == []
    assert await partitions_of(settings, settings.topic(Topic.BATCHES)) == 3
    assert await partitions_of(settings, settings.topic(Topic.CHECKPOINTS)) == 1


async def test_creating_again_changes_nothing(settings: KafkaSettings) -> None:
    first = await create(settings)
    before = [await records_of(settings, topic) for topic in (Topic.LOG, Topic.CHECKPOINTS)]
    again = await create(settings)
    assert (again.created, again.geneses_written, again.geneses_copied) == ((), (), ())
    assert set(again.existing) == set(first.created)
    assert (again.epoch, again.origins) == (first.epoch, first.origins)
    assert [await records_of(settings, topic) for topic in (Topic.LOG, Topic.CHECKPOINTS)] == before


async def test_a_create_that_was_cut_short_is_completed_under_the_same_epoch(settings: KafkaSettings) -> None:
    """Two topics and one genesis are there, nothing else."""
    await make_topic(settings, Topic.BATCHES, 3)
    await make_topic(settings, Topic.LOG, 3)
    genesis = make_genesis(
        name=DEPLOYMENT.name,
        epoch="cd" * 16,
        deployment=DEPLOYMENT.deployment,
        source_topic=settings.topic(Topic.BATCHES),
        partition=1,
        partitions=3,
        limits=DEPLOYMENT.limits(),
        created_ms=5,
    )
    async with RecordProducer(settings) as producer:
        await (await producer.send(settings.topic(Topic.LOG), 1, genesis))
    report = await create(settings)
    assert report.epoch == "cd" * 16
    assert report.geneses_written == (0, 2)
    assert report.geneses_copied == (0, 1, 2)
    assert len(await records_of(settings, Topic.LOG, 1)) == 1
    assert await check_topics(settings) == []


async def test_two_creates_at_the_same_time_end_in_one_state_or_say_so(settings: KafkaSettings) -> None:
    outcomes = await asyncio.gather(create(settings), create(settings), return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, CreateReport | TopicsRefused), outcome
    faults = await check_topics(settings)
    epochs = {(await read_genesis(settings, partition)).epoch for partition in range(3)}
    assert (faults == []) == (len(epochs) == 1)


@pytest.mark.parametrize(
    "other",
    [
        replace(DEPLOYMENT, name="other.example.com"),
        replace(DEPLOYMENT, deployment="other"),
        replace(DEPLOYMENT, partitions=2),
        replace(DEPLOYMENT, horizon_ms=1),
    ],
    ids=["name", "deployment", "partitions", "horizon"],
)
async def test_another_deployment_on_the_same_topics_is_refused(settings: KafkaSettings, other: Deployment) -> None:
    await create(settings)
    before = await records_of(settings, Topic.LOG)
    with pytest.raises(TopicsRefused, match="--prefix"):
        await create(settings, other)
    assert await records_of(settings, Topic.LOG) == before
    assert await check_topics(settings) == []


@pytest.mark.parametrize("name", ["", "https://meter.example.com", "two words", "a+b", "control\x07"])
async def test_a_name_that_checkpoints_cannot_carry_is_refused_before_anything_is_made(
    settings: KafkaSettings, name: str
) -> None:
    with pytest.raises(TopicsRefused, match="name"):
        await create(settings, replace(DEPLOYMENT, name=name))
    with pytest.raises(TopicMissing):
        await partitions_of(settings, settings.topic(Topic.LOG))


async def test_more_replicas_than_brokers_are_refused_with_kafkas_words(settings: KafkaSettings) -> None:
    with pytest.raises(TopicsRefused, match=r"(?i)replica.*run the same command again"):
        await create(settings, replace(DEPLOYMENT, replication_factor=3))


async def test_records_without_a_genesis_are_refused(settings: KafkaSettings) -> None:
    await make_topic(settings, Topic.LOG, 3)
    async with RecordProducer(settings) as producer:
        await (await producer.send(settings.topic(Topic.LOG), 2, b"something else\n"))
    with pytest.raises(TopicsRefused, match=r"usage\.log\[2\] holds records but no genesis"):
        await create(settings)


async def test_a_trimmed_log_takes_its_genesis_from_the_copy(settings: KafkaSettings) -> None:
    first = await create(settings)
    log = settings.topic(Topic.LOG)
    async with RecordProducer(settings) as producer:
        await (await producer.send(log, 0, b"whatever\n"))
    admin = AIOKafkaAdminClient(**settings.client_args())
    await admin.start()
    await admin.delete_records({TopicPartition(log, 0): RecordsToDelete(before_offset=1)})
    await admin.close()
    assert (await read_genesis(settings, 0)).origin == first.origins[0]
    assert (await create(settings)).origins == first.origins
    assert await check_topics(settings) == []
    async with RecordProducer(settings) as producer:  # the copy is lost as well
        await (await producer.send(settings.topic(Topic.CHECKPOINTS), 0, None, genesis_key(first.origins[0])))
    with pytest.raises(TopicsRefused, match="begins at offset 1, so its genesis was deleted"):
        await create(settings)
    (fault,) = of(await check_topics(settings), settings, Topic.LOG)
    assert "its genesis was deleted" in fault.fault


async def test_check_finds_missing_topics_and_names_the_command(settings: KafkaSettings) -> None:
    faults = await check_topics(settings)
    assert {fault.topic for fault in faults} == {settings.topic(topic) for topic in Topic}
    for fault in faults:
        assert fault.fault == "does not exist"
        assert fault.remedy.startswith("meterproof topics create --bootstrap ")
        assert f"--prefix {settings.topic_prefix} " in fault.remedy


async def test_check_finds_wrong_settings_and_prints_what_mends_them(settings: KafkaSettings) -> None:
    await make_topic(settings, Topic.BATCHES, 3, message_timestamp_type="CreateTime")
    await make_topic(settings, Topic.LOG, 3, cleanup_policy="compact", retention_ms="1000")
    await make_topic(settings, Topic.REJECTED, 3, max_message_bytes="1000")
    await make_topic(settings, Topic.ALERTS, 3, cleanup_policy="delete,compact")
    await make_topic(settings, Topic.CHECKPOINTS, 1, min_insync_replicas="2")
    await make_topic(settings, Topic.DELIVERIES, 1, retention_bytes="1000000")
    # min.insync.replicas of 2 on one replica takes no genesis copy, and a compacted topic no record without a key.
    faults = await check_topics(settings)

    def settings_fault(topic: Topic) -> TopicFault:
        return next(fault for fault in of(faults, settings, topic) if "genesis" not in fault.fault)

    batches = settings_fault(Topic.BATCHES)
    assert batches.fault == "message.timestamp.type is CreateTime and must be LogAppendTime"
    assert batches.remedy == (
        f"kafka-configs.sh --bootstrap-server {settings.bootstrap} --alter --entity-type topics "
        f"--entity-name {settings.topic(Topic.BATCHES)} --add-config message.timestamp.type=LogAppendTime"
    )
    log = settings_fault(Topic.LOG)
    assert log.fault == "cleanup.policy is compact and must be delete, retention.ms is 1000 and must be -1"
    assert "max.message.bytes is 1000" in settings_fault(Topic.REJECTED).fault
    assert "retention.bytes is 1000000" in settings_fault(Topic.DELIVERIES).fault
    assert "min.insync.replicas is 2 with 1 replicas" in settings_fault(Topic.CHECKPOINTS).fault
    assert of(faults, settings, Topic.ALERTS) == []
    assert [fault.fault for fault in of(faults, settings, Topic.LOG) if "genesis" in fault.fault] == [
        f"partition {partition} has no genesis" for partition in range(3)
    ]


async def test_check_finds_partitions_that_were_added(settings: KafkaSettings) -> None:
    await create(settings)
    admin = AIOKafkaAdminClient(**settings.client_args())
    await admin.start()
    await admin.create_partitions(
        {
            settings.topic(Topic.LOG): NewPartitions(4),
            settings.topic(Topic.CHECKPOINTS): NewPartitions(2),
        }
    )
    await admin.close()
    for topic, count_wanted in ((Topic.CHECKPOINTS, 2), (Topic.LOG, 4)):
        async with asyncio.timeout(PATIENCE_S):  # the broker answers before it knows of its new partitions itself
            while await partitions_of(settings, settings.topic(topic)) != count_wanted:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)
    faults = await check_topics(settings)
    log = [fault.fault for fault in of(faults, settings, Topic.LOG)]
    assert "partition 3 has no genesis" in log
    assert "has 4 partitions, its genesis says 3" in log
    assert [fault.fault for fault in of(faults, settings, Topic.BATCHES)] == ["has 3 partitions and must have 4"]
    assert [fault.fault for fault in of(faults, settings, Topic.CHECKPOINTS)] == ["has 2 partitions and must have 1"]


async def test_check_finds_a_copy_that_is_missing_or_different(settings: KafkaSettings) -> None:
    report = await create(settings)
    checkpoints = settings.topic(Topic.CHECKPOINTS)
    async with RecordProducer(settings) as producer:
        await (await producer.send(checkpoints, 0, None, genesis_key(report.origins[0])))
        await (await producer.send(checkpoints, 0, b"another\n", genesis_key(report.origins[1])))
    faults = [fault.fault for fault in of(await check_topics(settings), settings, Topic.CHECKPOINTS)]
    assert faults == [
        f"lacks the genesis of {report.origins[0]}",
        f"holds another genesis of {report.origins[1]} than {settings.topic(Topic.LOG)}[1]",
    ]


async def test_check_finds_a_source_of_another_name_and_mixed_epochs(settings: KafkaSettings) -> None:
    await create(settings, replace(DEPLOYMENT, partitions=1))
    foreign = KafkaSettings(bootstrap=settings.bootstrap, topic_prefix=f"{settings.topic_prefix}other.")
    await make_topic(foreign, Topic.LOG, 2)
    async with RecordProducer(foreign) as producer:
        for partition in range(2):
            genesis = make_genesis(
                name=DEPLOYMENT.name,
                epoch=f"{partition:032x}",
                deployment=DEPLOYMENT.deployment,
                source_topic=settings.topic(Topic.BATCHES),
                partition=1 - partition,
                partitions=2,
                limits=DEPLOYMENT.limits(),
                created_ms=5,
            )
            await (await producer.send(foreign.topic(Topic.LOG), partition, genesis))
    faults = [fault.fault for fault in of(await check_topics(foreign), foreign, Topic.LOG)]
    assert any("names" in fault and settings.topic(Topic.BATCHES) in fault for fault in faults)
    assert "partition 0 holds the log of partition 1" in faults
    assert any("different epochs" in fault for fault in faults)


async def test_what_is_not_there_is_named(settings: KafkaSettings) -> None:
    with pytest.raises(TopicMissing, match=r"usage\.batches does not exist"):
        await partitions_of(settings, settings.topic(Topic.BATCHES))
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1 does not answer"):
        await check_topics(KafkaSettings(bootstrap="127.0.0.1:1"))
