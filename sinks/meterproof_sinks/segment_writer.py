"""Appends records to a log's last segment and begins new ones; durable before it says so."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meterproof_schemas.log_record import LogRecord
from meterproof_sinks.audit_segment import Segment, split_record
from meterproof_sinks.disk import Disk


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """When a new segment begins: before the record that finds its segment this large or this old.

    Both follow from the records alone, so the same log gives the same files wherever and however often it is written.
    A segment without any event is never ended: its successor would have the same name.
    """

    bytes_max: int = 256 * 1024 * 1024
    """Bytes of both files together."""
    age_ms: int = 24 * 3600 * 1000
    """Ingest clock of the next record minus that of the segment's first record."""


@dataclass(slots=True)
class _Open:
    """The segment that is being written."""

    segment: Segment
    events: int
    records: int
    """Descriptors."""
    events_bytes: int = 0
    records_bytes: int = 0
    first_clock_ms: int = 0
    """Ingest clock of its first record that has one; 0 before."""


class SegmentWriter:
    """The open segment of one log. Promises what `AuditLog.append` says of a write; lives as long as its `AuditLog`."""

    def __init__(self, folder: Path, limits: SegmentLimits, disk: Disk) -> None:
        self._folder = folder
        self._limits = limits
        self._disk = disk
        self._open: _Open | None = None

    @property
    def segment(self) -> Segment | None:
        """The segment that is open; None before the first record."""
        return None if self._open is None else self._open.segment

    def reopen(self, segment: Segment, events_bytes: int, records_bytes: int, first_clock_ms: int) -> None:
        """Go on with a segment that an earlier writer left, and sync it: it may be in memory only.

        Args:
            segment: the log's last.
            events_bytes: size of its events file, all of it whole records.
            records_bytes: size of its records file.
            first_clock_ms: ingest clock of its first record that has one; 0 if none has.

        Raises:
            OSError: the disk refuses.

        """
        opened = self._begin(segment)
        for descriptor in (opened.events, opened.records):
            self._disk.sync(descriptor)
        self._disk.sync_folder(self._folder)
        opened.events_bytes, opened.records_bytes = events_bytes, records_bytes
        opened.first_clock_ms = first_clock_ms

    def open_again(self) -> None:
        """Open the files by their names again: the events file may be another one now, with as many lines.

        Raises:
            OSError: the disk refuses.
        """
        if (opened := self._open) is not None:
            sizes = opened.segment.events.stat().st_size, opened.records_bytes
            self.reopen(opened.segment, *sizes, opened.first_clock_ms)

    def write(self, records: Sequence[tuple[int, LogRecord]]) -> int:
        """Write the next records, up to a segment's end, and sync; how many there were, at least one.

        Args:
            records: (log offset, record), not empty; they continue what is on disk.

        Raises:
            OSError: the disk refuses. What was not made durable is cut off by `give_back`.

        """
        opened = self._open
        if opened is None or self._is_full(opened, records[0][1]):
            opened = self._begin(Segment(self._folder, records[0][1].header.first))
        grown = replace(opened)
        events: list[bytes] = []
        frames: list[bytes] = []
        for log_offset, record in records:
            if frames and self._is_full(grown, record):
                break
            event_lines, record_lines = split_record(log_offset, record)
            events.append(event_lines)
            frames.append(record_lines)
            grown.events_bytes += len(event_lines)
            grown.records_bytes += len(record_lines)
            grown.first_clock_ms = grown.first_clock_ms or record.header.clock_ms
        # Events first: whoever reads along never sees a record whose lines are not there.
        if grown.events_bytes > opened.events_bytes:
            self._disk.append(opened.events, b"".join(events))
        self._disk.append(opened.records, b"".join(frames))
        if grown.events_bytes > opened.events_bytes:
            self._disk.sync(opened.events)
        self._disk.sync(opened.records)
        self._open = grown
        return len(frames)

    def give_back(self) -> str:
        """Cut both files back to what is durable; what to add to the message if that fails too."""
        if self._open is None:
            return ""
        segment = self._open.segment
        try:
            self._disk.truncate(segment.records, self._open.records_bytes)
            self._disk.truncate(segment.events, self._open.events_bytes)
        except OSError as error:
            return (
                f". The unfinished bytes could not be cut off either ({error.strerror or error}): compare the last "
                f"records of {segment.records} with the topic before you trust them"
            )
        return ""

    def close(self) -> None:
        """Let go of the files. May be repeated."""
        if self._open is not None:
            opened, self._open = self._open, None
            os.close(opened.events)
            os.close(opened.records)

    def _is_full(self, opened: _Open, record: LogRecord) -> bool:
        """Whether a new segment begins before this record."""
        if record.header.first == opened.segment.first:
            return False
        if opened.events_bytes + opened.records_bytes >= self._limits.bytes_max:
            return True
        return bool(opened.first_clock_ms) and record.header.clock_ms - opened.first_clock_ms >= self._limits.age_ms

    def _begin(self, segment: Segment) -> _Open:
        """Open a segment's files for appending, made if missing."""
        self.close()
        new = not (segment.events.exists() and segment.records.exists())
        events = self._disk.open_append(segment.events)
        try:
            records = self._disk.open_append(segment.records)
        except OSError:
            os.close(events)
            raise
        self._open = _Open(segment, events, records)
        if new:
            self._disk.sync_folder(self._folder)
        return self._open
