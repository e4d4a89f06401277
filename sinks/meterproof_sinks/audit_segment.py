"""A segment of an audit folder: two files, and the records that stand in them.

The frame of a record is one line of fixed form:

```text
{"log_offset":17,"lines":3,"events":100,"digest":"<SHA-256 of the value>","check":"<CRC-32 of all before>"}
```
`lines` lines follow it in the same file (1: the record header; 3: also the batch's header and signatures), and `events`
lines in the other file belong to it. The value of the record on `usage.log` is these lines, then those, each with LF.
`log_offset` says where the record stood on its topic; nothing signed covers it, hence the checksum.

An event that was erased on request has `{"erased":"<its entry>"}` in place of its line: the digest of such a record
can't be hashed again, its root can.
"""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meterproof_schemas.log_record import LogRecord
from meterproof_sinks.audit_errors import AuditFault, DamagedAudit

EVENTS_SUFFIX: Final = ".jsonl"
RECORDS_SUFFIX: Final = ".records.jsonl"
SEALED_SUFFIX: Final = ".zst"
MANIFEST_SUFFIX: Final = ".manifest.json"
ERASURES_SUFFIX: Final = ".erasures.jsonl"
FRAME: Final = re.compile(
    rb'(\{"log_offset":(0|[1-9][0-9]{0,18}),"lines":([13]),"events":(0|[1-9][0-9]{0,6}),"digest":"([0-9a-f]{64})")'
    rb',"check":"([0-9a-f]{8})"\}\n'
)


@dataclass(frozen=True, slots=True)
class Segment:
    """Two files that hold the records from position `first` on, until the next segment's `first`.

    They are plain while it is written, and compressed once it is sealed. The manifest decides which of them count.
    """

    folder: Path
    first: int

    @property
    def events(self) -> Path:
        """The file of event lines."""
        return self.folder / f"{self.first:020}{EVENTS_SUFFIX}"

    @property
    def records(self) -> Path:
        """The file of frames, record headers, batch headers and signatures."""
        return self.folder / f"{self.first:020}{RECORDS_SUFFIX}"

    @property
    def sealed_events(self) -> Path:
        """The compressed file of event lines."""
        return self.folder / f"{self.first:020}{EVENTS_SUFFIX}{SEALED_SUFFIX}"

    @property
    def sealed_records(self) -> Path:
        """The compressed file of frames and heads."""
        return self.folder / f"{self.first:020}{RECORDS_SUFFIX}{SEALED_SUFFIX}"

    @property
    def manifest(self) -> Path:
        """What says that the segment is sealed (`segment_manifest`)."""
        return self.folder / f"{self.first:020}{MANIFEST_SUFFIX}"

    @property
    def erasures(self) -> Path:
        """What was erased since it was sealed (`segment_manifest`)."""
        return self.folder / f"{self.first:020}{ERASURES_SUFFIX}"

    @property
    def is_sealed(self) -> bool:
        """Whether its compressed files count."""
        return self.manifest.is_file()

    @property
    def events_file(self) -> Path:
        """The file of event lines that counts now."""
        return self.sealed_events if self.is_sealed else self.events

    @property
    def records_file(self) -> Path:
        """The file of frames and heads that counts now."""
        return self.sealed_records if self.is_sealed else self.records

    @property
    def size(self) -> int:
        """Bytes of both files that count now; of none that is missing."""
        return sum(file.stat().st_size for file in (self.events_file, self.records_file) if file.is_file())


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


class ChangedRecord(DamagedAudit):
    """A record whose lines are all there, and do not have the digest that its frame states."""

    def __init__(self, segment: Segment, stored: StoredRecord) -> None:
        first, last = stored.records_line + 1, stored.records_line + stored.header_lines
        events = ""
        if stored.events:
            last_event = stored.events_line + stored.events - 1
            events = f", or one of the lines {stored.events_line}-{last_event} of {segment.events_file.name}"
        super().__init__(
            segment.records_file,
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
        segment: Segment,
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
