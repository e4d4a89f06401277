"""A topic that is deleted and made again is told from the one before, whatever stands on it."""

import asyncio

import pytest
from aiokafka.admin import NewTopic

from meterproof.kafka.connection import admin_client
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_ids import MadeAgain, topic_id
from meterproof.kafka.topic_reader import TopicReader
from meterproof_local.broker import LocalBroker

pytestmark = pytest.mark.broker

PATIENCE_S = 180


async def test_a_topic_that_is_made_again_has_another_id(broker: LocalBroker, topic_prefix: str) -> None:
    settings = KafkaSettings(bootstrap=broker.bootstrap)
    name = f"{topic_prefix}again"
    async with admin_client(settings) as admin, asyncio.timeout(PATIENCE_S):
        await admin.create_topics([NewTopic(name, 2, 1)])
        async with PartitionReader(settings, name, 1) as one, TopicReader(settings, name) as all_of_it:
            first = await one.topic_id()
            assert first is not None
            assert len(first) == 16
            assert await all_of_it.topic_id() == first
            looked = MadeAgain(one.topic_id)
            assert [await looked.look() for _ in range(3)] == [False, False, False]
            await admin.delete_topics([name])
            while await one.topic_id() is not None:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
            assert not await looked.look(), "it is away, and may come back"
            await admin.create_topics([NewTopic(name, 2, 1)])
            while (second := await one.topic_id()) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert second != first
            assert [await looked.look() for _ in range(3)] == [True, False, False]


async def test_a_broker_that_is_too_old_says_nothing() -> None:
    class OldBroker:
        def get_random_node(self) -> int:
            return 0

        async def send(self, node: int, request: object) -> None:
            raise NotImplementedError(node, request)

    assert await topic_id(OldBroker(), "any") is None
