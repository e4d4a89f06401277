"""Reads segments, plain or compressed: the one place that opens their files for reading."""

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
from meterproof_sinks.segment_compression import CompressionFault, chunks_of, open_compressed

_READ_BYTES: Final = 1 << 20


def read_segment(segment: Segment, *, last: bool, after: StoredRecord | None = None) -> Iterator[StoredRecord]:
    """The whole records of one segment, in order, checked against their frames; holds one record in memory.

    Args:
        segment: which.
        last: whether it is the log's last, the only one whose tail may be torn.
        after: a record of it that was read before, to go on behind it; None reads from the beginning.

    Raises:
        DamagedAudit: after the records before the damage.
        TornAudit: after the whole records, if the tail is torn.
        OSError: a file cannot be read.
    """
    with _Reader(segment, last=last, after=after) as reader:
        while (stored := reader.next()) is not None:
            yield stored


def open_files(segment: Segment) -> tuple[BinaryIO, BinaryIO]:
    """A segment's files of events and of records, to read their lines; compressed ones are decompressed on the way.

    `CompressionFault` may come from reading a compressed one.

    Raises:
        OSError: one of them is missing or cannot be opened.
    """
    try:
        return _open_files(segment)
    except FileNotFoundError:
        return _open_files(segment)  # it was being sealed: its manifest is there by now


def _open_files(segment: Segment) -> tuple[BinaryIO, BinaryIO]:
    sealed = segment.is_sealed
    events_path, records_path = (
        (segment.sealed_events, segment.sealed_records) if sealed else (segment.events, segment.records)
    )
    events = open_compressed(events_path) if sealed else events_path.open("rb", buffering=_READ_BYTES)
    try:
        records = open_compressed(records_path) if sealed else records_path.open("rb", buffering=_READ_BYTES)
    except OSError:
        events.close()
        raise
    return events, records


def lines_digests(segment: Segment) -> tuple[str, str]:
    """SHA-256 of a segment's lines, of events and of records: the same before and after it is sealed.

    Raises:
        DamagedAudit: a compressed file cannot be decompressed.
        OSError: a file cannot be read.
    """
    digests = []
    for path, file in zip((segment.events_file, segment.records_file), open_files(segment), strict=True):
        digest = sha256()
        with file:
            try:
                for chunk in chunks_of(file):
                    digest.update(chunk)
            except CompressionFault as error:
                raise _not_decompressed(path, None, segment.first, error) from error
        digests.append(digest.hexdigest())
    return digests[0], digests[1]


def _not_decompressed(file: Path, line: int | None, position: int, error: Exception) -> DamagedAudit:
    return DamagedAudit(file, line, position, f"cannot be decompressed from here on: {error}")


class _Reader:
    """Reads one segment's two files side by side; lives for one pass."""

    def __init__(self, segment: Segment, *, last: bool, after: StoredRecord | None) -> None:
        self._segment = segment
        self._last = last
        self._records_line = self._events_line = 1
        self._records_bytes = self._events_bytes = 0
        if after is not None:
            self._count(after)
        self._files: tuple[BinaryIO, BinaryIO] | None = None
        self._paths = segment.events_file, segment.records_file

    def __enter__(self) -> Self:
        try:
            self._files = open_files(self._segment)
        except FileNotFoundError:
            segment = self._segment
            there = [path for path in self._paths if path.is_file()]
            missing = next(path for path in self._paths if path not in there)
            if not segment.is_sealed and segment.sealed_events.is_file():
                fault = "is missing, though the segment's compressed files are there"
                raise DamagedAudit(segment.manifest, None, segment.first, fault) from None
            # A crash between making the two files leaves one of them alone and empty.
            if not self._last or segment.is_sealed or any(path.stat().st_size for path in there):
                raise DamagedAudit(missing, None, segment.first, "is missing") from None
        self._last = self._last and not self._segment.is_sealed
        if self._files is not None and self._records_bytes:
            self._skip(self._files)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files or ():
            file.close()

    def next(self) -> StoredRecord | None:
        """The next whole record; None at the end of both files."""
        if self._files is None:
            return None
        events, records = self._files
        frame_line = self._readline(records)
        if not frame_line:
            if surplus := self._readline(events):
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
        lines = self._readlines(records, int(frame[3]))
        self._check_whole(records, lines, int(frame[3]), 1)
        event_lines = self._readlines(events, int(frame[4]))
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
        self._count(stored)
        return stored

    def _count(self, stored: StoredRecord) -> None:
        """Go behind a record."""
        self._records_line = stored.records_line + 1 + stored.header_lines
        self._events_line = stored.events_line + stored.events
        self._records_bytes, self._events_bytes = stored.records_bytes, stored.events_bytes

    def _skip(self, files: tuple[BinaryIO, BinaryIO]) -> None:
        """Go behind what was read before."""
        for file, place in zip(files, (self._events_bytes, self._records_bytes), strict=True):
            try:
                file.seek(place)
            except CompressionFault as error:
                raise _not_decompressed(*self._place(file), error) from error

    @property
    def _position(self) -> int:
        return self._segment.first + self._events_line - 1

    def _place(self, file: BinaryIO) -> tuple[Path, int, int]:
        if self._files is not None and file is self._files[0]:
            return self._paths[0], self._events_line, self._position
        return self._paths[1], self._records_line, self._position

    def _readline(self, file: BinaryIO) -> bytes:
        try:
            return file.readline(RECORD_BYTES_MAX)
        except CompressionFault as error:
            raise _not_decompressed(*self._place(file), error) from error

    def _readlines(self, file: BinaryIO, count: int) -> list[bytes]:
        try:
            return list(islice(file, count))
        except CompressionFault as error:
            raise _not_decompressed(*self._place(file), error) from error

    def _check_whole(self, file: BinaryIO, lines: list[bytes], due: int, after: int) -> None:
        """Raise unless all `due` lines came, each with its LF; the first is `after` lines after the record's own."""
        whole = len(lines) - (bool(lines) and not lines[-1].endswith(b"\n"))
        if whole < due:
            path, line, position = self._place(file)
            place = path, line + after + whole, position + (0 if after else whole)
            self._incomplete(file, "the file ends in the middle of a record", place)

    def _incomplete(self, file: BinaryIO, fault: str, place: tuple[Path, int, int] | None = None) -> NoReturn:
        """Raise for bytes that are missing at the end."""
        place = place or self._place(file)
        if not self._last:
            after = "the segment is sealed" if self._segment.is_sealed else "a later segment follows"
            raise DamagedAudit(*place, f"{fault}, and yet {after}")
        raise TornAudit(self._segment, (self._events_bytes, self._records_bytes), place, fault, incomplete=True)

    def _wrong(self, records: BinaryIO, damage: DamagedAudit) -> NoReturn:
        """Raise for bytes that are wrong: torn if they are the very last, damage if a frame follows."""
        if not self._last or any(map(FRAME.fullmatch, iter(lambda: records.readline(RECORD_BYTES_MAX), b""))):
            raise damage
        place = damage.file, damage.line or 1, damage.position or 0
        whole = self._events_bytes, self._records_bytes
        raise TornAudit(self._segment, whole, place, damage.fault, incomplete=False) from damage
