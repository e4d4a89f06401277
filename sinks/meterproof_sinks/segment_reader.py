"""Reads segments: the one place that opens their files for reading."""

import zlib
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, NoReturn, Self

from meterproof_schemas.limits import RECORD_BYTES_MAX
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_segment import FRAME, ChangedRecord, Segment, StoredRecord, TornAudit
from meterproof_sinks.erased import erased_entry

_READ_BYTES: Final = 1 << 20


def read_segment(segment: Segment, *, last: bool) -> Iterator[StoredRecord]:
    """The whole records of one segment, in order, checked against their frames; holds one record in memory.

    Args:
        segment: which.
        last: whether it is the log's last, the only one whose tail may be torn.

    Raises:
        DamagedAudit: after the records before the damage.
        TornAudit: after the whole records, if the tail is torn.
        OSError: a file cannot be read.
    """
    with _Reader(segment, last=last) as reader:
        while (stored := reader.next()) is not None:
            yield stored


class _Reader:
    """Reads one segment's two files side by side; lives for one pass."""

    def __init__(self, segment: Segment, *, last: bool) -> None:
        self._segment = segment
        self._last = last
        self._records_line = self._events_line = 1
        self._records_bytes = self._events_bytes = 0
        self._files: list[BinaryIO] = []

    def __enter__(self) -> Self:
        paths = self._segment.events, self._segment.records
        missing = [path for path in paths if not path.is_file()]
        if not missing:
            self._files = [path.open("rb", buffering=_READ_BYTES) for path in paths]
        # A crash between making the two files leaves one of them alone and empty.
        elif not self._last or any(path.stat().st_size for path in paths if path not in missing):
            raise DamagedAudit(missing[0], None, self._segment.first, "is missing")
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def next(self) -> StoredRecord | None:
        """The next whole record; None at the end of both files."""
        if not self._files:
            return None
        events, records = self._files
        frame_line = records.readline(RECORD_BYTES_MAX)
        if not frame_line:
            if surplus := events.readline(RECORD_BYTES_MAX):
                self._incomplete(events, f"event lines that no record accounts for ({len(surplus)} bytes or more)")
            return None
        if not frame_line.endswith(b"\n") and len(frame_line) < RECORD_BYTES_MAX:
            self._incomplete(records, "the file ends in the middle of a frame")
        frame = FRAME.fullmatch(frame_line)
        if frame is None:
            self._wrong(records, DamagedAudit(*self._place(records), "is not the frame of a record"))
        if f"{zlib.crc32(frame[1]):08x}".encode() != frame[6]:
            self._wrong(
                records, DamagedAudit(*self._place(records), "the frame was changed: its checksum does not match")
            )
        lines = list(islice(records, int(frame[3])))
        self._check_whole(records, lines, int(frame[3]), 1)
        event_lines = list(islice(events, int(frame[4])))
        self._check_whole(events, event_lines, int(frame[4]), 0)
        header_bytes = sum(map(len, lines))
        value = b"".join(lines + event_lines)
        stored = StoredRecord(
            self._segment,
            log_offset=int(frame[2]),
            digest=frame[5].decode(),
            value=value,
            header_lines=len(lines),
            events=len(event_lines),
            position=self._position,
            records_line=self._records_line,
            events_line=self._events_line,
            records_bytes=self._records_bytes + len(frame_line) + header_bytes,
            events_bytes=self._events_bytes + len(value) - header_bytes,
        )
        if sha256(value).hexdigest() != stored.digest:
            if not any(erased_entry(line[:-1]) for line in event_lines):
                self._wrong(records, ChangedRecord(self._segment, stored))
            stored = replace(stored, erased=True)
        self._records_line += 1 + stored.header_lines
        self._events_line += stored.events
        self._records_bytes, self._events_bytes = stored.records_bytes, stored.events_bytes
        return stored

    @property
    def _position(self) -> int:
        return self._segment.first + self._events_line - 1

    def _place(self, file: BinaryIO) -> tuple[Path, int, int]:
        if file is self._files[0]:
            return self._segment.events, self._events_line, self._position
        return self._segment.records, self._records_line, self._position

    def _check_whole(self, file: BinaryIO, lines: list[bytes], due: int, after: int) -> None:
        """Raise unless all `due` lines came, each with its LF; the first is `after` lines after the record's own."""
        whole = len(lines) - (bool(lines) and not lines[-1].endswith(b"\n"))
        if whole < due:
            path, line, position = self._place(file)
            place = path, line + after + whole, position + (whole if file is self._files[0] else 0)
            self._incomplete(file, "the file ends in the middle of a record", place)

    def _incomplete(self, file: BinaryIO, fault: str, place: tuple[Path, int, int] | None = None) -> NoReturn:
        """Raise for bytes that are missing at the end."""
        place = place or self._place(file)
        if not self._last:
            raise DamagedAudit(*place, f"{fault}, and yet a later segment follows")
        raise TornAudit(self._segment, (self._events_bytes, self._records_bytes), place, fault, incomplete=True)

    def _wrong(self, records: BinaryIO, damage: DamagedAudit) -> NoReturn:
        """Raise for bytes that are wrong: torn if they are the very last, damage if a frame follows."""
        more = any(FRAME.fullmatch(line) for line in iter(lambda: records.readline(RECORD_BYTES_MAX), b""))
        if more or not self._last:
            raise damage
        place = damage.file, damage.line or 1, damage.position or 0
        whole = self._events_bytes, self._records_bytes
        raise TornAudit(self._segment, whole, place, damage.fault, incomplete=False) from damage
