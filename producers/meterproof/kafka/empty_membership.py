"""A static member that would get an assignment back which leaves partitions to nobody."""

from typing import Any, Final

import aiokafka.errors
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from meterproof.kafka.connection import admin_client
from meterproof.kafka.group_members import remove_member
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_descriptions import partitions_of

_STABLE: Final = "Stable"


async def leave_if_partitions_are_nobodys(settings: KafkaSettings, group: str, instance: str, topic: str) -> bool:
    """Before a static member joins: take its old membership out of a group that leaves partitions to nobody.

    A static member that comes back within its session is given what it had, without a new assignment. Where the group
    last assigned while the topic did not exist (it was deleted and created again), that is nothing, for as long as
    nobody else joins: the worker would live, be well, and take nothing. A membership that is taken out first makes the
    join a new one, and the group assigns anew.

    Returns whether it was taken out.

    Raises:
        KafkaProblem: the brokers do not answer or deny access.
    """
    async with admin_client(settings) as admin:
        assigned = await _assigned(admin, group, topic)
    if assigned is None or len(assigned) >= await partitions_of(settings, topic):
        return False
    return await remove_member(settings, group, instance)


async def _assigned(admin: Any, group: str, topic: str) -> set[int] | None:  # noqa: ANN401 - the library's admin client
    """The partitions of a topic that a settled group has assigned; None where it has no members, or is at it."""
    found: set[int] = set()
    try:
        answers = await admin.describe_consumer_groups([group])
    except aiokafka.errors.GroupCoordinatorNotAvailableError:  # no group was ever here
        return None
    for answer in answers:
        for group_answer in answer.groups:
            state, members = group_answer[2], group_answer[5]
            if state != _STABLE:
                return None
            for member in members:
                if assignment := member[4]:
                    decoded = ConsumerProtocolMemberAssignment.decode(assignment)
                    found |= {number for name, numbers in decoded.assignment if name == topic for number in numbers}
    return found
