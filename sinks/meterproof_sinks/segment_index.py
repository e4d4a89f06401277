"""Where the segments of a log begin, for its writer: what it reads again, and what it seals, is found by it."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.log_record import decode_record
from meterproof_schemas.records_tree import head_entry
from meterproof_sinks.audit_segment import Segment, TornAudit
from meterproof_sinks.erased import entry_of_kept
from meterproof_sinks.segment_manifest import LogEnd, SegmentManifest, frontier_of
from meterproof_sinks.segment_reader import read_segment
from meterproof_sinks.segment_sealing import EndedSegment


@dataclass(frozen=True, slots=True)
class _Begin:
    """A segment that holds at least one record."""

    segment: Segment
    log_offset: int
    """Of its first record."""
    before: LogEnd | None
    """Where the log was; None for its first segment."""

    @property
    def records(self) -> int:
        """Records of the log before it."""
        return 0 if self.before is None else self.before.records


class SegmentIndex:
    """The segments of one log, oldest first. Lives as long as the log's writer.

    One thread begins segments, one seals them, and others may read meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begins: list[_Begin] = []
        self._sealed: list[SegmentManifest] = []

    @property
    def newest_manifest(self) -> SegmentManifest | None:
        """That of the last sealed segment; None if none is sealed."""
        return self._sealed[-1] if self._sealed else None

    @property
    def newest(self) -> Segment | None:
        """The last segment; None before the first one."""
        return self._begins[-1].segment if self._begins else None

    def begin(self, segment: Segment, log_offset: int, before: LogEnd | None) -> None:
        """Note the next segment.

        Args:
            segment: which.
            log_offset: of its first record.
            before: where the log was before that.

        """
        self._begins.append(_Begin(segment, log_offset, before))

    def note_sealed(self, manifest: SegmentManifest) -> None:
        """Note that the oldest segment that is not sealed is now."""
        self._sealed.append(manifest)

    def add_sealed(self, manifest: SegmentManifest) -> None:
        """Note a segment that was found sealed."""
        before = self.newest_manifest
        segment = Segment(self._folder, manifest.first)
        self.begin(segment, manifest.first_log_offset, None if before is None else before.end)
        self.note_sealed(manifest)

    def ended(self) -> EndedSegment | None:
        """The oldest segment that is not sealed and to which nothing is appended any more."""
        number = len(self._sealed)
        if number + 1 >= len(self._begins):
            return None
        one, following = self._begins[number], self._begins[number + 1]
        return None if following.before is None else EndedSegment(one.segment, one.log_offset, following.before)

    def events_from(self, first: int) -> Iterator[bytes]:
        """The entries of the first tree on disk from number `first` on."""
        begins = list(self._begins)
        number = max(number for number, one in enumerate(begins) if one.segment.first <= first)
        for one in begins[number:]:
            for stored in read_segment(one.segment, last=one is begins[-1]):
                lines = decode_record(stored.value).lines if stored.position + stored.events > first else ()
                for line in lines[max(0, first - stored.position) :]:
                    yield entry_of_kept(line)

    def heads_from(self, first: int) -> Iterator[bytes]:
        """The entries of the second tree on disk from number `first` on."""
        begins = list(self._begins)
        number = max(number for number, one in enumerate(begins) if one.records <= first)
        record = begins[number].records
        for one in begins[number:]:
            for stored in read_segment(one.segment, last=one is begins[-1]):
                if record >= first:
                    yield head_entry(stored.head)
                record += 1

    def events_root(self, size: int) -> bytes | None:
        """The root over the first `size` entries of the first tree; None unless a record ends there."""
        one = max((one for one in self._begins if one.segment.first < size), key=_first, default=None)
        for end in filter(None, (one.before for one in self._begins)):
            if end.size == size:
                return bytes.fromhex(end.root)
        if one is None:
            return None
        with suppress(TornAudit):
            for stored in read_segment(one.segment, last=True):
                if stored.position + stored.events == size:
                    return bytes.fromhex(decode_record(stored.value).header.root)
                if stored.position > size:
                    break
        return None

    def records_root(self, size: int) -> bytes | None:
        """The root over the first `size` entries of the second tree; None if there are fewer.

        No record states it, so the heads of the segment at hand are hashed again.
        """
        for end in filter(None, (one.before for one in self._begins)):
            if end.records == size:
                return bytes.fromhex(end.records_root)
        one = max((one for one in self._begins if one.records < size), key=_first, default=None)
        if one is None:
            return None
        frontier = Frontier() if one.before is None else frontier_of(one.before.records, one.before.records_frontier)
        with suppress(TornAudit):
            for entry in self.heads_from(frontier.size):
                frontier.extend(leaf_hashes([entry]))
                if frontier.size == size:
                    return frontier.root()
        return None


def _first(one: _Begin) -> int:
    return one.segment.first
