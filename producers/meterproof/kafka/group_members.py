"""Taking a static member out of its group, for good.

A static member (`group.instance.id`) keeps its place when it stops, so that it finds it again; one that does not come
back holds its partitions until the session timeout. This removes it at once, as Kafka's own
`removeMembersFromConsumerGroup` does: a LeaveGroup request of version 3, by instance and without a member id
(KIP-345), which the client library does not have.
"""

import asyncio
from typing import Any, Final

import aiokafka.errors
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int16, Int32, Schema, String

from meterproof.kafka.connection import admin_client
from meterproof.kafka.errors import BrokerUnreachable
from meterproof.kafka.settings import KafkaSettings

PATIENCE_S: Final = 10.0
"""How long a group's coordinator may move or start before removing is given up."""
_RETRY_S: Final = 0.1
_UNKNOWN_MEMBER: Final = 25
_PASSING: Final = frozenset({14, 15, 16})
"""Coordinator loads, is not available, or is another one by now."""


async def remove_member(settings: KafkaSettings, group: str, instance: str, *, patience_s: float = PATIENCE_S) -> bool:
    """Take the static member `instance` out of `group`; False if it is none of its members.

    The others get its partitions with their next heartbeat. A process that still runs under this name joins again.

    Raises:
        BrokerUnreachable: no answer within `patience_s`.
        KafkaProblem: the brokers refuse.
    """
    try:
        async with asyncio.timeout(patience_s), admin_client(settings) as admin:
            while True:
                try:
                    code = await _leave(admin, group, instance)
                except aiokafka.errors.GroupCoordinatorNotAvailableError:
                    code = 15
                if code not in _PASSING:
                    break
                await asyncio.sleep(_RETRY_S)
            if code not in {0, _UNKNOWN_MEMBER}:
                raise aiokafka.errors.for_code(code)
    except TimeoutError:
        cause = f"the coordinator of group {group} did not answer"
        raise BrokerUnreachable(settings.bootstrap, cause) from None
    return code == 0


async def _leave(admin: Any, group: str, instance: str) -> int:  # noqa: ANN401 - the library's admin client
    coordinator = await admin.find_coordinator(group)
    answer = await admin._send_request_to_node(coordinator, _LeaveGroup(group, instance))  # noqa: SLF001
    member_code: int = answer.members[0][2] if answer.members else 0
    return answer.error_code or member_code


class _LeaveGroupResponse(Response):  # type: ignore[misc]  # the library has no types
    """Kafka protocol guide: LeaveGroup Response, version 3."""

    API_KEY = 13
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        (
            "members",
            Array(("member_id", String("utf-8")), ("group_instance_id", String("utf-8")), ("error_code", Int16)),
        ),
    )


class _LeaveGroupRequest(RequestStruct):  # type: ignore[misc]
    """Kafka protocol guide: LeaveGroup Request, version 3."""

    API_KEY = 13
    API_VERSION = 3
    RESPONSE_TYPE = _LeaveGroupResponse
    SCHEMA = Schema(
        ("group_id", String("utf-8")),
        ("members", Array(("member_id", String("utf-8")), ("group_instance_id", String("utf-8")))),
    )


class _LeaveGroup(Request[_LeaveGroupRequest]):  # type: ignore[misc]
    API_KEY = 13

    def __init__(self, group: str, instance: str) -> None:
        self._group = group
        self._instance = instance

    def build(self, request_struct_class: type[_LeaveGroupRequest]) -> _LeaveGroupRequest:
        return request_struct_class(self._group, [("", self._instance)])
