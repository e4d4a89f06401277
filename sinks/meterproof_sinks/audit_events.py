"""Walk the events of an audit folder, as they are kept; also while the sink writes, and on from where a walk ended."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from meterproof_schemas.effect import Effect
from meterproof_schemas.log_record import RecordHeader
from meterproof_sinks.audit_folder import read_log_name, segments_of
from meterproof_sinks.audit_segment import Segment, StoredRecord, TornAudit
from meterproof_sinks.erased import erased_entry
from meterproof_sinks.event_search import logs_of, records_of
from meterproof_sinks.segment_compression import chunks_of
from meterproof_sinks.segment_manifest import read_manifest
from meterproof_sinks.segment_reader import open_files, read_segment

OnRecord = Callable[[StoredRecord], None]
"""Called with every record that was walked."""


@dataclass(frozen=True, slots=True)
class KeptEvent:
    """An accepted event as an audit folder keeps it."""

    log: str
    """Origin of its log."""
    position: int
    line: bytes
    """Byte for byte as the log accepted it, or what erasure left in its place; without LF."""
    effect: Effect | None = None
    """Of a correction: what it does, by its record."""

    @property
    def erased(self) -> str | None:
        """SHA-256 of the line in hexadecimal, if the line was erased."""
        entry = erased_entry(self.line)
        return None if entry is None else entry.hex()

    def as_json(self) -> bytes:
        """One JSON object, in which the event's line stands as it is: no number is spelled anew."""
        erased = self.erased
        kept = b'"event":%s' % self.line if erased is None else b'"erased":"%s"' % erased.encode()
        effect = b"" if self.effect is None else b'"correction":"%s",' % self.effect.encode()
        return b'{"log":"%s","position":%d,%s%s}' % (self.log.encode(), self.position, effect, kept)


def kept_events(folder: Path, on_record: OnRecord = lambda _: None) -> Iterator[KeptEvent]:
    """All events of an audit folder, log by log, by position; a record that is being written is left out.

    Args:
        folder: audit folder, or one log's folder.
        on_record: told of every record after its events.

    Raises:
        DamagedAudit: the folder does not hold; after the events before the damage.
        OSError: a file cannot be read.
    """
    for log in logs_of(folder):
        origin = read_log_name(log).origin
        for _, stored in records_of(log):
            yield from events_in(origin, stored)
            on_record(stored)


def count_events(log: Path) -> int:
    """How many events the segments of a log hold, for a progress bar: sealed ones say it, lines of others are counted.

    Raises:
        DamagedAudit: a manifest is not as it was written.
        OSError: a file cannot be read.
    """
    counted = 0
    for segment in segments_of(log):
        if segment.is_sealed:
            counted += read_manifest(segment).files.events.lines
            continue
        with suppress(FileNotFoundError):  # it was only begun
            events, records = open_files(segment)
            with events, records:
                counted += sum(chunk.count(b"\n") for chunk in chunks_of(events))
    return counted


def events_in(origin: str, stored: StoredRecord) -> Iterator[KeptEvent]:
    """The events of one record."""
    if stored.events:
        lines = stored.value[len(stored.head) : -1].split(b"\n")
        header_line = stored.head.partition(b"\n")[0]
        rarely = b'"corrections":' in header_line
        effects = RecordHeader.model_validate_json(header_line).effects if rarely else {}
        for position, line in enumerate(lines, stored.position):
            yield KeptEvent(origin, position, line, effects.get(position))


class LogTail:
    """The end of one log, and what comes behind it while the sink writes. Lives as long as somebody looks."""

    def __init__(self, folder: Path) -> None:
        """Look at a log's folder; nothing is read yet."""
        self._folder = folder
        self._origin = read_log_name(folder).origin
        self._after: StoredRecord | None = None
        self._read_from: dict[int, int | None] = {}
        """By first position of a segment: which events file it was last read from. Another one, as it is after an
        erasure or when the segment is sealed, may have the same lines at other places."""

    def last(self, count: int) -> list[KeptEvent]:
        """The last events, in order; reads as many segments from the end as hold them.

        Raises:
            DamagedAudit: the segments read do not hold.
            OSError: a file cannot be read.
        """
        gathered: list[KeptEvent] = []
        segments = segments_of(self._folder)
        for segment in reversed(segments):
            events: deque[KeptEvent] = deque(maxlen=count)
            end: StoredRecord | None = None
            for end in self._whole_records(segment, last=segment is segments[-1]):
                events.extend(events_in(self._origin, end))
            self._after = self._after or end
            gathered = [*events, *gathered][-count:] if count else []
            if len(gathered) == count and self._after is not None:
                break
        return gathered

    def new(self) -> Iterator[KeptEvent]:
        """What was written since `last`, or since the last event that this gave.

        Raises:
            DamagedAudit: it does not hold.
            OSError: a file cannot be read.
        """
        begin = 0 if self._after is None else self._after.segment.first
        segments = [segment for segment in segments_of(self._folder) if segment.first >= begin]
        for segment in segments:
            for stored in self._whole_records(segment, self._after, last=segment is segments[-1]):
                yield from events_in(self._origin, stored)
                self._after = stored

    def _whole_records(
        self, segment: Segment, after: StoredRecord | None = None, *, last: bool
    ) -> Iterator[StoredRecord]:
        """The whole records of a segment, behind one if that is given; one that is being written is left out."""
        file = _inode(segment.events_file)
        place = after if after and after.segment == segment and self._read_from.get(segment.first) == file else None
        self._read_from[segment.first] = file
        try:
            for stored in read_segment(segment, last=last, after=place):
                if after is None or stored.log_offset > after.log_offset:
                    yield stored
        except TornAudit as torn:
            if not torn.incomplete:
                raise


def _inode(file: Path) -> int | None:
    """Which file has this name now; None if none has."""
    try:
        return file.stat().st_ino
    except FileNotFoundError:
        return None
