"""A topic of one partition that is small enough to be read from its beginning at each start."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from meterproof.kafka.errors import BrokerUnreachable, OffsetBeyondEnd, OffsetTrimmed
from meterproof.kafka.reader import PartitionReader, Record
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_ids import MadeAgain
from meterproof_schemas.topics import Topic

LOOK_INTERVAL_S: Final = 5.0
"""How often it is looked whether a topic was made again."""
_RETRY_S: Final = 0.2
_POLL_S: Final = 1.0
"""How long a poll waits for records: bounds how long a stop takes."""


async def follow_small_topic(
    settings: KafkaSettings, topic: Topic, offer: Callable[[Record], Awaitable[None]], *, stop: asyncio.Event
) -> None:
    """Offer every record of a topic, from the first one kept, until `stop` is set; a broker that is away is waited for.

    A topic that was cut off, or deleted and made again, is offered again from its beginning.

    Raises:
        KafkaProblem: the topic is missing.
        Exception: whatever `offer` raises.
    """
    async with PartitionReader(settings, settings.topic(topic), 0) as reader:
        made_again = MadeAgain(reader.topic_id, interval_s=LOOK_INTERVAL_S)
        from_beginning = True
        while not stop.is_set():
            try:
                from_beginning |= await made_again.look()
                if from_beginning:
                    await reader.seek((await reader.bounds())[0])
                    from_beginning = False
                records = await reader.poll(_POLL_S)
            except (OffsetBeyondEnd, OffsetTrimmed):
                from_beginning = True
                continue
            except BrokerUnreachable:
                await asyncio.sleep(_RETRY_S)  # the client keeps on trying; a broker's restart must not stop the worker
                continue
            for record in records:
                await offer(record)
