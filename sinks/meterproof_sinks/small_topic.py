"""A topic of one partition that is small enough to be read from its beginning at each start."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from meterproof.kafka.errors import BrokerUnreachable
from meterproof.kafka.reader import PartitionReader, Record
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.topics import Topic

_POLL_S: Final = 1.0
"""How long a poll waits for records: bounds how long a stop takes."""


async def follow_small_topic(
    settings: KafkaSettings, topic: Topic, offer: Callable[[Record], Awaitable[None]], *, stop: asyncio.Event
) -> None:
    """Offer every record of a topic, from the first one kept, until `stop` is set; a broker that is away is waited for.

    Raises:
        KafkaProblem: the topic is missing or was re-created.
        Exception: whatever `offer` raises.
    """
    async with PartitionReader(settings, settings.topic(topic), 0) as reader:
        start, _ = await reader.bounds()
        await reader.seek(start)
        while not stop.is_set():
            try:
                records = await reader.poll(_POLL_S)
            except BrokerUnreachable:
                continue  # the client keeps on trying; a broker's restart must not stop the worker
            for record in records:
                await offer(record)
