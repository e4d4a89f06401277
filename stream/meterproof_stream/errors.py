"""Errors of the stream workers that are not the contract's or Kafka's."""

from pathlib import Path


class StreamError(Exception):
    """Root of the stream workers' own errors."""


class TopicUnfit(StreamError):
    """A topic's timestamps are the producers', not the broker's, so no verdict by time would be the broker's."""

    def __init__(self, topic: str) -> None:
        super().__init__(
            f"{topic} has records whose timestamp is not the broker's append time; set message.timestamp.type to "
            "LogAppendTime (`meterproof topics check` shows what differs)"
        )


class LaneClosed(StreamError):
    """The partition was given up while one of its records was being taken; whoever holds it next takes it again."""


class DeliveryLost(StreamError):
    """A record was handed to the producer and nobody will say what became of it."""


class FaustChanged(StreamError):
    """The installed Faust is not the one that its driver was proved with."""


class NothingRemembers(StreamError):
    """In production, and nothing outside of Kafka would remember what was signed."""

    def __init__(self, audit: Path) -> None:
        super().__init__(
            f"in production the checkpointer signs only if something outside of Kafka remembers what was signed, and "
            f"there is no audit folder at {audit} and no witness folder. Give --witness-dir (a folder on another "
            "volume), or --audit-dir with the audit worker's folder. Nothing was signed"
        )


class IndexDamaged(StreamError):
    """The folder of a dedupe index cannot be used; it is a cache of the log, so a new start makes it anew."""

    def __init__(self, folder: Path, fault: str) -> None:
        super().__init__(f"the dedupe index in {folder} is damaged: {fault}. Start again: it is rebuilt from the log")
        self.fault = fault


class IndexUnusable(StreamError):
    """No dedupe index can be kept in a folder."""

    def __init__(self, folder: Path, fault: str) -> None:
        super().__init__(
            f"no dedupe index can be kept in {folder}: {fault}. Put that right, or run with `--index memory`"
        )
