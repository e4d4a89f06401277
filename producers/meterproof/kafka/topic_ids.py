"""Which topic it is that has a name: a topic that is deleted and created again has another id.

The client library reads Metadata up to version 5, and topics have ids from version 10 on: so request and response of
version 12 stand here. Format: Kafka protocol guide, "Metadata Request (Version: 12)".
"""

import time
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any, Final

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

_UUID_BYTES: Final = 16
_NO_ID: Final = bytes(_UUID_BYTES)


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]  # the library states no types
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(_UUID_BYTES)


class _Metadata12Response(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition_index", Int32),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("replica_nodes", CompactArray(Int32)),
                        ("isr_nodes", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("topic_authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Metadata12Struct(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = _Metadata12Response
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _Metadata12(Request[_Metadata12Struct]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[_Metadata12Struct]) -> _Metadata12Struct:
        return request_struct_class([(_NO_ID, self._topic, {})], False, False, {})


async def topic_id(client: Any, topic: str) -> bytes | None:  # noqa: ANN401 - the library's client
    """The id of the topic of this name; None while there is none, and from a broker older than Kafka 3.1.

    Raises:
        aiokafka.errors.KafkaError: no answer.
    """
    try:
        answer = await client.send(client.get_random_node(), _Metadata12(topic))
    except NotImplementedError:  # how the library says that the broker does not know this version
        return None
    found: bytes = answer.topics[0][2]
    return None if found == _NO_ID else found


class MadeAgain:
    """Whether a topic was deleted and made again since the last look. One task asks; lives as long as it wants to."""

    def __init__(self, ask: Callable[[], Awaitable[bytes | None]], *, interval_s: float = 0.0) -> None:
        """Know nothing yet.

        Args:
            ask: for the topic's id; None where there is none.
            interval_s: at most once in this time it is asked.

        """
        self._ask = ask
        self._interval_s = interval_s
        self._asked_s: float | None = None
        self._id: bytes | None = None

    async def look(self) -> bool:
        """True once for each time that the topic was made again, if that is known; the first look only notes its id.

        Raises:
            KafkaProblem: what `ask` raises.
        """
        now_s = time.monotonic()
        if self._asked_s is not None and now_s - self._asked_s < self._interval_s:
            return False
        found = await self._ask()
        self._asked_s = now_s
        if found is None or found == self._id:
            return False
        before, self._id = self._id, found
        return before is not None
