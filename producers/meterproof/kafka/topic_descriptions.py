"""Topics as the brokers describe them."""

from dataclasses import dataclass
from typing import Any, Final

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from meterproof.kafka.connection import LAG_S, admin_client, describe_topics
from meterproof.kafka.errors import KafkaRefused, TopicMissing
from meterproof.kafka.settings import KafkaSettings

OK: Final = 0
"""Kafka's error code for none."""


@dataclass(frozen=True, slots=True)
class FoundTopic:
    """A topic as the brokers describe it."""

    partitions: int
    replicas: int
    """The smallest number of replicas of any partition."""
    ready: bool
    """Whether every partition has a leader."""


async def partitions_of(settings: KafkaSettings, topic: str) -> int:
    """Number of partitions of a topic, by its full name.

    Raises:
        TopicMissing: it does not exist.
        KafkaProblem: the brokers do not answer or deny access.
    """
    async with admin_client(settings) as admin:
        found = await describe_found(admin, [topic])
    if topic not in found:
        raise TopicMissing(topic)
    return found[topic].partitions


async def describe_found(admin: Any, names: list[str], *, patience_s: float = LAG_S) -> dict[str, FoundTopic]:  # noqa: ANN401
    """The topics of `names` that exist."""
    described = await describe_topics(admin, names, patience_s=patience_s)
    return {
        name: FoundTopic(
            partitions=len(topic["partitions"]),
            replicas=min((len(partition["replicas"]) for partition in topic["partitions"]), default=0),
            ready=topic["error_code"] == OK and all(partition["leader"] >= 0 for partition in topic["partitions"]),
        )
        for name, topic in described.items()
    }


async def read_configs(settings: KafkaSettings, admin: Any, names: list[str]) -> dict[str, dict[str, str]]:  # noqa: ANN401
    """Topic-level settings in force, by topic; one request per topic name, all at once."""
    if not names:
        return {}
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    configs = {}
    for answer in answers:
        for error_code, message, _, name, entries in answer.resources:
            if error_code != OK:
                raise KafkaRefused(settings.bootstrap, f"settings of {name}: {message or error_code}")
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs
