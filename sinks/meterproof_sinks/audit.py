"""The audit sink: writes accepted records into an audit folder, durable before it says so.

`AuditLog` is the one writer of one log's folder; `AuditSink` holds one per partition for a worker. The layout, and what
counts as on disk, is in `audit_folder`.
"""

import asyncio
import fcntl
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from pathlib import Path
from typing import Final

import structlog

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.errors import ProofError, WrongOrigin
from meterproof_proofs.frontier import Frontier, leaf_hashes
from meterproof_proofs.note import SignedNote, Verifier
from meterproof_proofs.tree import EMPTY_ROOT, node_hash
from meterproof_schemas.chain import Cursor, LogChain
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.event import entry_of
from meterproof_schemas.log_record import Genesis, LogRecord, decode_record
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.records_tree import head_entry, head_of, records_origin, records_verifiers
from meterproof_sinks.audit_folder import (
    CHECKPOINT_FILE,
    LOCK_FILE,
    LOG_FILE,
    RECORDS_CHECKPOINT_FILE,
    RECORDS_TLOG_FOLDER,
    TLOG_FOLDER,
    AuditError,
    DamagedAudit,
    LogName,
    Segment,
    StoredRecord,
    TornAudit,
    encode_log_name,
    follow_records,
    log_folder_name,
    log_folders,
    read_log_name,
    read_segment,
    segments_of,
    split_record,
)
from meterproof_sinks.disk import NEW_SUFFIX, Disk
from meterproof_sinks.erased import entry_of_kept
from meterproof_sinks.tlog_folder import TlogFolder, adds_a_signature

_BOUNDARIES_MAX: Final = 16_384
"""Record ends whose roots are kept in memory; the roots of older ones are read from disk."""
_WAITING_MAX: Final = 4_096
"""Checkpoints kept that are ahead of the disk; the smallest go first, for a larger one will do."""
_RECENT_MAX: Final = 262_144
"""Entries kept in memory for the next checkpoint's tiles (about 20 MB); if more come, they are read from disk then."""
_PUBLISH_POLL_S: Final = 0.5
"""How long the publisher waits at most before it looks whether to stop."""
_LOCK_ATTEMPTS: Final = 20
_LOCK_PAUSE_S: Final = 0.05

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.audit")


class LockedAudit(AuditError):
    """Another process writes into this log's folder."""


class AuditDiskError(AuditError):
    """The disk refused a write or a sync. Nothing of that write counts, and this writer writes no more."""


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


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed checkpoint: what it says, and the note itself. Whoever makes one has verified the signature."""

    checkpoint: Checkpoint
    note: bytes


@dataclass(frozen=True, slots=True)
class SignedPair:
    """The checkpoints of a log's two trees at one record, as one record of the topic publishes them."""

    events: Signed
    records: Signed | None = None
    """None in what was signed before logs had a second tree."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Entries of the two trees: grows from pair to pair of a log."""
        return self.events.checkpoint.size, 0 if self.records is None else self.records.checkpoint.size


@dataclass(slots=True)
class _Tree:
    """One of a log's two trees, as far as the lines on disk have it."""

    origin: str
    file: Path
    """Of its signed checkpoint."""
    tlog: TlogFolder
    size: int = 0
    """Entries on disk."""
    recent: list[bytes] = field(default_factory=list)
    """The last entries before the end, for the next checkpoint's tiles."""
    edges: OrderedDict[int, list[bytes]] = field(default_factory=OrderedDict)
    """What folds to the root at the last record ends, by size: the frontier's hashes, or the root alone."""
    signed: Signed | None = None
    """The checkpoint on disk."""

    def take(self, entries: Iterable[bytes], hashes: list[bytes]) -> None:
        """Count entries that are on the device."""
        before = len(self.recent)
        self.recent += entries
        self.size += len(self.recent) - before
        if len(self.recent) > _RECENT_MAX:
            self.recent = []
        self.note_end(hashes)

    def note_end(self, hashes: list[bytes]) -> None:
        """Remember what folds to the root at the present size."""
        self.edges[self.size] = hashes
        if len(self.edges) > _BOUNDARIES_MAX:
            self.edges.popitem(last=False)

    def wants(self, offered: Signed) -> bool:
        """Whether a checkpoint is larger than the one on disk, or of its size with one signature more."""
        if self.signed is None:
            return True
        size, own = offered.checkpoint.size, self.signed.checkpoint.size
        return size > own or (size == own and adds_a_signature(offered.note, self.signed.note))


class AuditLog:
    """The one writer of one log's folder.

    Promises: what `append` returned from is on the device, whole and in order; after any error of the disk it refuses
    everything, and a new one that is opened on the folder goes on after the last whole record. Holds the folder's lock
    from `__init__` to `close`. Blocking; appends from several threads wait for each other, and so do publications, but
    a publication lets appends through: it works on entries that are on the device already.

    Opening reads the whole log once and checks every record's digest and its link to the one before.

    1. Take the lock. 2. Name the log, if it is new. 3. Read all records. 4. Compare them with the signed checkpoint.
    5. Set a torn tail aside. 6. Open the last segment and sync it: what a killed writer left may be in memory only.
    7. Bring the tiles up to the checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        origin: str,
        partition: int,
        *,
        limits: SegmentLimits | None = None,
        disk: Disk | None = None,
    ) -> None:
        """Open the folder, or make it.

        Raises:
            LockedAudit: another writer has it.
            DamagedAudit: something before the tail is not as it was written, or less is there than was signed for.
            StageStopped: `log_diverged` when the tiles are not those of the lines.
            AuditDiskError: a torn tail cannot be set aside, or the folder not be made.
        """
        self.folder = folder
        self.origin = origin
        self.torn_tails = 0
        """Torn tails set aside by this writer."""
        self.torn_bytes = 0
        self._limits = SegmentLimits() if limits is None else limits
        self._disk = Disk() if disk is None else disk
        self._chain = LogChain()
        self._events = _Tree(origin, folder / CHECKPOINT_FILE, TlogFolder(folder / TLOG_FOLDER, self._disk))
        self._records = _Tree(
            records_origin(origin),
            folder / RECORDS_CHECKPOINT_FILE,
            TlogFolder(folder / RECORDS_TLOG_FOLDER, self._disk),
        )
        self._records_frontier = Frontier()
        self._records_before: dict[int, int] = {}
        """By first position of each segment: records of the log before it."""
        self._writing = False
        """Set while a write is under way, and for good by a failed one or by `close`: nothing more is written then."""
        self._one_at_a_time = threading.Lock()
        """Held while anything above changes: for an append as long as it takes, for a publication briefly."""
        self._publishing = threading.Lock()
        """Held for a whole publication; taken before the other where both are."""
        self._open: _Open | None = None
        self._lock = self._take_lock()  # 1
        try:
            self._name_log(LogName(version=1, origin=origin, partition=partition))  # 2
            whole, torn = self._read()  # 3
            self._check_checkpoint(self._events)  # 4
            self._check_checkpoint(self._records)
            if torn is not None:
                self._set_aside(torn)  # 5
            self._reopen(whole)  # 6
            for tree in (self._events, self._records):  # 7
                if tree.signed is not None:
                    tree.tlog.bring_up(tree.signed.checkpoint, tree.signed.note, partial(self._entries_from, tree))
        except OSError as error:
            self.close()
            raise AuditDiskError(f"{folder}: cannot be opened for writing: {error}") from error
        except BaseException:
            self.close()
            raise

    @property
    def cursor(self) -> Cursor | None:
        """The last record on disk; None when there is none."""
        chain = self._chain
        if chain.genesis is None:
            return None
        return Cursor(chain.genesis.epoch, chain.log_offset, chain.digest, chain.position)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The log's signed checkpoint on disk."""
        return None if self._events.signed is None else self._events.signed.checkpoint

    @property
    def records_checkpoint(self) -> Checkpoint | None:
        """The second tree's signed checkpoint on disk."""
        return None if self._records.signed is None else self._records.signed.checkpoint

    def covers(self, pair: SignedPair) -> bool:
        """Whether everything that the pair commits to is on the device."""
        events, records = pair.sizes
        return events <= self._events.size and records <= self._records.size

    def append(self, records: Sequence[tuple[int, LogRecord]]) -> None:
        """Write the next records, as (log offset, record); returns when they are on the device.

        1. Check that they continue what is on disk. 2. Write the event lines, then the records that name them, segment
        by segment. 3. Sync both files. 4. Count them as on disk. If 2 or 3 fails, both files are cut back to what was
        durable before: the bytes of a failed sync may look written and be lost later.

        Raises:
            StageStopped: `log_diverged` when they do not continue; nothing was written.
            AuditDiskError: nothing of this call may be relied on, though records before the fault may be on disk.
        """
        with self._one_at_a_time:
            if self._writing:
                raise AuditDiskError(
                    f"{self.folder}: closed, or an earlier write failed; start the sink again to go on"
                )
            self._check_next(records)  # 1
            self._writing = True
            rest = list(records)
            try:
                while rest:
                    rest = self._append_to_segment(rest)  # 2-4
            except OSError as error:
                raise AuditDiskError(
                    f"{self.folder}: {error.strerror or error}; the audit sink stops. Make room or repair the disk, "
                    f"then start it again: it goes on at position {self._chain.position}{self._give_back()}"
                ) from error
            self._writing = False

    def take_checkpoints(self, pair: SignedPair) -> None:
        """Make signed checkpoints, whose every entry is on disk, the folder's own if they are the largest; publish.

        Verify signatures before. 1. Compare both with the disk. 2. Write them down. 3. Bring the tiles up to them: what
        is published there is never ahead of what this folder itself would hold a later writer to. Appends go on
        meanwhile.

        Raises:
            StageStopped: `log_diverged` when one contradicts what is on disk, or the tiles do.
            AuditDiskError: they cannot be written.
        """
        offered = [(self._events, pair.events)]
        if pair.records is not None:
            offered.append((self._records, pair.records))
        with self._publishing:
            for tree, signed in offered:  # 1
                self._compare(tree, signed.checkpoint)
            wanted = [(tree, signed) for tree, signed in offered if tree.wants(signed)]
            try:
                for tree, signed in wanted:  # 2
                    self._must_go_on()
                    self._disk.replace(tree.file, signed.note)
                for tree, signed in wanted:  # 3
                    self._publish(tree, signed)
            except OSError as error:
                self._stop_writing()
                raise AuditDiskError(f"{error.filename or self.folder}: {error.strerror or error}") from error
            except StageStopped:
                self._stop_writing()
                raise

    def compare_checkpoints(self, pair: SignedPair) -> None:
        """Return if signed checkpoints whose every entry is on disk agree with the disk.

        Raises:
            StageStopped: `log_diverged` when one does not.
        """
        self._compare(self._events, pair.events.checkpoint)
        if pair.records is not None:
            self._compare(self._records, pair.records.checkpoint)

    def has_roots_in_memory(self, pair: SignedPair) -> bool:
        """Whether comparing these checkpoints costs no reading."""
        events, records = pair.sizes
        return events in self._events.edges and (pair.records is None or records in self._records.edges)

    def close(self) -> None:
        """Let go of the files and the lock, after a write that is under way. May be repeated."""
        with self._publishing, self._one_at_a_time:
            self._writing = True
            self._close_segment()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    # --- opening ---

    def _take_lock(self) -> int | None:
        try:
            missing = [one for one in (self.folder, *self.folder.parents) if not one.is_dir()]
            for folder in reversed(missing):
                self._disk.make_folder(folder)
                self._disk.sync_folder(folder.parent)
            descriptor = self._disk.open_append(self.folder / LOCK_FILE)
        except OSError as error:
            raise AuditDiskError(f"{self.folder}: cannot be opened for writing: {error}") from error
        # A verifier that looks whether a writer is at work holds the lock for an instant, hence more than one attempt.
        for _ in range(_LOCK_ATTEMPTS):
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            time.sleep(_LOCK_PAUSE_S)
        os.close(descriptor)
        raise LockedAudit(f"{self.folder}: another process writes here; one audit worker per log")

    def _name_log(self, name: LogName) -> None:
        for beside in (LOG_FILE, CHECKPOINT_FILE, RECORDS_CHECKPOINT_FILE):
            unfinished = self.folder / (beside + NEW_SUFFIX)
            if unfinished.exists():
                self._disk.remove(unfinished)
        try:
            found = read_log_name(self.folder)
        except FileNotFoundError:
            if segments_of(self.folder):
                raise DamagedAudit(self.folder / LOG_FILE, None, None, "is missing, but segments are there") from None
            self._disk.replace(self.folder / LOG_FILE, encode_log_name(name))
            return
        if found != name:
            raise DamagedAudit(
                self.folder / LOG_FILE, 1, None, f"says {found.origin}, but the folder is of {name.origin}"
            )

    def _read(self) -> tuple[StoredRecord | None, TornAudit | None]:
        """Follow the chain over all records; the last whole one, and the torn tail if there is one."""
        whole: StoredRecord | None = None
        try:
            for stored, record in follow_records(self.folder, self._chain):
                if whole is None and (record.header.genesis is None or record.header.genesis.origin != self.origin):
                    raise DamagedAudit(
                        stored.segment.records, stored.records_line + 1, 0, f"not the genesis of {self.origin}"
                    )
                if whole is None or stored.segment != whole.segment:
                    self._records_before[stored.segment.first] = self._records.size
                whole = stored
                self._count(record, keep_entries=False)
        except TornAudit as torn:
            return whole, torn
        return whole, None

    def _check_checkpoint(self, tree: _Tree) -> None:
        """Compare a tree's signed checkpoint, if there is one, with the records."""
        file = tree.file
        try:
            note = file.read_bytes()
            checkpoint = Checkpoint.parse(SignedNote.parse(note).text)
        except FileNotFoundError:
            return
        except ProofError as error:
            raise DamagedAudit(file, None, None, str(error)) from error
        if checkpoint.origin != tree.origin:
            raise DamagedAudit(file, 1, None, f"is a checkpoint of {checkpoint.origin}")
        if checkpoint.size > tree.size:
            raise DamagedAudit(
                file,
                2,
                self._chain.position,
                f"{checkpoint.size} entries were on disk and signed for, now {tree.size} are whole. "
                "Restore the segments from a copy, or move the folder away: a new one begins where the topic does",
            )
        if self._root_at(tree, checkpoint.size) != checkpoint.root:
            raise DamagedAudit(file, 3, None, f"its root is not the root of the {checkpoint.size} entries on disk")
        tree.signed = Signed(checkpoint, note)

    def _set_aside(self, torn: TornAudit) -> None:
        """Move the bytes behind the last whole record to side files: copied and synced before they are cut off."""
        moved = 0
        for path, whole in ((torn.segment.events, torn.events_bytes), (torn.segment.records, torn.records_bytes)):
            with path.open("rb") as file:
                file.seek(whole)
                tail = file.read()
            if not tail:
                continue
            number = 1
            while (aside := path.with_name(f"{path.name}.{number}.torn")).exists():
                number += 1
            self._disk.replace(aside, tail)
            self._disk.truncate(path, whole)
            moved += len(tail)
        self.torn_tails += 1
        self.torn_bytes += moved
        _log.warning("audit_torn_tail_set_aside", place=str(torn), bytes=moved, position=self._chain.position)

    def _reopen(self, whole: StoredRecord | None) -> None:
        segments = segments_of(self.folder)
        if not segments:
            return
        opened = self._open_segment(segments[-1])
        for descriptor in (opened.events, opened.records):
            self._disk.sync(descriptor)
        self._disk.sync_folder(self.folder)
        if opened.segment.first != self._chain.position and (whole is None or whole.segment != opened.segment):
            raise DamagedAudit(
                opened.segment.records,
                None,
                self._chain.position,
                f"a segment that begins at {self._chain.position} was due",
            )
        if whole is not None and whole.segment == opened.segment:
            opened.events_bytes, opened.records_bytes = whole.events_bytes, whole.records_bytes
            clocks = (decode_record(stored.value).header.clock_ms for stored in read_segment(opened.segment, last=True))
            opened.first_clock_ms = next(filter(None, clocks), 0)

    # --- writing ---

    def _check_next(self, records: Sequence[tuple[int, LogRecord]]) -> None:
        chain = self._chain
        offset, digest, position = chain.log_offset, chain.digest, chain.position
        for log_offset, record in records:
            header = record.header
            if header.genesis is not None and header.genesis.origin != self.origin:
                raise chain.diverged(log_offset, f"is the genesis of {header.genesis.origin}, not of {self.origin}")
            if log_offset <= offset or header.prev != digest or header.first != position:
                raise chain.diverged(
                    log_offset,
                    f"(first position {header.first}, prev {header.prev[:16]}…) does not follow the last one on disk "
                    f"(log offset {offset}, next position {position}, digest {digest[:16]}…)",
                )
            offset, digest, position = log_offset, record.digest, header.size

    def _append_to_segment(self, records: list[tuple[int, LogRecord]]) -> list[tuple[int, LogRecord]]:
        """Write the records up to the segment's end; return the others."""
        opened = self._open
        if opened is None or self._is_full(opened, records[0][1]):
            opened = self._open_segment(Segment(self.folder, self._chain.position))
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
        for log_offset, record in records[: len(frames)]:
            self._chain.advance(log_offset, record.header, record.digest)
            self._count(record, keep_entries=True)
        return records[len(frames) :]

    def _is_full(self, opened: _Open, record: LogRecord) -> bool:
        """Whether a new segment begins before this record."""
        if record.header.first == opened.segment.first:
            return False
        if opened.events_bytes + opened.records_bytes >= self._limits.bytes_max:
            return True
        return bool(opened.first_clock_ms) and record.header.clock_ms - opened.first_clock_ms >= self._limits.age_ms

    def _open_segment(self, segment: Segment) -> _Open:
        """Open a segment's files for appending, made if missing; the sizes are not known yet."""
        self._close_segment()
        new = not (segment.events.exists() and segment.records.exists())
        events = self._disk.open_append(segment.events)
        try:
            records = self._disk.open_append(segment.records)
        except OSError:
            os.close(events)
            raise
        self._open = _Open(segment, events, records)
        self._records_before.setdefault(segment.first, self._records.size)
        if new:
            self._disk.sync_folder(self.folder)
        return self._open

    def _close_segment(self) -> None:
        if self._open is not None:
            opened, self._open = self._open, None
            os.close(opened.events)
            os.close(opened.records)

    def _give_back(self) -> str:
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

    # --- entries and roots ---

    def _count(self, record: LogRecord, *, keep_entries: bool) -> None:
        """Take a record that is on disk into both trees; its entries stay in memory if they were just written."""
        head = head_entry(head_of(record))
        self._records_frontier.extend(leaf_hashes([head]))
        events, records = self._events, self._records
        hashes, records_hashes = [bytes.fromhex(record.header.root)], self._records_frontier.hashes
        if keep_entries:
            events.take(map(entry_of, record.lines), hashes)
            records.take([head], records_hashes)
            return
        events.size += len(record.lines)
        events.note_end(hashes)
        records.size += 1
        records.note_end(records_hashes)

    def _entries_from(self, tree: _Tree, first: int) -> Iterable[bytes]:
        """A tree's entries on disk from number `first` on; from memory if they are all kept there."""
        with self._one_at_a_time:
            recent_first = tree.size - len(tree.recent)
            if first >= recent_first:
                return tree.recent[first - recent_first :]
        return self._events_on_disk(first) if tree is self._events else self._heads_on_disk(first)

    def _events_on_disk(self, first: int) -> Iterator[bytes]:
        segments = segments_of(self.folder)
        begin = max(number for number, segment in enumerate(segments) if segment.first <= first)
        for segment in segments[begin:]:
            for stored in read_segment(segment, last=segment is segments[-1]):
                lines = decode_record(stored.value).lines if stored.position + stored.events > first else ()
                for line in lines[max(0, first - stored.position) :]:
                    yield entry_of_kept(line)

    def _heads_on_disk(self, first: int) -> Iterator[bytes]:
        # A segment that is only being made has no record yet, and is not counted.
        segments = [one for one in segments_of(self.folder) if one.first in self._records_before]
        begin = max(number for number, one in enumerate(segments) if self._records_before[one.first] <= first)
        number = self._records_before[segments[begin].first]
        for segment in segments[begin:]:
            for stored in read_segment(segment, last=segment is segments[-1]):
                if number >= first:
                    yield head_entry(stored.head)
                number += 1

    def _compare(self, tree: _Tree, checkpoint: Checkpoint) -> None:
        root = self._root_at(tree, checkpoint.size)
        if checkpoint.origin != tree.origin or root != checkpoint.root:
            found = "is not the end of any record" if root is None else f"has root {root.hex()}"
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"a signed checkpoint of {checkpoint.origin} says size {checkpoint.size} has root "
                f"{checkpoint.root.hex()}, but on disk {tree.origin} {found}. Keep {self.folder} and the topic as they "
                "are and compare them: one of them was changed, or the log's key signed two histories.",
            )

    def _root_at(self, tree: _Tree, size: int) -> bytes | None:
        """The root over the first `size` entries on disk; None unless a record ends there."""
        if size == 0:
            return EMPTY_ROOT
        with self._one_at_a_time:
            if (hashes := tree.edges.get(size)) is not None:
                return reduce(lambda root, left: node_hash(left, root), reversed(hashes))
        if tree is self._records:
            return self._records_root_on_disk(size)
        segment = max(
            (one for one in segments_of(self.folder) if one.first < size), key=lambda one: one.first, default=None
        )
        if segment is None:
            return None
        with suppress(TornAudit):
            for stored in read_segment(segment, last=True):
                if stored.position + stored.events == size:
                    return bytes.fromhex(decode_record(stored.value).header.root)
                if stored.position > size:
                    break
        return None

    def _records_root_on_disk(self, size: int) -> bytes | None:
        """No record states this root, so all heads up to there are hashed again."""
        frontier = Frontier()
        with suppress(TornAudit):
            for entry in self._heads_on_disk(0):
                frontier.extend(leaf_hashes([entry]))
                if frontier.size == size:
                    return frontier.root()
        return None

    # --- publishing ---

    def _publish(self, tree: _Tree, signed: Signed) -> None:
        """Bring a tree's tiles up to its checkpoint, then forget the entries that are in them."""
        tree.tlog.write(signed.checkpoint, signed.note, partial(self._entries_from, tree))
        with self._one_at_a_time:
            tree.signed = signed
            tree.recent = tree.recent[max(0, len(tree.recent) - (tree.size - signed.checkpoint.size)) :]

    def _must_go_on(self) -> None:
        with self._one_at_a_time:
            if self._writing:
                raise AuditDiskError(
                    f"{self.folder}: closed, or an earlier write failed; start the sink again to go on"
                )

    def _stop_writing(self) -> None:
        with self._one_at_a_time:
            self._writing = True


def _stopped(damage: DamagedAudit) -> StageStopped:
    """How a worker stops for a person because of damage."""
    return StageStopped(
        StopReason.LOG_DIVERGED,
        f"the audit folder is not as it was written: {damage}. Nothing was changed. Keep it for evidence and put a "
        "copy that verifies in its place, or move it away and let the worker write it anew from the topic",
    )


class AuditSink:
    """The sink of a worker: one `AuditLog` per partition, opened when it is first asked for.

    Promises what `AuditLog` promises, for any number of partitions at once; blocking work is done in threads. Writing
    and publishing do not wait for each other: `publish_until` runs beside the writers. Lives as long as its worker.
    """

    name = "audit"

    def __init__(
        self,
        folder: Path,
        *,
        verifiers: Sequence[Verifier] = (),
        limits: SegmentLimits | None = None,
        disk: Disk | None = None,
    ) -> None:
        """Take the audit folder, which may be missing.

        Args:
            folder: holds one folder per log.
            verifiers: the keys that sign checkpoints; without any, checkpoints are compared with the disk only.
            limits: when segments end.
            disk: the file operations.

        """
        self._folder = folder
        self._verifiers = tuple(verifiers)
        self._limits = limits
        self._disk = disk
        self._logs: dict[int, AuditLog] = {}
        self._waiting: dict[str, dict[tuple[int, int], SignedPair]] = {}
        """By log and sizes: pairs that are not compared with the disk yet."""
        self._waiting_roots: dict[tuple[str, int], bytes] = {}
        """By tree and size: the roots of those pairs."""
        self._due = asyncio.Event()
        """Set when there may be something to publish."""
        self._locks: dict[int, asyncio.Lock] = {}
        self.refused_checkpoints = 0
        """Records of the checkpoint topic that no given key signed, or that are no checkpoints."""

    async def cursor(self, log: int) -> Cursor | None:
        """Where to go on with a partition's log: the last whole record on disk; None if the folder has none of it.

        Raises:
            StageStopped: `log_diverged` when the folder is damaged.
            AuditError: see `AuditLog`, or the folder has two logs of this partition.
        """
        async with self._lock(log):
            opened = self._logs.get(log)
            if opened is None and (found := await asyncio.to_thread(self._find, log)) is not None:
                opened = await self._open(log, *found)
            return None if opened is None else opened.cursor

    async def write(self, partition: int, genesis: Genesis, records: Sequence[tuple[int, LogRecord]]) -> None:
        """Write the next records of a partition, as (log offset, record); returns when they are durable.

        Raises:
            StageStopped: `log_diverged` when they do not continue what is on disk, or a checkpoint contradicts it.
            AuditError: see `AuditLog`.
        """
        if not records:
            return
        async with self._lock(partition):
            log = self._logs.get(partition)
            if log is None:
                folder = self._folder / log_folder_name(genesis.origin)
                log = await self._open(partition, folder, genesis.origin)
            if log.origin != genesis.origin:
                raise StageStopped(
                    StopReason.LOG_DIVERGED,
                    f"{log.folder} holds {log.origin}, but the topic now has {genesis.origin}. Move that folder out of "
                    f"{self._folder} to begin the new log; it stays verifiable where it lies.",
                )
            await asyncio.to_thread(log.append, records)
        self._due.set()

    def offer_checkpoints(self, note: bytes, records_note: bytes | None = None) -> None:
        """Take the signed checkpoints of a log's trees from the topic: they are published once all is on disk.

        Notes without a valid signature by one of the keys are counted and ignored: anyone may write to a topic.

        Raises:
            StageStopped: `log_diverged` when two that wait contradict each other.
        """
        try:
            events = self._verified(note, None)
            records = None if records_note is None else self._verified(records_note, events.checkpoint.origin)
        except ProofError as error:
            self.refused_checkpoints += 1
            _log.warning("audit_checkpoint_refused", reason=str(error))
            return
        pair = SignedPair(events, records)
        waiting = self._waiting.setdefault(events.checkpoint.origin, {})
        for tree in filter(None, (events, records)):
            self._compare_waiting(tree.checkpoint)
        known = waiting.get(pair.sizes)
        if known is None or adds_a_signature(note, known.events.note):
            waiting[pair.sizes] = pair
        if len(waiting) > _WAITING_MAX:
            self._forget(waiting.pop(min(waiting)))
        self._due.set()

    async def publish(self) -> None:
        """Compare every waiting checkpoint that the disk now covers, and publish the largest of each log.

        Raises:
            StageStopped: `log_diverged` when one contradicts what is on disk.
            AuditDiskError: it cannot be written.
        """
        for log in list(self._logs.values()):
            waiting = self._waiting.get(log.origin, {})
            covered = sorted(sizes for sizes, pair in waiting.items() if log.covers(pair))
            for sizes in covered:
                pair = waiting[sizes]
                if sizes == covered[-1]:
                    await asyncio.to_thread(log.take_checkpoints, pair)
                elif log.has_roots_in_memory(pair):
                    log.compare_checkpoints(pair)
                if waiting.get(sizes) is pair:  # another one with more signatures may have come meanwhile
                    self._forget(waiting.pop(sizes))

    async def publish_until(self, stop: asyncio.Event) -> None:
        """Publish whenever there is something to, until `stop` is set; then once more.

        Raises:
            StageStopped, AuditDiskError: see `publish`.
        """
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), _PUBLISH_POLL_S)
            self._due.clear()
            await self.publish()
        await self.publish()

    async def close(self) -> None:
        """Let go of all folders."""
        for log in self._logs.values():
            await asyncio.to_thread(log.close)
        self._logs.clear()

    def logs(self) -> dict[int, AuditLog]:
        """The open logs by partition, to look at."""
        return dict(self._logs)

    def _lock(self, partition: int) -> asyncio.Lock:
        return self._locks.setdefault(partition, asyncio.Lock())

    def _find(self, partition: int) -> tuple[Path, str] | None:
        mine: list[tuple[Path, str]] = []
        for folder in log_folders(self._folder):
            try:
                name = read_log_name(folder)
            except DamagedAudit as damage:
                raise _stopped(damage) from damage
            except FileNotFoundError:
                missing = DamagedAudit(folder / LOG_FILE, None, None, "is missing, but segments are there")
                raise _stopped(missing) from None
            if name.partition == partition:
                mine.append((folder, name.origin))
        if len(mine) > 1:
            raise AuditError(
                f"{self._folder}: two logs of partition {partition}: {mine[0][0].name} and {mine[1][0].name}. Move the "
                "older one out of the folder; it stays verifiable where it lies."
            )
        return mine[0] if mine else None

    async def _open(self, partition: int, folder: Path, origin: str) -> AuditLog:
        def opened() -> AuditLog:
            return AuditLog(folder, origin, partition, limits=self._limits, disk=self._disk)

        try:
            log = self._logs[partition] = await asyncio.to_thread(opened)
        except DamagedAudit as damage:
            raise _stopped(damage) from damage
        return log

    def _compare_waiting(self, checkpoint: Checkpoint) -> None:
        root = self._waiting_roots.setdefault((checkpoint.origin, checkpoint.size), checkpoint.root)
        if root != checkpoint.root:
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"two signed checkpoints of {checkpoint.origin} give size {checkpoint.size} different roots: the log's "
                "key signed two histories. Keep both and ask the log's owner.",
            )

    def _forget(self, pair: SignedPair) -> None:
        for tree in filter(None, (pair.events, pair.records)):
            self._waiting_roots.pop((tree.checkpoint.origin, tree.checkpoint.size), None)

    def _verified(self, note: bytes, log: str | None) -> Signed:
        """The checkpoint of a log, or of the second tree of `log`."""
        if not self._verifiers:
            checkpoint = Checkpoint.parse(SignedNote.parse(note).text)
        elif log is None:
            checkpoint = open_checkpoint(note, self._verifiers)
        else:
            trusted = [key for key in self._verifiers if key.name == log] or self._verifiers
            checkpoint = open_checkpoint(note, records_verifiers(trusted, log))
        if log is not None and checkpoint.origin != records_origin(log):
            raise WrongOrigin(records_origin(log), checkpoint.origin)
        return Signed(checkpoint, note)
