"""Verify one log's folder: follow its records from the first byte, and compare all else with what follows from them."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Final

from meterproof_proofs.note import Verifier
from meterproof_proofs.published_files import FileComparison
from meterproof_proofs.tree_hashing import hashes_in
from meterproof_schemas.chain import LogChain
from meterproof_schemas.log_record import Genesis
from meterproof_schemas.records_tree import records_origin, records_verifiers
from meterproof_sinks.audit_errors import AuditFault, DamagedAudit
from meterproof_sinks.audit_folder import (
    CHECKPOINT_FILE,
    LOG_FILE,
    RECORDS_CHECKPOINT_FILE,
    RECORDS_TLOG_FOLDER,
    TLOG_FOLDER,
    LogName,
    follow_stored,
    read_log_name,
    segments_of,
    torn_files,
    unexpected_files,
)
from meterproof_sinks.audit_lock import writer_is_running
from meterproof_sinks.audit_segment import Segment, StoredRecord, TornAudit, split_record
from meterproof_sinks.effect_verification import EffectVerification
from meterproof_sinks.fault_location import fault_in_header, located
from meterproof_sinks.given_up import GIVEN_UP_FILE, beginning_of
from meterproof_sinks.manifest_verification import ManifestVerification
from meterproof_sinks.record_verification import RecordVerification
from meterproof_sinks.segment_manifest import LogEnd, SegmentManifest, lines_bytes, read_manifest, read_manifests
from meterproof_sinks.segment_reader import lines_digests, read_segment
from meterproof_sinks.segment_verification import SegmentOutcome, SegmentTask, verify_segment
from meterproof_sinks.tree_verification import TreeVerification
from meterproof_sinks.verification_inputs import OnProgress, VerificationInputs
from meterproof_sinks.verification_memory import VerifiedEffects, VerifiedLog, VerifiedSegment
from meterproof_sinks.verification_pool import VerificationPool
from meterproof_sinks.verification_report import COUNTS, LogReport

_PROGRESS_BYTES: Final = 1 << 20
_UNCOVERED_TAIL: Final = (
    ". No signed checkpoint covers that. If the sink crashed, its next start sets this tail aside and writes it again"
)

_Ahead = dict[Segment, tuple[FileComparison | None, Future[SegmentOutcome | None]]]
"""The segments that the pool follows, each with the published files that were split off for it."""


def verify_log(
    folder: Path,
    inputs: VerificationInputs,
    on_progress: OnProgress | None = None,
    pool: VerificationPool | None = None,
) -> LogReport:
    """Verify one log's folder; reads every byte once and holds one record in memory. Never raises for what it finds.

    Args:
        folder: which.
        inputs: what it is verified against.
        on_progress: told how many bytes were checked.
        pool: follows sealed segments meanwhile; None to follow all of them here.

    """
    verification = LogVerification(folder, inputs, pool)
    verification.run(on_progress)
    return verification.report


class LogVerification:
    """One pass over one log. Stops at the first fault in the records: nothing behind it can be judged.

    1. Read both trees' checkpoints, then the records. 2. Follow the records, and compare the published tiles on the
    way. 3. Compare the checkpoints with what was derived. 4. Look up what corrections are said to correct. 5. Look for
    what does not belong there.
    """

    def __init__(self, folder: Path, inputs: VerificationInputs, pool: VerificationPool | None = None) -> None:
        self._pool = pool
        self.report = LogReport(folder, writer_running=writer_is_running(folder))
        self._folder = folder
        self._inputs = inputs
        self._verifiers = inputs.verifiers
        self._name: LogName | None = None
        self._chain = LogChain()
        self._segments: list[VerifiedSegment] = []
        """Those that were followed to their end, if they are to be remembered."""
        self._manifests = ManifestVerification()
        self._effects = EffectVerification(inputs.books, self.report)
        self._make_trees()

    def _make_trees(self) -> None:
        report, folder = self.report, self._folder
        self._events_tree = TreeVerification(report, folder / CHECKPOINT_FILE, folder / TLOG_FOLDER, "events")
        self._records_tree = TreeVerification(
            report, folder / RECORDS_CHECKPOINT_FILE, folder / RECORDS_TLOG_FOLDER, "records"
        )

    def run(self, on_progress: OnProgress | None) -> None:
        """Make the report; raises for nothing that it finds."""
        report = self.report
        try:
            self._name = read_log_name(self._folder)
            report.origin = self._name.origin
        except DamagedAudit as fault:
            report.faults.append(fault)
        except FileNotFoundError:
            report.faults.append(DamagedAudit(self._folder / LOG_FILE, None, None, "is missing"))
        self._read_trees()  # 1
        whole, tail = False, None
        try:
            self._follow(on_progress)  # 2
            whole = True
        except TornAudit as torn:
            if torn.incomplete and report.writer_running:
                report.unfinished = True
            else:
                tail = located(torn, self._events_tree.tree.frontier())
                report.faults.append(tail)
        except AuditFault as fault:
            report.faults.append(located(fault, self._events_tree.tree.frontier()))
        except OSError as error:
            report.faults.append(_unreadable(error, self._folder))
        events, records = self._events_tree, self._records_tree
        for tree in (events, records):  # 3
            tree.compare(whole=whole or report.unfinished)
        if tail is not None and report.faults == [tail]:
            tail.fault += _UNCOVERED_TAIL
        if events.holds and events.checkpoint is not None:
            report.checkpoint, report.covered = events.checkpoint, events.checkpoint.size
        if records.holds and records.checkpoint is not None:
            report.records_checkpoint, report.records_covered = records.checkpoint, records.checkpoint.size
        report.tlog_size, report.tlog_files = events.tlog_size, events.files
        report.records_tlog_size, report.records_tlog_files = records.tlog_size, records.files
        report.sealed = self._manifests.sealed
        if not report.faults:  # 4
            self._look_up()
        report.torn_files = len(torn_files(self._folder))  # 5
        report.faults.extend(
            DamagedAudit(path, None, None, "is no part of a log and does not belong here")
            for path in unexpected_files(self._folder)
        )

    def _look_up(self) -> None:
        try:
            self._effects.finish(self._folder, self._events_tree.tlog_size or 0)
        except DamagedAudit as fault:
            self.report.faults.append(fault)
        except OSError as error:
            self.report.faults.append(_unreadable(error, self._folder))

    def _trusted(self) -> Sequence[Verifier]:
        """The keys that may sign for this log."""
        return [key for key in self._verifiers if key.name == self.report.origin] or self._verifiers

    def _read_trees(self) -> None:
        trusted, origin, remembered = self._trusted(), self.report.origin, self._inputs.remembered
        self._records_tree.read(records_verifiers(trusted, origin), records_origin(origin), remembered)
        self._events_tree.read(trusted, origin, remembered)

    # --- what was verified before ---

    def _begin_where_kept(self, beginning: SegmentManifest) -> None:
        """Go on behind the segments that were given up, as their manifests and the published entries have it."""
        end, folder = beginning.end, self._folder
        name = self._name
        if name is not None and (name.origin, name.partition) != (beginning.origin, beginning.genesis.partition):
            raise DamagedAudit(Segment(folder, beginning.first).manifest, 1, 0, f"is of log {beginning.origin}")
        hashes = [hashes_in(bytes.fromhex(text)) for text in (end.frontier, end.records_frontier)]
        if not self._events_tree.resume(end.size, hashes[0]) or not self._records_tree.resume(end.records, hashes[1]):
            fault = (
                f"positions below {end.size} were given up, and the published entries, which are all that is left of "
                "them, do not lead to where their manifests say that the log was"
            )
            raise DamagedAudit(folder / GIVEN_UP_FILE, None, 0, fault)
        end.resume(self._chain, beginning.genesis)
        since_ms = end.clock_ms + 1
        self._effects.begin(beginning.genesis, VerifiedEffects(claims_since_ms=since_ms, books_since_ms=since_ms))
        self.report.origin, self.report.genesis = beginning.origin, beginning.genesis
        self.report.records, self.report.events = end.records, end.size

    def _follow_given_up(self) -> SegmentManifest | None:
        """Follow the manifests of the segments that were given up; the last one."""
        beginning = beginning_of(self._folder)
        if beginning is not None:
            self.report.kept_from = beginning.end.size
            for manifest in read_manifests(self._folder):
                if manifest.end.size <= beginning.end.size:
                    self._manifests.follow_given_up(Segment(self._folder, manifest.first))
        return beginning

    def _kept_segments(self) -> list[Segment]:
        return [segment for segment in segments_of(self._folder) if segment.first >= self.report.kept_from]

    def _resume(self, beginning: SegmentManifest | None, on_progress: OnProgress | None) -> bool:
        """Go on behind the segments that an earlier run followed, if they are what they were; False if they are not."""
        memory = self._inputs.memory
        known = None if memory is None else memory.logs.get(self.report.origin)
        if (
            known is None
            or known.effects is None
            or known.keys != self._inputs.keys
            or not self._unchanged(known, on_progress)
        ):
            return False
        faults = len(self.report.faults)
        hashes = [hashes_in(bytes.fromhex(text)) for text in (known.events_frontier, known.records_frontier)]
        resumed = self._events_tree.resume(known.position, hashes[0]) and self._records_tree.resume(
            known.counts["records"], hashes[1]
        )
        if not resumed:
            del self.report.faults[faults:]
            self._make_trees()
            unread = len(self.report.faults)
            self._read_trees()
            del self.report.faults[unread:]  # they were told when the checkpoints were read first
            return False
        if beginning is None:
            first = next(read_segment(self._kept_segments()[0], last=False))
            follow_stored(first, self._chain)
            if self._chain.genesis is not None:
                self._check_genesis(first, self._chain.genesis)
        else:
            self._chain.genesis = beginning.genesis
            self.report.origin, self.report.genesis = beginning.origin, beginning.genesis
        chain = self._chain
        if chain.genesis is not None:
            self._effects.begin(chain.genesis, known.effects)
        chain.log_offset, chain.digest, chain.position = known.log_offset, known.digest, known.position
        chain.next_source_offset, chain.clock_ms = known.next_source_offset, known.clock_ms
        for name, count in known.counts.items():
            setattr(self.report, name, count)
        self._segments = list(known.segments)
        for segment in self._kept_segments()[: len(known.segments)]:
            if segment.is_sealed:
                self._manifests.follow(segment)
        self.report.resumed = known.position
        return True

    def _unchanged(self, known: VerifiedLog, on_progress: OnProgress | None) -> bool:
        """Whether the segments that are remembered are the log's first ones, byte for byte, and not its last."""
        segments = self._kept_segments()
        if not known.segments or [one.first for one in known.segments] != [
            segment.first for segment in segments[: len(known.segments)]
        ]:
            return False
        if len(segments) <= len(known.segments):
            return False
        for one, segment in zip(known.segments, segments, strict=False):
            if lines_digests(segment) != (one.events, one.records):
                return False
            if on_progress is not None:
                on_progress(lines_bytes(segment))
        return True

    def _remember(self, segment: Segment, lines: tuple[str, str]) -> None:
        """Note that a segment was followed to its end and where that led.

        The digests are those of the lines that were followed, not of what the files may hold by now.
        """
        events, records = lines
        self._segments.append(VerifiedSegment(first=segment.first, events=events, records=records))
        chain = self._chain
        self.report.verified = VerifiedLog(
            origin=self.report.origin,
            keys=self._inputs.keys,
            segments=tuple(self._segments),
            log_offset=chain.log_offset,
            digest=chain.digest,
            next_source_offset=chain.next_source_offset,
            clock_ms=chain.clock_ms,
            position=chain.position,
            events_frontier=b"".join(self._events_tree.tree.hashes).hex(),
            records_frontier=b"".join(self._records_tree.tree.hashes).hex(),
            counts={name: getattr(self.report, name) for name in COUNTS},
            effects=self._effects.state,
        )

    def _end_of(self, segment: Segment | None) -> LogEnd:
        """Where the log is, behind a segment that was followed."""
        if segment is not None and self._chain.position <= segment.first:
            raise DamagedAudit(segment.manifest, None, segment.first, "is of a segment without any event")
        frontier = b"".join(self._events_tree.tree.hashes).hex()
        return LogEnd.of(self._chain, frontier, self._records_tree.tree.frontier())

    # --- the records ---

    def _follow(self, on_progress: OnProgress | None) -> None:
        beginning = self._follow_given_up()
        if not self._resume(beginning, on_progress) and beginning is not None:
            self._begin_where_kept(beginning)
        report, segments = self.report, self._kept_segments()[len(self._segments) :]
        verification = RecordVerification(
            self._chain,
            self._events_tree,
            lambda entry: self._records_tree.take([entry]),
            self._inputs.producers,
            report,
            self._effects.take,
        )
        ahead = self._follow_ahead(segments)
        for segment in segments:
            if segment.first != self._chain.position:
                fault = f"a segment that begins at {self._chain.position} was due; files are missing or renamed"
                raise DamagedAudit(segment.records_file, None, self._chain.position, fault)
            last = segment is segments[-1]
            lines = self._absorb(segment, ahead)
            if lines is None:
                lines = self._follow_segment(segment, verification, on_progress, last=last)
            if segment.is_sealed:
                self._manifests.follow(segment, self._end_of(segment), lines)
            if self._inputs.remember and not last:
                self._remember(segment, lines)
        if not report.records and not report.writer_running:
            raise DamagedAudit(self._folder, None, 0, "holds no record, not even the log's first")

    def _follow_segment(
        self, segment: Segment, verification: RecordVerification, on_progress: OnProgress | None, *, last: bool
    ) -> tuple[str, str]:
        """Follow a segment's records; the SHA-256 of its lines, of events and of records."""
        events, records, unreported = hashlib.sha256(), hashlib.sha256(), 0
        for stored in read_segment(segment, last=last):
            record = verification.verify(stored)
            if record.header.genesis is not None:
                self._check_genesis(stored, record.header.genesis)
            lines, heads = split_record(stored.log_offset, record)
            events.update(lines)
            records.update(heads)
            unreported += len(stored.value)
            if on_progress is not None and unreported >= _PROGRESS_BYTES:
                on_progress(unreported)
                unreported = 0
        if on_progress is not None:
            on_progress(unreported)
        return events.hexdigest(), records.hexdigest()

    # --- segments that others follow meanwhile ---

    def _follow_ahead(self, segments: Sequence[Segment]) -> _Ahead:
        """Have the pool follow the segments behind sealed ones, from where their manifests say that the log was."""
        ahead: _Ahead = {}
        for before, segment in pairwise(segments if self._pool is not None else ()):
            try:
                manifest = read_manifest(before)
                end = read_manifest(segment).end.size if segment.is_sealed else None
            except (DamagedAudit, OSError):
                break  # not sealed, or damaged: the pass itself finds out
            wanted, files = self._events_tree.split_off(manifest.end.size, end)
            task = SegmentTask(segment, segment is segments[-1], manifest.end, manifest.genesis, wanted, files)
            if self._pool is not None:
                ahead[segment] = files, self._pool.submit(verify_segment, task)
        return ahead

    def _absorb(self, segment: Segment, ahead: _Ahead) -> tuple[str, str] | None:
        """Go on behind a segment that the pool followed; None if it did not, or not from where the log is now.

        Then nothing that the pool did is made use of any more.
        """
        if self._pool is None or segment not in ahead:
            return None
        files, found = ahead.pop(segment)
        outcome = self._pool.wait_for(found)
        chain, report = self._chain, self.report
        if (
            outcome is None
            or outcome.genesis != chain.genesis
            or outcome.start != self._end_of(None)
            or not self._effects.absorb(outcome.seen)
        ):
            for rest, left in ((files, found), *ahead.values()):
                left.cancel()
                self._events_tree.put_back(rest)
            ahead.clear()
            return None
        outcome.end.resume(chain, outcome.genesis)
        self._events_tree.absorb(outcome.events)
        self._records_tree.take_all(outcome.heads)
        for name, count in outcome.counts.items():
            setattr(report, name, count if name == "events" else count + getattr(report, name))
        return outcome.lines

    def _check_genesis(self, stored: StoredRecord, genesis: Genesis) -> None:
        name = self._name
        if name is not None and (name.origin, name.partition) != (genesis.origin, genesis.partition):
            said = f"log {name.origin}, partition {name.partition}"
            raise fault_in_header(stored, f"begins the log {genesis.origin}, but {LOG_FILE} says {said}")
        self.report.origin, self.report.genesis = genesis.origin, genesis
        self._effects.begin(genesis)


def _unreadable(error: OSError, folder: Path) -> DamagedAudit:
    file = Path(error.filename) if error.filename else folder
    return DamagedAudit(file, None, None, f"cannot be read: {error.strerror}")
