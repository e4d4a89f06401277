"""Every topic of a deployment: what it holds, how it is partitioned, kept and limited."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from meterproof_schemas.limits import RECORD_BYTES_MAX

_MEBIBYTE: Final = 1024 * 1024


class Topic(StrEnum):
    """Topic names without the deployment's prefix."""

    BATCHES = "usage.batches"
    LOG = "usage.log"
    CHECKPOINTS = "usage.checkpoints"
    ALERTS = "usage.alerts"
    BUDGET_STATE = "usage.budget-state"
    REJECTED = "usage.rejected"
    PRICE_BOOKS = "usage.price-books"
    DELIVERIES = "usage.deliveries"

    def named(self, prefix: str) -> str:
        """The topic's full name under a prefix (which may be empty)."""
        return f"{prefix}{self.value}"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How one topic must be set up; workers refuse to start on another setting."""

    topic: Topic
    partitioned: bool
    """Whether it has the deployment's number of partitions; otherwise one."""
    cleanup: Literal["delete", "compact", "compact,delete"]
    record_bytes_max: int
    """`max.message.bytes`: of one produced batch of records, so above the largest single record."""
    retention_ms: int
    """-1 keeps for ever: trimmed by our own job only, or compacted."""
    content: str

    def settings(self) -> dict[str, str]:
        """The topic-level settings, all of them, as Kafka names them."""
        return {
            "cleanup.policy": self.cleanup,
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(self.record_bytes_max),
            "retention.ms": str(self.retention_ms),
            "retention.bytes": "-1",
        }


_REJECTED_DAYS: Final = 30
_DAY_MS: Final = 24 * 3600 * 1000

TOPICS: Final = (
    TopicSpec(Topic.BATCHES, True, "delete", _MEBIBYTE * 5 // 4, -1, "signed batches of events"),
    TopicSpec(Topic.LOG, True, "delete", RECORD_BYTES_MAX + _MEBIBYTE // 2, -1, "the truth"),
    TopicSpec(Topic.CHECKPOINTS, False, "compact", _MEBIBYTE, -1, "signed checkpoints and geneses"),
    TopicSpec(Topic.ALERTS, True, "compact,delete", _MEBIBYTE, 400 * _DAY_MS, "budget alerts"),
    TopicSpec(Topic.BUDGET_STATE, True, "compact", _MEBIBYTE, -1, "partial sums and markers"),
    TopicSpec(Topic.REJECTED, True, "delete", _MEBIBYTE * 5 // 4, _REJECTED_DAYS * _DAY_MS, "refusals"),
    TopicSpec(Topic.PRICE_BOOKS, False, "compact", _MEBIBYTE, -1, "price books and meters"),
    TopicSpec(Topic.DELIVERIES, False, "compact", _MEBIBYTE, -1, "deliveries to the outside"),
)
