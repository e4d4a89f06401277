"""`TopicEnds`: where the partitions of a topic end, asked again and again by whoever watches progress."""

import asyncio
from collections.abc import Collection
from typing import Any, Final

import aiokafka.errors
from aiokafka import AIOKafkaConsumer, TopicPartition

from meterproof.kafka.connection import start_client, translated
from meterproof.kafka.errors import BrokerUnreachable
from meterproof.kafka.settings import KafkaSettings

ANSWER_TIMEOUT_S: Final = 5.0
"""After which a broker counts as one that does not answer."""
_STOP_TIMEOUT_S: Final = 2.0


class TopicEnds:
    """Asks the brokers, over a connection of its own, so that an answer says that they answer.

    Promises: an answer or an error within about `ANSWER_TIMEOUT_S`; after an error the next question connects anew.
    Lives until `stop`; one task asks.
    """

    def __init__(self, settings: KafkaSettings, topic_name: str) -> None:
        self._settings = settings
        self._topic = topic_name
        self._consumer: Any = None

    async def ask(self, partitions: Collection[int]) -> dict[int, int]:
        """By partition, the offset that its next record will get.

        Raises:
            BrokerUnreachable: no answer in time.
            KafkaProblem: the brokers refuse.
        """
        places = [TopicPartition(self._topic, partition) for partition in partitions]
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                if self._consumer is None:
                    await self._connect()
                ends = await self._consumer.end_offsets(places)
        except TimeoutError:
            await self.stop()
            raise BrokerUnreachable(self._settings.bootstrap, "no answer to a request for offsets") from None
        except aiokafka.errors.KafkaError as error:
            await self.stop()
            raise translated(self._settings, error) from error
        return {at.partition: end for at, end in ends.items()}

    async def stop(self) -> None:
        """Disconnect; harmless when repeated."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await asyncio.wait([asyncio.ensure_future(consumer.stop())], timeout=_STOP_TIMEOUT_S)

    async def _connect(self) -> None:
        consumer = AIOKafkaConsumer(**self._settings.client_args(), group_id=None, enable_auto_commit=False)
        await start_client(self._settings, consumer)
        self._consumer = consumer
