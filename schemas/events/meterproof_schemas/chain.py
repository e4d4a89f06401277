"""The rule by which every reader of `usage.log` agrees: a record counts if and only if its `prev` matches."""

from dataclasses import dataclass
from typing import Final

import orjson

from meterproof_schemas.errors import InvalidRecord, StageStopped
from meterproof_schemas.log_record import GENESIS_PREV, Genesis, LogRecord, RecordHeader, decode_record
from meterproof_schemas.reasons import StopReason

RECORD_VERSION: Final = 1
"""The newest version of log records that this program knows."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a stage resumes, taken from its own output: the last log record that the output contains whole."""

    epoch: str
    """Epoch of the log's genesis."""
    log_offset: int
    """Offset of that record on `usage.log`."""
    digest: str
    """SHA-256 of that record's value in hexadecimal."""
    position: int
    """Entries of the log up to and with that record."""


class LogChain:
    """The accepted prefix of one partition's log, as far as the chain itself tells; lives as long as its reader."""

    def __init__(self) -> None:
        self.genesis: Genesis | None = None
        self.log_offset = -1
        """Offset of the last accepted record; -1 before the genesis."""
        self.digest = GENESIS_PREV
        self.next_source_offset = 0
        self.clock_ms = 0
        self.position = 0
        """Entries in the log: the next position."""
        self.foreign = 0
        """Physical records that the chain did not accept."""

    def offer(self, offset: int, value: bytes | None, digest: str | None = None) -> LogRecord | None:
        """Take the next physical record of the partition; None when it is an echo of another writer.

        `digest` is `record_digest` of the value where the caller has just made it.

        Raises:
            StageStopped: `log_diverged` when a record continues the chain and yet contradicts it.
        """
        record = self.follow(offset, value, digest)
        if record is not None:
            self.advance(offset, record.header, record.digest)
        return record

    def follow(self, offset: int, value: bytes | None, digest: str | None = None) -> LogRecord | None:
        """The record if it continues the chain, checked but not yet taken; None when it is an echo (counted)."""
        try:
            record = decode_record(value, digest)
        except InvalidRecord as error:
            if states_prev(value, self.digest):
                raise self.unreadable(offset, error) from None
            self.foreign += 1
            return None
        header = record.header
        if header.prev != self.digest or (header.kind == "genesis") != (self.log_offset < 0):
            self.foreign += 1
            return None
        if header.kind == "genesis":
            if header.genesis is None or header.source is not None or header.size:
                raise self.diverged(offset, "is a genesis record with something else in it")
        elif header.genesis is not None:
            raise self.diverged(offset, "is no genesis record and states one")
        elif header.source is None or header.source.offset != self.next_source_offset:
            raise self.diverged(offset, f"answers for {header.source} where offset {self.next_source_offset} was due")
        elif header.first != self.position:
            raise self.diverged(offset, f"begins at position {header.first} where {self.position} was due")
        elif header.clock_ms != max(self.clock_ms, header.append_ms):
            raise self.diverged(offset, "has an ingest clock that does not follow from the append times")
        return record

    def advance(self, offset: int, header: RecordHeader, digest: str) -> None:
        """Take a record that continues the chain."""
        if header.genesis is not None:
            self.genesis = header.genesis
        self.log_offset, self.digest = offset, digest
        self.next_source_offset, self.clock_ms, self.position = header.next_source_offset, header.clock_ms, header.size

    def resume(self, cursor: Cursor, value: bytes | None) -> None:
        """Begin behind a cursor; `value` is what stands at its offset on the log now, None when nothing does.

        Raises:
            StageStopped: `log_diverged` when that is not the record that the cursor names.
        """
        try:
            record = decode_record(value)
        except InvalidRecord:
            record = None
        if record is None or record.digest != cursor.digest or record.header.size != cursor.position:
            found = "nothing" if value is None else "another record"
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"this stage's output ends at log offset {cursor.log_offset} of epoch {cursor.epoch} "
                f"(position {cursor.position}), but the log has {found} there. The topic was re-created, truncated or "
                "trimmed below this stage. Restore the topic, or start this stage with an empty output.",
            )
        self.advance(cursor.log_offset, record.header, record.digest)

    def unreadable(self, offset: int, fault: InvalidRecord) -> StageStopped:
        """The error for a record that continues the chain and that this program cannot read."""
        return StageStopped(
            StopReason.LOG_DIVERGED,
            f"the log record at offset {offset} continues the log, and this program, which knows version "
            f"{RECORD_VERSION}, cannot read it ({fault}): a newer sequencer wrote it. Update this worker; if it is the "
            "newest, keep the topic as it is and compare it with the audit folder.",
        )

    def diverged(self, offset: int, fault: str) -> StageStopped:
        """The error for a record that continues the chain and contradicts it."""
        return StageStopped(
            StopReason.LOG_DIVERGED,
            f"the log record at offset {offset} {fault}. Keep the topic as it is and compare it with the audit folder.",
        )


def states_prev(value: bytes | None, prev: str) -> bool:
    """Whether a value that is no record of this version states that it continues the chain behind `prev`.

    Every version has `prev` in the object on its first line. An echo cannot state the newest digest, so a newer program
    wrote this: with another version, or with a field, kind, reason or effect that was added since. To pass it by would
    be to go on without it: a reader would stand still for ever, a writer would fork the log.
    """
    try:
        header = orjson.loads((value or b"").partition(b"\n")[0])
    except orjson.JSONDecodeError:
        return False
    return isinstance(header, dict) and header.get("prev") == prev
