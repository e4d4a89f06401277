"""The meter's transport over Kafka: idempotent, acknowledged by all in-sync replicas."""

import asyncio
from typing import cast

from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import partitions_of
from meterproof_schemas.topics import Topic


class KafkaTransport:
    """A `Transport` to the deployment's `usage.batches`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self.topic = settings.topic(Topic.BATCHES)
        self._producer = RecordProducer(settings)

    async def open(self) -> int:
        """See `Transport.open`."""
        await self._producer.start()
        try:
            return await partitions_of(self._settings, self.topic)
        except BaseException:
            await self._producer.stop()
            raise

    async def send(self, partition: int, value: bytes) -> asyncio.Future[object]:
        """See `Transport.send`."""
        return cast("asyncio.Future[object]", await self._producer.send(self.topic, partition, value))

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._producer.stop()
