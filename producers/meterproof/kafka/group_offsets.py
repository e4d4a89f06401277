"""How far the consumer groups of others have read a partition, as they have told the brokers."""

from collections.abc import Collection

from aiokafka import TopicPartition

from meterproof.kafka.connection import admin_client
from meterproof.kafka.settings import KafkaSettings


async def read_group_offsets(
    settings: KafkaSettings, topic: str, partition: int, *, ignored: Collection[str] = ()
) -> dict[str, int]:
    """By group that has committed an offset of the partition: the offset that it will read next.

    A reader without a group, or one that commits nothing, is known to nobody.

    Raises:
        KafkaProblem: the brokers do not answer or deny access.
    """
    place, found = TopicPartition(topic, partition), {}
    async with admin_client(settings) as admin:
        for group, _ in await admin.list_consumer_groups():
            if group in ignored:
                continue
            committed = (await admin.list_consumer_group_offsets(group, partitions=[place])).get(place)
            if committed is not None and committed.offset >= 0:
                found[group] = committed.offset
    return found
