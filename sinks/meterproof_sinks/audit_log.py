"""The one writer of one log's audit folder: durable before it says so. The layout is in `audit_folder`."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog

from meterproof_proofs.checkpoint import Checkpoint
from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.chain import Cursor, LogChain
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.event import entry_of
from meterproof_schemas.log_record import LogRecord, decode_record
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.records_tree import head_entry, head_of, records_origin
from meterproof_sinks.audit_erasure import Matches, erase_from_log
from meterproof_sinks.audit_errors import AuditDiskError, DamagedAudit
from meterproof_sinks.audit_folder import (
    CHECKPOINT_FILE,
    LOG_FILE,
    RECORDS_CHECKPOINT_FILE,
    RECORDS_TLOG_FOLDER,
    TLOG_FOLDER,
    LogName,
    encode_log_name,
    follow_stored,
    read_log_name,
    read_records,
    segments_of,
    unfinished_files,
)
from meterproof_sinks.audit_lock import AuditLock
from meterproof_sinks.audit_retention import RetainedLog, RetentionRequest, give_up, remove_given_up
from meterproof_sinks.audit_segment import Segment, StoredRecord, TornAudit
from meterproof_sinks.audit_tree import AuditTree, Signed, SignedPair, read_signed
from meterproof_sinks.disk import Disk
from meterproof_sinks.given_up import beginning_of
from meterproof_sinks.kept_checkpoints import keep_checkpoints
from meterproof_sinks.legal_holds import Hold
from meterproof_sinks.segment_index import SegmentIndex
from meterproof_sinks.segment_manifest import LogEnd, SegmentManifest, frontier_of, read_manifests
from meterproof_sinks.segment_reader import read_segment
from meterproof_sinks.segment_sealing import check_sealed, heal, seal
from meterproof_sinks.segment_writer import SegmentLimits, SegmentWriter
from meterproof_sinks.tlog_folder import TlogFolder
from meterproof_sinks.torn_tail import set_aside

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.audit")


class AuditLog:
    """The one writer of one log's folder.

    Promises: what `append` returned from is on the device, whole and in order; after any error of the disk it refuses
    everything, and a new one that is opened on the folder goes on after the last whole record. Holds the folder's lock
    from `__init__` to `close`. Blocking; appends from several threads wait for each other, and so do publications, but
    a publication lets appends through: it works on entries that are on the device already.

    A segment that has ended is sealed by `seal_next`, beside appends and publications: compressed, with a manifest.

    Opening hashes every sealed segment's files and compares them with its manifest. It reads the newest sealed segment
    and all that are not, and checks every record's digest and its link to the one before.

    1. Take the lock. 2. Remove what was not finished; name the log, if it is new. 3. Follow the manifests, compare the
    sealed segments with them, and finish a sealing, or a giving up, that was cut off. 4. Read all records behind them.
    5. Compare the trees with the signed checkpoints. 6. Set a torn tail aside. 7. Open the last segment and sync it:
    what a killed writer left may be in memory only. 8. Bring the tiles up to the checkpoint.
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
        self.disk = Disk() if disk is None else disk
        self._segments = SegmentWriter(folder, limits or SegmentLimits(), self.disk)
        self._chain = LogChain()
        self._events = AuditTree(origin, folder / CHECKPOINT_FILE, TlogFolder(folder / TLOG_FOLDER, self.disk))
        self._records = AuditTree(
            records_origin(origin),
            folder / RECORDS_CHECKPOINT_FILE,
            TlogFolder(folder / RECORDS_TLOG_FOLDER, self.disk),
        )
        self._records_frontier = Frontier()
        self._frontier = ""
        """Of the first tree, as the last record states it."""
        self._index = SegmentIndex(folder)
        self._writing = False
        """Set while a write is under way, and for good by a failed one or by `close`: nothing more is written then."""
        self._one_at_a_time = threading.Lock()
        """Held while anything above changes: for an append as long as it takes, for a publication briefly."""
        self._publishing = threading.Lock()
        """Held for a whole publication; taken before the one above where both are."""
        self._sealing = threading.Lock()
        """Held while a segment is being sealed; taken before the others."""
        self._lock = AuditLock(folder, self.disk)  # 1
        try:
            self._name_log(LogName(version=1, origin=origin, partition=partition))  # 2
            self._follow_manifests()  # 3
            whole, torn = self._read()  # 4
            self._check_checkpoint(self._events)  # 5
            self._check_checkpoint(self._records)
            if torn is not None:
                moved = set_aside(torn, self.disk)  # 6
                _log.warning("audit_torn_tail_set_aside", place=str(torn), bytes=moved, position=self._chain.position)
            self._reopen(whole)  # 7
            for tree in (self._events, self._records):  # 8
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
            self._must_go_on()
            self._check_next(records)  # 1
            self._writing = True
            rest = list(records)
            try:
                while rest:
                    rest = rest[self._append_to_segment(rest) :]  # 2-4
            except OSError as error:
                raise AuditDiskError(
                    f"{self.folder}: {error.strerror or error}; the audit sink stops. Make room or repair the disk, "
                    f"then start it again: it goes on at position {self._chain.position}{self._segments.give_back()}"
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
                    with self._one_at_a_time:
                        self._must_go_on()
                    self.disk.replace(tree.file, signed.note)
                for tree, signed in wanted:  # 3
                    self._publish(tree, signed)
            except OSError as error:
                self._stop_writing()
                raise AuditDiskError(f"{error.filename or self.folder}: {error.strerror or error}") from error
            except StageStopped:
                self._stop_writing()
                raise

    def seal_next(self) -> bool:
        """Seal the oldest segment that has ended and is not sealed; False if there is none, or this writer is closed.

        Appends and publications go on meanwhile.

        Raises:
            DamagedAudit: what was compressed cannot be read back; the plain files are as they were.
            AuditDiskError: the disk refuses. This writer writes no more; the next one seals the segment.
        """
        with self._sealing:
            with self._one_at_a_time:
                ended, genesis = self._index.ended(), self._chain.genesis
                if self._writing or ended is None or genesis is None:
                    return False
            try:
                manifest = seal(ended, genesis, self._index.newest_manifest, self.disk)
            except OSError as error:
                self._stop_writing()
                raise AuditDiskError(f"{error.filename or self.folder}: {error.strerror or error}") from error
            self._index.note_sealed(manifest)
            return True

    def erase(self, matches: Matches, holds: Sequence[Hold] = ()) -> list[int]:
        """Erase lines (`erase_from_log`); appends and publications go on while sealed segments are written anew.

        Raises:
            HoldError, OSError: see there; this writer goes on.
            AuditDiskError: closed, or the open segment cannot be gone on with: this writer writes no more.
        """
        with self._sealing:
            return erase_from_log(self.folder, matches, holds, self.disk, self._nothing_appended)

    def give_up(self, request: RetentionRequest, holds: Sequence[Hold] = ()) -> RetainedLog:
        """Give up old segments (`audit_retention.give_up`, whose errors end nothing); only publications wait for it."""
        with self._sealing, self._publishing:
            retained = give_up(self.folder, request, holds, disk=self.disk)
            with self._one_at_a_time:
                self._keep_from(beginning_of(self.folder))
            return retained

    @contextmanager
    def _nothing_appended(self) -> Iterator[None]:
        """Nothing is appended within; afterwards the open segment's files are opened anew: they may be other ones."""
        with self._one_at_a_time:
            self._must_go_on()
            try:
                yield
            finally:
                self._writing = True
                try:
                    self._segments.open_again()
                except OSError as error:
                    raise AuditDiskError(f"{self.folder}: {error.strerror or error}; start the sink again") from error
                self._writing = False

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
        """Let go of the files and the lock, after what is under way. May be repeated."""
        with self._sealing, self._publishing, self._one_at_a_time:
            self._writing = True
            self._segments.close()
            self._lock.release()

    # --- opening ---
    def _name_log(self, name: LogName) -> None:
        for unfinished in unfinished_files(self.folder):
            self.disk.remove(unfinished)
        try:
            found = read_log_name(self.folder)
        except FileNotFoundError:
            if segments_of(self.folder):
                raise DamagedAudit(self.folder / LOG_FILE, None, None, "is missing, but segments are there") from None
            self.disk.replace(self.folder / LOG_FILE, encode_log_name(name))
            return
        if found != name:
            raise DamagedAudit(
                self.folder / LOG_FILE, 1, None, f"says {found.origin}, but the folder is of {name.origin}"
            )

    def _follow_manifests(self) -> None:
        """Bring the chain, the trees and the index behind the sealed segments."""
        manifests = read_manifests(self.folder)
        remove_given_up(self.folder, self.disk)
        beginning = beginning_of(self.folder)
        self._keep_from(beginning)
        for manifest in manifests:
            segment = Segment(self.folder, manifest.first)
            if manifest.origin != self.origin or manifest.genesis.origin != self.origin:
                raise DamagedAudit(segment.manifest, 1, segment.first, f"is of log {manifest.origin}")
            if manifest.first >= self._events.kept_from:
                check_sealed(segment, manifest)
            self._index.add_sealed(manifest)
        for segment in segments_of(self.folder):
            heal(segment, self.disk)
        if manifests:
            self._go_on_behind(manifests[-1], manifests[-2].end if len(manifests) > 1 else None)

    def _keep_from(self, beginning: SegmentManifest | None) -> None:
        """Note where the log is kept from."""
        if beginning is not None:
            self._events.kept_from, self._records.kept_from = beginning.end.size, beginning.end.records

    def _go_on_behind(self, newest: SegmentManifest, before: LogEnd | None) -> None:
        """Read the newest sealed segment: what its manifest says of the log is vouched for by no later one yet."""
        if before is not None:
            before.resume(self._chain, newest.genesis)
            self._records_frontier = frontier_of(before.records, before.records_frontier)
            self._events.size, self._records.size = before.size, before.records
        segment = Segment(self.folder, newest.first)
        for stored in read_segment(segment, last=False):
            self._count(follow_stored(stored, self._chain), keep_entries=False)
        if self._end != newest.end or self._chain.genesis != newest.genesis:
            fault = "does not say where the log is behind its segment: its end does not follow from the lines"
            raise DamagedAudit(segment.manifest, 1, segment.first, fault)

    def _read(self) -> tuple[StoredRecord | None, TornAudit | None]:
        """Follow the chain over all records behind it; the last whole one, and the torn tail if there is one."""
        whole: StoredRecord | None = None
        try:
            for stored in read_records(self.folder, self._chain.position):
                if whole is None or stored.segment != whole.segment:
                    self._index.begin(stored.segment, stored.log_offset, self._end)
                record = follow_stored(stored, self._chain)
                if self._chain.genesis is None or self._chain.genesis.origin != self.origin:
                    fault = f"not the genesis of {self.origin}"
                    raise DamagedAudit(stored.segment.records, stored.records_line + 1, 0, fault)
                whole = stored
                self._count(record, keep_entries=False)
        except TornAudit as torn:
            return whole, torn
        return whole, None

    def _check_checkpoint(self, tree: AuditTree) -> None:
        """Compare a tree's signed checkpoint, if there is one, with the records."""
        file = tree.file
        signed = read_signed(file)
        if signed is None:
            return
        checkpoint = signed.checkpoint
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
        tree.signed = signed

    def _reopen(self, whole: StoredRecord | None) -> None:
        segments = segments_of(self.folder)
        if not segments:
            return
        last = segments[-1]
        if last.is_sealed:
            return
        if whole is not None and whole.segment == last:
            clocks = (decode_record(stored.value).header.clock_ms for stored in read_segment(last, last=True))
            self._segments.reopen(last, whole.events_bytes, whole.records_bytes, next(filter(None, clocks), 0))
        elif last.first == self._chain.position:
            self._segments.reopen(last, 0, 0, 0)
        else:
            fault = f"a segment that begins at {self._chain.position} was due"
            raise DamagedAudit(last.records, None, self._chain.position, fault)

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

    def _append_to_segment(self, records: Sequence[tuple[int, LogRecord]]) -> int:
        """Write the records up to the segment's end and count them; how many there were."""
        written = self._segments.write(records)
        if self._segments.segment is not None and self._segments.segment != self._index.newest:
            if self._index.newest is not None:
                keep_checkpoints(self._index.newest, self._events.signed, self._records.signed, self.disk)
            self._index.begin(self._segments.segment, records[0][0], self._end)
        for log_offset, record in records[:written]:
            self._chain.advance(log_offset, record.header, record.digest)
            self._count(record, keep_entries=True)
        return written

    @property
    def _end(self) -> LogEnd | None:
        """Where the log is; None before its first record."""
        chain = self._chain
        return None if chain.genesis is None else LogEnd.of(chain, self._frontier, self._records_frontier)

    # --- entries and roots ---

    def _count(self, record: LogRecord, *, keep_entries: bool) -> None:
        """Take a record that is on disk into both trees; its entries stay in memory if they were just written."""
        head = head_entry(head_of(record))
        self._records_frontier.extend(leaf_hashes([head]))
        self._frontier = record.header.frontier
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

    def _entries_from(self, tree: AuditTree, first: int) -> Iterable[bytes]:
        """A tree's entries on disk from number `first` on; from memory if they are all kept there."""
        with self._one_at_a_time:
            recent_first = tree.size - len(tree.recent)
            if first >= recent_first:
                return tree.recent[first - recent_first :]
        return self._index.events_from(first) if tree is self._events else self._index.heads_from(first)

    def _compare(self, tree: AuditTree, checkpoint: Checkpoint) -> None:
        root = self._root_at(tree, checkpoint.size)
        if checkpoint.origin != tree.origin or root != checkpoint.root:
            found = "is not the end of any record" if root is None else f"has root {root.hex()}"
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"a signed checkpoint of {checkpoint.origin} says size {checkpoint.size} has root "
                f"{checkpoint.root.hex()}, but on disk {tree.origin} {found}. Keep {self.folder} and the topic as they "
                "are and compare them: one of them was changed, or the log's key signed two histories.",
            )

    def _root_at(self, tree: AuditTree, size: int) -> bytes | None:
        """The root over the first `size` entries on disk; None unless a record ends there."""
        with self._one_at_a_time:
            if (root := tree.root_in_memory(size)) is not None:
                return root
        if size < tree.kept_from:
            return tree.published_root(size)
        return self._index.events_root(size) if tree is self._events else self._index.records_root(size)

    # --- publishing ---

    def _publish(self, tree: AuditTree, signed: Signed) -> None:
        """Bring a tree's tiles up to its checkpoint, then forget the entries that are in them."""
        tree.tlog.write(signed.checkpoint, signed.note, partial(self._entries_from, tree))
        with self._one_at_a_time:
            tree.signed = signed
            tree.recent = tree.recent[max(0, len(tree.recent) - (tree.size - signed.checkpoint.size)) :]

    def _must_go_on(self) -> None:
        if self._writing:
            raise AuditDiskError(f"{self.folder}: closed, or an earlier write failed; start the sink again to go on")

    def _stop_writing(self) -> None:
        with self._one_at_a_time:
            self._writing = True
