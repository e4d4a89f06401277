"""Errors of the helper.

MeterError                 root; `retriable` says whether the same call can succeed later
├── InvalidKey             a key file is missing, faulty or readable by others
├── InvalidSettings        `METERPROOF_…` variables are missing or faulty
├── MeterClosed            `record` or `flush` after `close`, or before the meter was opened
├── BufferFull             unsent events reached the bound and no room came in time
├── DeliveryFailed         Kafka refused batches; they are kept and sent again by the next `flush`
└── WrongPartitionCount    the topic has another number of partitions than the service was set up for

A bad event raises `meterproof_schemas.errors.InvalidEvent` at the call.
"""

from typing import ClassVar


class MeterError(Exception):
    """Root of the helper's errors."""

    retriable: ClassVar[bool] = False


class InvalidKey(MeterError):
    """A key file is missing or faulty; the text names the file and what to do, never its content."""


class InvalidSettings(MeterError):
    """Variables of the environment are missing or faulty; the text names them and what to do, never their values."""


class MeterClosed(MeterError):
    """The meter is not open."""


class BufferFull(MeterError):
    """`events` recorded events wait for Kafka and no room came within `waited_s` seconds. Nothing was recorded."""

    retriable = True

    def __init__(self, events: int, waited_s: float) -> None:
        super().__init__(f"{events} events wait for Kafka and no room came within {waited_s} s; try again later")
        self.events = events
        self.waited_s = waited_s


class DeliveryFailed(MeterError):
    """`events` events in `batches` batches were not acknowledged. They are kept; the next `flush` sends them again."""

    retriable = True

    def __init__(self, batches: int, events: int, cause: str) -> None:
        super().__init__(
            f"{batches} batches with {events} events were not acknowledged: {cause}. They are kept "
            "in memory; call flush() again before close()"
        )
        self.batches = batches
        self.events = events


class WrongPartitionCount(MeterError):
    """The topic's number of partitions is not the one that this service was set up for."""
