"""Errors of the Kafka seam. Every text says what happened and what to do next.

KafkaProblem              root; `retriable` says whether the same call can succeed later
├── BrokerUnreachable     no broker answers, or not in time
├── AccessDenied          the brokers refuse this client's credentials or rights
├── CertificateUnusable   a file of certificates or keys cannot be read, or holds none
├── TopicMissing          a topic, or a partition of it, does not exist
├── OffsetTrimmed         the records asked for were deleted
├── OffsetBeyondEnd       the log ends before the offset asked for: it was truncated or re-created
├── DeliveryRefused       a record was not acknowledged
├── TopicsRefused         topics cannot be created as asked; nothing that exists was changed
├── GenesisMissing        a log is empty: its deployment was not created, or not to the end
├── PriceBookConflict     a version of the price book exists with other content
└── KafkaRefused          the brokers refused a request for another reason
"""

from typing import ClassVar


class KafkaProblem(Exception):
    """Root of the seam's errors."""

    retriable: ClassVar[bool] = False


class BrokerUnreachable(KafkaProblem):
    """No broker answers. `cause` is what the client library saw last, which it only logs."""

    retriable = True

    def __init__(self, bootstrap: str, cause: str) -> None:
        super().__init__(
            f"Kafka at {bootstrap} does not answer: {cause}. Check that the broker runs and is reachable from here, "
            "and METERPROOF_KAFKA_BOOTSTRAP (or --bootstrap)"
        )
        self.bootstrap = bootstrap
        self.cause = cause


class AccessDenied(KafkaProblem):
    """The brokers know this client and do not let it, or do not know it."""

    def __init__(self, bootstrap: str, cause: str) -> None:
        super().__init__(
            f"Kafka at {bootstrap} denies access: {cause}. Check METERPROOF_KAFKA_SASL_USERNAME, _SASL_PASSWORD and "
            "_SASL_MECHANISM, and the rights (ACLs) of this user"
        )
        self.cause = cause


class CertificateUnusable(KafkaProblem):
    """A file that the TLS settings name cannot be read, or does not hold what it should."""

    def __init__(self, variables: str, files: str, cause: str) -> None:
        super().__init__(f"{files}: {cause}. Check {variables}")


class TopicMissing(KafkaProblem):
    """A topic does not exist, or has fewer partitions than asked for."""

    def __init__(self, topic: str, partition: int | None = None) -> None:
        missing = f"topic {topic}" if partition is None else f"partition {partition} of topic {topic}"
        super().__init__(
            f"{missing} does not exist. Check METERPROOF_KAFKA_TOPIC_PREFIX (or --prefix), or create the deployment's "
            "topics with `meterproof topics create`"
        )
        self.topic = topic
        self.partition = partition


class OffsetTrimmed(KafkaProblem):
    """Records at `offset` were asked for, and the partition now begins at `start`."""

    def __init__(self, topic: str, partition: int, offset: int, start: int) -> None:
        super().__init__(
            f"{topic}[{partition}]: offset {offset} was asked for, but the partition begins at {start}: the records "
            "before it were deleted, or the topic was re-created"
        )
        self.topic, self.partition, self.offset, self.start = topic, partition, offset, start


class OffsetBeyondEnd(KafkaProblem):
    """Records up to `offset` were asked for, and the partition now ends at `end`."""

    def __init__(self, topic: str, partition: int, offset: int, end: int) -> None:
        super().__init__(
            f"{topic}[{partition}]: offset {offset} was asked for, but the partition ends at {end}: it was truncated, "
            "or the topic was re-created"
        )
        self.topic, self.partition, self.offset, self.end = topic, partition, offset, end


class DeliveryRefused(KafkaProblem):
    """A record was not acknowledged; whether it is on the topic is unknown unless `cause` says so."""

    def __init__(self, topic: str, partition: int, cause: str) -> None:
        super().__init__(f"{topic}[{partition}]: a record was not acknowledged: {cause}")
        self.topic, self.partition, self.cause = topic, partition, cause


class TopicsUnfit(KafkaProblem):
    """The topics are not as the contract says; the text names each fault and its remedy."""


class TopicsRefused(KafkaProblem):
    """Topics cannot be created as asked for; nothing that exists was changed."""


class GenesisMissing(KafkaProblem):
    """A partition of `usage.log` holds no genesis."""

    def __init__(self, topic: str, partition: int) -> None:
        super().__init__(
            f"{topic}[{partition}] is empty: it has no genesis. Run `meterproof topics create` (again); it goes on "
            "where it stopped"
        )
        self.topic, self.partition = topic, partition


class PriceBookConflict(KafkaProblem):
    """This version of the price book is published already, with other content."""


class KafkaRefused(KafkaProblem):
    """The brokers refused a request."""

    def __init__(self, bootstrap: str, cause: str) -> None:
        super().__init__(f"Kafka at {bootstrap} refused a request: {cause}")
        self.cause = cause
