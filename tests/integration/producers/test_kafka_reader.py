"""Records to and from one partition of a real broker."""

import asyncio

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.structs import TopicPartition

from meterproof.kafka.errors import (
    AccessDenied,
    BrokerUnreachable,
    DeliveryRefused,
    OffsetBeyondEnd,
    OffsetTrimmed,
    TopicMissing,
)
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader, Record
from meterproof.kafka.settings import KafkaSettings
from meterproof_local.broker import LocalBroker

pytestmark = pytest.mark.broker

PATIENCE_S = 180


@pytest.fixture
def settings(broker: LocalBroker) -> KafkaSettings:
    return KafkaSettings(bootstrap=broker.bootstrap)


class NotText:
    """A header key that the library encodes to bytes that are not UTF-8."""

    def encode(self, encoding: str) -> bytes:
        assert encoding == "utf-8"
        return b"\xff\xfe"


async def create_topic(
    settings: KafkaSettings, name: str, partitions: int = 1, max_message_bytes: int = 1_048_576
) -> None:
    configs = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(max_message_bytes)}
    admin = AIOKafkaAdminClient(**settings.client_args())
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])
        assert [error[1] for error in answer.topic_errors] == [0]
    finally:
        await admin.close()


async def produce(settings: KafkaSettings, topic: str, values: list[bytes], partition: int = 0) -> list[int]:
    async with RecordProducer(settings) as producer:
        sent = [await producer.send(topic, partition, value) for value in values]
        return [(await delivery).offset for delivery in sent]


async def read_all(reader: PartitionReader, start: int, end: int) -> list[Record]:
    return [record async for chunk in reader.read(start, end) for record in chunk]


async def test_records_come_back_in_order_with_their_offsets(settings: KafkaSettings, topic_prefix: str) -> None:
    topic = f"{topic_prefix}order"
    await create_topic(settings, topic, 2, max_message_bytes=2621440)
    values = [b"%d" % number for number in range(5_000)] + [bytes(2 * 1024 * 1024), b"last"]
    async with RecordProducer(settings) as producer:
        sent = [await producer.send(topic, 1, value, key=b"k%d" % (len(value) % 3)) for value in values]
        deliveries = await asyncio.gather(*sent)
    assert [delivery.offset for delivery in deliveries] == list(range(len(values)))
    async with PartitionReader(settings, topic, 1) as reader:
        assert await reader.bounds() == (0, len(values))
        records = await read_all(reader, 0, len(values))
        assert [(record.offset, record.value) for record in records] == list(enumerate(values))
        assert all(record.append_time for record in records)
        assert [record.timestamp_ms for record in records] == [delivery.timestamp_ms for delivery in deliveries]
        assert records[7].key == b"k1"
        assert [record.offset for record in await read_all(reader, 17, 19)] == [17, 18]
        found = await reader.at(4_321)
        assert found is not None
        assert found.value == b"4321"
        assert await reader.at(len(values)) is None
    async with PartitionReader(settings, topic, 0) as reader:
        assert await read_all(reader, 0, 0) == []


async def test_calls_of_send_that_wait_keep_their_order(settings: KafkaSettings, topic_prefix: str) -> None:
    topic = f"{topic_prefix}concurrent"
    await create_topic(settings, topic)
    async with RecordProducer(settings) as producer:

        async def send(value: bytes) -> int:
            return (await (await producer.send(topic, 0, value))).offset

        sends = []
        for number in range(120):
            sends.append(asyncio.create_task(send(bytes([number]) + bytes(300_000))))
            # Calls come at every moment, also at those when the buffer has just been emptied for others that wait.
            await asyncio.sleep(0.002 * (number % 3))
        assert await asyncio.gather(*sends) == list(range(120))


async def test_other_methods_between_two_chunks_do_not_disturb_a_read(
    settings: KafkaSettings, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}interleaved"
    await create_topic(settings, topic)
    await produce(settings, topic, [b"%d" % number for number in range(5_000)])
    offsets = []
    async with PartitionReader(settings, topic, 0) as reader:
        async for chunk in reader.read(0, 5_000):
            offsets += [record.offset for record in chunk]
            assert (await reader.at(3)) is not None
            assert (await reader.at(offsets[-1])) is not None  # which leaves the position where the read goes on
    assert offsets == list(range(5_000))


async def test_markers_of_transactions_are_holes_that_hang_nothing(settings: KafkaSettings, topic_prefix: str) -> None:
    topic = f"{topic_prefix}transactions"
    await create_topic(settings, topic)
    producer = AIOKafkaProducer(**settings.client_args(), transactional_id=f"{topic_prefix}id")
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait(topic, b"committed", partition=0)
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted", partition=0)
        await producer.abort_transaction()
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"open", partition=0)
        async with PartitionReader(settings, topic, 0) as reader:
            assert await reader.bounds() == (0, 5)
            open_transaction = await read_all(reader, 0, 5)
        await producer.abort_transaction()
    finally:
        await producer.stop()
    committed = [(0, b"committed"), (2, b"aborted"), (4, b"open")]
    assert [(record.offset, record.value) for record in open_transaction] == committed
    async with PartitionReader(settings, topic, 0) as reader:
        async with asyncio.timeout(PATIENCE_S):
            # That it is aborted was decided; the brokers write so afterwards.
            while (bounds := await reader.bounds())[1] < 6:
                pass
            start, end = bounds
            assert (start, end) == (0, 6)
            assert [record.offset for record in await read_all(reader, 0, end)] == [0, 2, 4]
            assert await read_all(reader, 5, end) == []
            assert await read_all(reader, 1, 2) == []
            assert await reader.at(5) is None
            assert await reader.at(1) is None
            assert (await reader.at(2)) is not None


@pytest.mark.parametrize("compression", [0, 3], ids=["plain", "lz4"])
async def test_a_header_key_that_is_not_utf8_is_read(
    settings: KafkaSettings, topic_prefix: str, compression: int
) -> None:
    topic = f"{topic_prefix}header"
    await create_topic(settings, topic)

    producer = AIOKafkaProducer(**settings.client_args())
    await producer.start()
    batch = producer.create_batch()
    batch._builder = _DefaultRecordBatchBuilderPy(2, compression, False, -1, -1, 0, 16384)
    for value, headers in ((b"before", []), (b"poisoned", [(NotText(), b"value")]), (b"behind", [])):
        batch.append(key=None, value=value, timestamp=None, headers=headers)
    await producer.send_batch(batch, topic, partition=0)
    await producer.send_and_wait(topic, b"next batch", partition=0)
    await producer.stop()
    async with PartitionReader(settings, topic, 0) as reader:
        _, end = await reader.bounds()
        records = await read_all(reader, 0, end)
    assert [record.value for record in records] == [b"before", b"poisoned", b"behind", b"next batch"]


async def test_offsets_outside_of_the_partition_raise(settings: KafkaSettings, topic_prefix: str) -> None:
    topic = f"{topic_prefix}trimmed"
    await create_topic(settings, topic)
    await produce(settings, topic, [b"%d" % number for number in range(10)])
    admin = AIOKafkaAdminClient(**settings.client_args())
    await admin.start()
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=4)})
    await admin.close()
    async with PartitionReader(settings, topic, 0) as reader:
        assert await reader.bounds() == (4, 10)
        with pytest.raises(OffsetTrimmed, match=r"offset 3 .* begins at 4"):
            await read_all(reader, 3, 10)
        with pytest.raises(OffsetBeyondEnd, match=r"offset 11 .* ends at 10"):
            await read_all(reader, 4, 11)
        assert await reader.at(3) is None
        assert len(await read_all(reader, 4, 10)) == 6


async def test_what_does_not_exist_is_named(settings: KafkaSettings, topic_prefix: str) -> None:
    topic = f"{topic_prefix}exists"
    await create_topic(settings, topic)
    with pytest.raises(TopicMissing, match="topics create"):
        await PartitionReader(settings, f"{topic_prefix}nothing", 0).start()
    with pytest.raises(TopicMissing, match="partition 1 of topic"):
        await PartitionReader(settings, topic, 1).start()
    async with RecordProducer(settings) as producer:
        with pytest.raises(TopicMissing, match="partition 1 of topic"):
            await producer.send(topic, 1, b"value")


async def test_a_record_that_the_broker_refuses_says_why(settings: KafkaSettings, topic_prefix: str) -> None:
    topic = f"{topic_prefix}small"
    await create_topic(settings, topic, max_message_bytes=1000)
    async with RecordProducer(settings) as producer:
        with pytest.raises(DeliveryRefused, match="larger than the maximum request size"):
            await producer.send(topic, 0, bytes(3 * 1024 * 1024))
        with pytest.raises(DeliveryRefused, match="MessageSizeTooLarge"):
            await (await producer.send(topic, 0, bytes(2000)))
    with pytest.raises(DeliveryRefused, match="not started, or stopped"):
        await producer.send(topic, 0, b"late")


async def test_a_topic_that_does_not_exist_is_named_by_send_as_well(broker: LocalBroker, topic_prefix: str) -> None:
    # So long it looks for the topic; and so long a busy broker may take to answer.
    async with RecordProducer(KafkaSettings(bootstrap=broker.bootstrap, request_timeout_s=5)) as producer:
        with pytest.raises(TopicMissing, match="topics create"):
            await producer.send(f"{topic_prefix}nothing", 0, b"value")


async def test_records_wait_for_a_broker_that_restarts_and_stop_gives_up_on_one_that_does_not(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with LocalBroker(tmp_path_factory.mktemp("outage")) as broker:
        settings = KafkaSettings(bootstrap=broker.bootstrap)
        await create_topic(settings, "outage")
        producer = RecordProducer(settings)
        await producer.start()
        assert (await (await producer.send("outage", 0, b"before"))).offset == 0
        broker.kill()
        waiting = [await producer.send("outage", 0, b"%d" % number) for number in range(3)]
        await asyncio.sleep(0.5)
        broker.restart()
        assert [(await delivery).offset for delivery in waiting] == [1, 2, 3]
        broker.kill()
        lost = await producer.send("outage", 0, b"lost")
        async with asyncio.timeout(PATIENCE_S):
            await producer.stop(timeout_s=0.5)
        with pytest.raises(DeliveryRefused, match="stopped before Kafka acknowledged"):
            await lost


async def test_credentials_that_the_broker_does_not_take_are_named(broker: LocalBroker) -> None:
    settings = KafkaSettings(
        bootstrap=broker.bootstrap, security_protocol="SASL_PLAINTEXT", sasl_username="meter", sasl_password="no"
    )
    with pytest.raises(AccessDenied, match="METERPROOF_KAFKA_SASL_USERNAME"):
        await RecordProducer(settings).start()


async def test_a_broker_that_is_not_there_is_named_with_the_cause() -> None:
    settings = KafkaSettings(bootstrap="127.0.0.1:1")
    for client in (RecordProducer(settings), PartitionReader(settings, "topic", 0)):
        with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1 .*Connect.*METERPROOF_KAFKA_BOOTSTRAP"):
            await client.start()
