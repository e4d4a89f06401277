"""The meter's transport over Kafka: idempotent, acknowledged by all in-sync replicas."""

import asyncio

from meterproof.kafka.producer import Delivery, RecordProducer
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_descriptions import partitions_of
from meterproof_schemas.topics import Topic


class KafkaTransport:
    """A `Transport` to the deployment's `usage.batches`.

    An idempotent producer that was refused a record refuses all later ones of that partition, so after a refusal the
    next send goes through a new producer.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self.topic = settings.topic(Topic.BATCHES)
        self._producer = RecordProducer(settings)
        self._refused = False

    async def open(self) -> int:
        """See `Transport.open`."""
        await self._producer.start()
        try:
            return await partitions_of(self._settings, self.topic)
        except BaseException:
            await self._producer.stop()
            raise

    async def send(self, partition: int, value: bytes) -> asyncio.Future[Delivery]:
        """See `Transport.send`."""
        if self._refused:
            await self._producer.stop()
            self._producer = RecordProducer(self._settings)
            await self._producer.start()
            self._refused = False
        try:
            delivery = await self._producer.send(self.topic, partition, value)
        except Exception:
            self._refused = True
            raise
        delivery.add_done_callback(self._note)
        return delivery

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._producer.stop()

    def _note(self, delivery: asyncio.Future[Delivery]) -> None:
        self._refused |= delivery.cancelled() or delivery.exception() is not None
