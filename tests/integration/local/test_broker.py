"""The local broker keeps what it promises, on real processes and real files."""

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from meterproof_local.broker import Broker, LocalBroker


async def _create(broker: Broker, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap, **broker.client_args)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
        assert [error[1] for error in answer.topic_errors] == [0]
    finally:
        await admin.close()


async def _produce(broker: Broker, topic: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", enable_idempotence=True)
    async with producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def _consume(broker: Broker, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    async with consumer:
        return [(await asyncio.wait_for(consumer.getone(), 30)).value for _ in range(count)]


def test_records_go_in_and_come_out(broker: LocalBroker, topic_prefix: str) -> None:
    async def scenario() -> list[bytes]:
        await _create(broker, topic_prefix + "a")
        await _produce(broker, topic_prefix + "a", [b"1", b"2", b"3"])
        return await _consume(broker, topic_prefix + "a", 3)

    assert asyncio.run(scenario()) == [b"1", b"2", b"3"]
