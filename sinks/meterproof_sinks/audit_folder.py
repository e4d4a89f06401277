"""The audit folder: every accepted record of a log, byte for byte, in files that any text tool can read.

```
<audit folder>/<log>/log.json                               which log this is
                     <first position>.jsonl                 event lines, verbatim: line n is position first + n - 1
                     <first position>.records.jsonl         per record: frame, record header, batch header, signatures
                     checkpoint                             latest signed checkpoint whose every entry is on disk
                     tlog/                                  the log as tiles, to publish: see `tlog_folder`
                     records-checkpoint                     latest signed checkpoint of the second tree, as above
                     records-tlog/                          the second tree as tiles: a leaf per record (`records_tree`)
                     lock                                   held by the one writer while it runs
                     <file>.<n>.torn                        a torn tail that a writer found on start and set aside
```
`<log>` is the log's origin (`<name>/<epoch>/p<k>`) with `/` written as `~` and everything outside `A-Z a-z 0-9 . _ -`
percent-encoded, so it can be turned back; a name too long for a file system is replaced by its SHA-256. `log.json`
holds the origin in clear. A position is written with 20 digits, so names sort.

The frame of a record is one line of fixed form:

```text
{"log_offset":17,"lines":3,"events":100,"digest":"<SHA-256 of the value>","check":"<CRC-32 of all before>"}
```
`lines` lines follow it in the same file (1: the record header; 3: also the batch's header and signatures), and `events`
lines in the other file belong to it. The value of the record on `usage.log` is these lines, then those, each with LF.
`log_offset` says where the record stood on its topic; nothing signed covers it, hence the checksum.

An event that was erased on request has `{"erased":"<its entry>"}` in place of its line: the digest of such a record
can't be hashed again, its root can.

A record is on disk if its frame and all its lines are, and their digest is the frame's. What comes after the last such
record is a torn tail if bytes are missing at the end of either file, or if they are wrong and no further frame follows.
Everything else that does not fit is damage.
"""

import fcntl
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, Literal, NoReturn, Self
from urllib.parse import quote, unquote

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meterproof_schemas.chain import LogChain
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.limits import RECORD_BYTES_MAX
from meterproof_schemas.log_record import LogRecord
from meterproof_sinks.disk import NEW_SUFFIX
from meterproof_sinks.erased import erased_entry

LOG_FILE: Final = "log.json"
CHECKPOINT_FILE: Final = "checkpoint"
TLOG_FOLDER: Final = "tlog"
RECORDS_CHECKPOINT_FILE: Final = "records-checkpoint"
RECORDS_TLOG_FOLDER: Final = "records-tlog"
LOCK_FILE: Final = "lock"
VOLUME_FOLDER: Final = "lost+found"
"""What the root of an ext4 volume holds, unreadable for all but root: none of our business."""
_EVENTS_SUFFIX: Final = ".jsonl"
_RECORDS_SUFFIX: Final = ".records.jsonl"
_NAME_BYTES_MAX: Final = 255
_READ_BYTES: Final = 1 << 20
_SEGMENT_NAME: Final = re.compile(r"([0-9]{20})(\.records)?\.jsonl")
_TORN_NAME: Final = re.compile(r"[0-9]{20}(\.records)?\.jsonl\.[1-9][0-9]*\.torn(\.new)?")
_FRAME: Final = re.compile(
    rb'(\{"log_offset":(0|[1-9][0-9]{0,18}),"lines":([13]),"events":(0|[1-9][0-9]{0,6}),"digest":"([0-9a-f]{64})")'
    rb',"check":"([0-9a-f]{8})"\}\n'
)


class AuditError(Exception):
    """Root of all errors of audit folders; the text is for operators and says where."""


class AuditFault(AuditError):
    """Something in a log's files is not as it was written: which file, which line (from 1), which position."""

    def __init__(self, file: Path, line: int | None, position: int | None, fault: str) -> None:
        super().__init__(file, line, position, fault)
        self.file = file
        self.line = line
        """First line concerned, from 1; None when the file as a whole is."""
        self.position = position
        """First position that cannot be relied on; None when that is all of them, or none."""
        self.fault = fault

    def __str__(self) -> str:
        """Say where, then what."""
        line = "" if self.line is None else f", line {self.line}"
        position = "" if self.position is None else f", position {self.position}"
        return f"{self.file}{line}{position}: {self.fault}"


class DamagedAudit(AuditFault):
    """Bytes were changed, removed or added before the end; nothing repairs that by itself."""


class ChangedRecord(DamagedAudit):
    """A record whose lines are all there, and do not have the digest that its frame states."""

    def __init__(self, segment: "Segment", stored: "StoredRecord") -> None:
        first, last = stored.records_line + 1, stored.records_line + stored.header_lines
        events = ""
        if stored.events:
            last_event = stored.events_line + stored.events - 1
            events = f", or one of the lines {stored.events_line}-{last_event} of {segment.events.name}"
        super().__init__(
            segment.records,
            stored.records_line,
            stored.position,
            f"the record of log offset {stored.log_offset} was changed: one of the lines {first}-{last}{events}",
        )
        self.segment = segment
        self.stored = stored


class TornAudit(AuditFault):
    """The last record is not whole: a write was cut off. The writer sets such a tail aside when it starts."""

    def __init__(
        self,
        segment: "Segment",
        whole: tuple[int, int],
        place: tuple[Path, int, int],
        fault: str,
        *,
        incomplete: bool,
    ) -> None:
        super().__init__(*place, fault)
        self.segment = segment
        self.events_bytes, self.records_bytes = whole
        """Bytes of each file that belong to whole records."""
        self.incomplete = incomplete
        """Whether bytes are missing, as while a writer is at work; otherwise the last ones are wrong."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Two files that hold the records from position `first` on, until the next segment's `first`."""

    folder: Path
    first: int

    @property
    def events(self) -> Path:
        """The file of event lines."""
        return self.folder / f"{self.first:020}{_EVENTS_SUFFIX}"

    @property
    def records(self) -> Path:
        """The file of frames, record headers, batch headers and signatures."""
        return self.folder / f"{self.first:020}{_RECORDS_SUFFIX}"


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """One whole record as it was found: its value has the digest that its frame states."""

    segment: Segment
    log_offset: int
    digest: str
    """SHA-256 of the value in hexadecimal."""
    value: bytes
    """The value of the record on `usage.log`."""
    header_lines: int
    """1, or 3 with the batch's header and signatures."""
    events: int
    position: int
    """Entries before it."""
    records_line: int
    """Line of its frame in the records file, from 1."""
    events_line: int
    """Line of its first event in the events file, from 1; also given when it has none."""
    records_bytes: int
    """Size of the records file up to and with it."""
    events_bytes: int
    """Size of the events file up to and with it."""
    erased: bool = False
    """Lines of it were erased on request, so its value can't be hashed again: the digest is the one that the frame
    states. The erased lines' entries, and by them the log's root, are as they were."""

    @property
    def head(self) -> bytes:
        """Its lines but the events: what the second tree's entry is the digest of (`records_tree.head_entry`)."""
        end = -1
        for _ in range(self.header_lines):
            end = self.value.index(b"\n", end + 1)
        return self.value[: end + 1]


class LogName(BaseModel):
    """What `log.json` says: which log the folder holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    version: Literal[1]
    origin: str
    partition: int = Field(ge=0)


def log_folder_name(origin: str) -> str:
    """The name of the folder of the log with this origin: unique, and no other origin has it."""
    name = "~".join(quote(part, safe="").replace("~", "%7E") for part in origin.split("/"))
    return name if len(name) <= _NAME_BYTES_MAX else f"sha256-{sha256(origin.encode()).hexdigest()}"


def origin_of_folder_name(name: str) -> str | None:
    """The origin that a folder's name stands for; None for a hashed one (its `log.json` says it) or none at all."""
    if name.startswith("sha256-"):
        return None
    origin = "/".join(map(unquote, name.split("~")))
    return origin if log_folder_name(origin) == name else None


def encode_log_name(name: LogName) -> bytes:
    """The content of `log.json`."""
    return orjson.dumps(name.model_dump(), option=orjson.OPT_APPEND_NEWLINE)


def read_log_name(folder: Path) -> LogName:
    """Which log a folder holds.

    Raises:
        DamagedAudit: `log.json` is not what `encode_log_name` writes.
        FileNotFoundError: there is none.
    """
    file = folder / LOG_FILE
    content = file.read_bytes()
    try:
        name = LogName.model_validate(orjson.loads(content))
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise DamagedAudit(file, 1, None, "does not say which log this is") from error
    if encode_log_name(name) != content:
        raise DamagedAudit(file, 1, None, "is not spelled as it is written")
    return name


def is_log_folder(folder: Path) -> bool:
    """Whether a folder holds a log (as opposed to logs, or something else)."""
    return (folder / LOG_FILE).is_file() or any(map(_SEGMENT_NAME.fullmatch, _names(folder)))


def log_folders(folder: Path) -> list[Path]:
    """The folders of all logs in an audit folder, by name; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.name != VOLUME_FOLDER and path.is_dir() and is_log_folder(path)
    )


def segments_of(folder: Path) -> list[Segment]:
    """The segments of a log, oldest first: every position that names a file, even if its other file is missing."""
    found = {int(match[1]) for match in map(_SEGMENT_NAME.fullmatch, _names(folder)) if match}
    return [Segment(folder, first) for first in sorted(found)]


def torn_files(folder: Path) -> list[Path]:
    """The torn tails that were set aside."""
    return sorted(folder / name for name in _names(folder) if _TORN_NAME.fullmatch(name))


def unexpected_files(folder: Path) -> list[Path]:
    """What lies in a log's folder and belongs to no log."""
    replaced = {LOG_FILE, CHECKPOINT_FILE, RECORDS_CHECKPOINT_FILE}
    own = {LOCK_FILE, *replaced, *(name + NEW_SUFFIX for name in replaced)}
    return sorted(
        path
        for path in folder.iterdir()
        if (path.is_dir() and path.name not in {TLOG_FOLDER, RECORDS_TLOG_FOLDER})
        or (
            path.is_file()
            and path.name not in own
            and not _SEGMENT_NAME.fullmatch(path.name)
            and not _TORN_NAME.fullmatch(path.name)
        )
    )


def writer_is_running(folder: Path) -> bool:
    """Whether a writer is known to hold the folder's lock now; looks without disturbing one that starts."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def frame_of(log_offset: int, record: LogRecord) -> bytes:
    """The frame of a record, with its LF."""
    head = b'{"log_offset":%d,"lines":%d,"events":%d,"digest":"%s"' % (
        log_offset,
        3 if record.carried else 1,
        len(record.lines),
        record.digest.encode(),
    )
    return b'%s,"check":"%08x"}\n' % (head, zlib.crc32(head))


def split_record(log_offset: int, record: LogRecord) -> tuple[bytes, bytes]:
    """What a record adds to the events file and to the records file."""
    lines = b"\n".join([record.header_line, *(record.carried or ()), b""])
    return record.value[len(lines) :], frame_of(log_offset, record) + lines


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


def read_records(folder: Path) -> Iterator[StoredRecord]:
    """All whole records of a log, in order, checked against their frames and segment names; streaming.

    Raises:
        DamagedAudit: after the records before the damage.
        TornAudit: after all whole records, if the tail is torn.
        OSError: a file cannot be read.
    """
    position = 0
    segments = segments_of(folder)
    for segment in segments:
        if segment.first != position:
            raise DamagedAudit(
                segment.records,
                None,
                position,
                f"a segment that begins at {position} was due; files are missing or renamed",
            )
        for stored in read_segment(segment, last=segment is segments[-1]):
            yield stored
            position = stored.position + stored.events


def records(folder: Path, chain: LogChain | None = None) -> Iterator[tuple[int, LogRecord]]:
    """All records of a log as (log offset, record), each checked to continue the chain; streaming.

    Args:
        folder: the log's folder.
        chain: what to follow them with; a fresh `LogChain`, or a `LogState` to re-derive everything.

    Raises:
        DamagedAudit: after the records before the damage.
        TornAudit: after all whole records, if the tail is torn.
        OSError: a file cannot be read.
    """
    for stored, record in follow_records(folder, LogChain() if chain is None else chain):
        yield stored.log_offset, record


def follow_records(folder: Path, chain: LogChain) -> Iterator[tuple[StoredRecord, LogRecord]]:
    """As `records`, with the place where each was found."""
    for stored in read_records(folder):
        yield stored, follow_stored(stored, chain)


def follow_stored(stored: StoredRecord, chain: LogChain) -> LogRecord:
    """The record, taken by the chain.

    Raises:
        DamagedAudit: it does not continue the chain.
    """
    if stored.log_offset <= chain.log_offset:
        raise _not_next(stored, f"stands at log offset {stored.log_offset}, not after {chain.log_offset}")
    previous = chain.digest
    try:
        record = _offer_erased(stored, chain) if stored.erased else chain.offer(stored.log_offset, stored.value)
    except StageStopped as error:
        raise _not_next(stored, error.detail) from error
    if record is None:
        raise _not_next(stored, f"the record does not follow the one before: its prev is not {previous}")
    return record


def _offer_erased(stored: StoredRecord, chain: LogChain) -> LogRecord | None:
    """Offer a record with erased lines under the digest that it had: the next record's `prev` is the witness."""
    record = chain.follow(stored.log_offset, stored.value)
    if record is not None:
        record = replace(record, digest=stored.digest)
        chain.advance(stored.log_offset, record.header, record.digest)
    return record


def _not_next(stored: StoredRecord, fault: str) -> DamagedAudit:
    return DamagedAudit(stored.segment.records, stored.records_line + 1, stored.position, fault)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
        frame = _FRAME.fullmatch(frame_line)
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
        more = any(_FRAME.fullmatch(line) for line in iter(lambda: records.readline(RECORD_BYTES_MAX), b""))
        if more or not self._last:
            raise damage
        place = damage.file, damage.line or 1, damage.position or 0
        whole = self._events_bytes, self._records_bytes
        raise TornAudit(self._segment, whole, place, damage.fault, incomplete=False) from damage
