"""Verify one log's folder: follow its records from the first byte, and compare all else with what follows from them."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from meterproof_proofs.note import Verifier
from meterproof_proofs.tree import HASH_BYTES
from meterproof_schemas.chain import LogChain
from meterproof_schemas.event import entries_of
from meterproof_schemas.log_record import Genesis, RecordHeader
from meterproof_schemas.records_tree import head_entry, head_of, records_origin, records_verifiers
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
from meterproof_sinks.batch_verification import verify_batch
from meterproof_sinks.erased import entry_of_kept, erased_entry
from meterproof_sinks.fault_location import fault_in_header, located
from meterproof_sinks.given_up import GIVEN_UP_FILE, beginning_of
from meterproof_sinks.manifest_verification import ManifestVerification
from meterproof_sinks.segment_manifest import LogEnd, SegmentManifest, read_manifests
from meterproof_sinks.segment_reader import lines_digests, read_segment
from meterproof_sinks.tree_verification import TreeVerification
from meterproof_sinks.verification_inputs import OnProgress, VerificationInputs
from meterproof_sinks.verification_memory import VerifiedLog, VerifiedSegment
from meterproof_sinks.verification_report import COUNTS, LogReport

_PROGRESS_BYTES: Final = 1 << 20


def verify_log(folder: Path, inputs: VerificationInputs, on_progress: OnProgress | None = None) -> LogReport:
    """Verify one log's folder; reads every byte once and holds one record in memory. Never raises for what it finds."""
    verification = LogVerification(folder, inputs)
    verification.run(on_progress)
    return verification.report


class LogVerification:
    """One pass over one log. Stops at the first fault in the records: nothing behind it can be judged.

    1. Read both trees' checkpoints, then the records. 2. Follow the records, and compare the published tiles on the
    way. 3. Compare the checkpoints with what was derived. 4. Look for what does not belong there.
    """

    def __init__(self, folder: Path, inputs: VerificationInputs) -> None:
        self.report = LogReport(folder, writer_running=writer_is_running(folder))
        self._folder = folder
        self._inputs = inputs
        self._verifiers = inputs.verifiers
        self._name: LogName | None = None
        self._chain = LogChain()
        self._segments: list[VerifiedSegment] = []
        """Those that were followed to their end, if they are to be remembered."""
        self._files = hashlib.sha256(), hashlib.sha256()
        """Over what was followed of the two files of the segment at hand."""
        self._manifests = ManifestVerification()
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
        whole = False
        try:
            self._follow(on_progress)  # 2
            whole = True
        except TornAudit as torn:
            if torn.incomplete and report.writer_running:
                report.unfinished = True
            else:
                report.faults.append(located(torn, self._events_tree.tree.frontier()))
        except AuditFault as fault:
            report.faults.append(located(fault, self._events_tree.tree.frontier()))
        except OSError as error:
            file = Path(error.filename) if error.filename else self._folder
            report.faults.append(DamagedAudit(file, None, None, f"cannot be read: {error.strerror}"))
        events, records = self._events_tree, self._records_tree
        for tree in (events, records):  # 3
            tree.compare(whole=whole or report.unfinished)
        if events.holds and events.checkpoint is not None:
            report.checkpoint, report.covered = events.checkpoint, events.checkpoint.size
        if records.holds and records.checkpoint is not None:
            report.records_checkpoint, report.records_covered = records.checkpoint, records.checkpoint.size
        report.tlog_size, report.tlog_files = events.tlog_size, events.files
        report.records_tlog_size, report.records_tlog_files = records.tlog_size, records.files
        report.sealed = self._manifests.sealed
        report.torn_files = len(torn_files(self._folder))  # 4
        report.faults.extend(
            DamagedAudit(path, None, None, "is no part of a log and does not belong here")
            for path in unexpected_files(self._folder)
        )

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
        hashes = [_split_hashes(text) for text in (end.frontier, end.records_frontier)]
        if not self._events_tree.resume(end.size, hashes[0]) or not self._records_tree.resume(end.records, hashes[1]):
            fault = (
                f"positions below {end.size} were given up, and the published entries, which are all that is left of "
                "them, do not lead to where their manifests say that the log was"
            )
            raise DamagedAudit(folder / GIVEN_UP_FILE, None, 0, fault)
        end.resume(self._chain, beginning.genesis)
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
        if known is None or known.keys != self._inputs.keys or not self._unchanged(known, on_progress):
            return False
        faults = len(self.report.faults)
        hashes = [_split_hashes(text) for text in (known.events_frontier, known.records_frontier)]
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
                on_progress(segment.size)
        return True

    def _remember(self, segment: Segment) -> None:
        """Note that a segment was followed to its end and where that led.

        The digests are those of the bytes that were followed, not of what the files may hold by now.
        """
        events, records = (one.hexdigest() for one in self._files)
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
        )

    def _records(self) -> Iterator[StoredRecord]:
        """All whole records behind those that were followed before, in order, as `read_records`."""
        segments, position = self._kept_segments(), self._chain.position
        for segment in segments[len(self._segments) :]:
            if segment.first != position:
                fault = f"a segment that begins at {position} was due; files are missing or renamed"
                raise DamagedAudit(segment.records_file, None, position, fault)
            last = segment is segments[-1]
            self._files = hashlib.sha256(), hashlib.sha256()
            for stored in read_segment(segment, last=last):
                yield stored
                position = stored.position + stored.events
            if segment.is_sealed:
                self._manifests.follow(segment, self._end_of(segment))
            if self._inputs.remember and not last:
                self._remember(segment)

    def _end_of(self, segment: Segment) -> LogEnd:
        """Where the log is behind a segment that was followed."""
        if self._chain.position <= segment.first:
            raise DamagedAudit(segment.manifest, None, segment.first, "is of a segment without any event")
        frontier = b"".join(self._events_tree.tree.hashes).hex()
        return LogEnd.of(self._chain, frontier, self._records_tree.tree.frontier())

    # --- the records ---

    def _follow(self, on_progress: OnProgress | None) -> None:
        beginning = self._follow_given_up()
        if not self._resume(beginning, on_progress) and beginning is not None:
            self._begin_where_kept(beginning)
        report, events = self.report, self._events_tree
        unreported = 0
        for stored in self._records():
            record = follow_stored(stored, self._chain)
            header = record.header
            if self._inputs.remember:
                lines, heads = split_record(stored.log_offset, record)
                self._files[0].update(lines)
                self._files[1].update(heads)
            if header.genesis is not None:
                self._check_genesis(stored, header.genesis)
            erased = sum(erased_entry(line) is not None for line in record.lines) if stored.erased else 0
            report.erased += erased
            entries = [entry_of_kept(line) for line in record.lines] if erased else entries_of(record.lines)
            leaves = events.take(entries)
            hashes = b"".join(events.tree.hashes).hex()
            if header.size != events.tree.size or header.frontier != hashes:
                raise self._not_derived(stored, header)
            if header.root != events.tree.frontier().root().hex():
                raise self._not_derived(stored, header)
            if record.carried is not None:
                verify_batch(
                    stored,
                    record,
                    leaves,
                    genesis=self._chain.genesis,
                    producers=self._inputs.producers,
                    report=report,
                )
            self._records_tree.take([head_entry(head_of(record))])
            report.records += 1
            report.events = header.size
            unreported += len(stored.value)
            if on_progress is not None and unreported >= _PROGRESS_BYTES:
                on_progress(unreported)
                unreported = 0
        if on_progress is not None:
            on_progress(unreported)
        if not report.records and not report.writer_running:
            raise DamagedAudit(self._folder, None, 0, "holds no record, not even the log's first")

    def _not_derived(self, stored: StoredRecord, header: RecordHeader) -> DamagedAudit:
        frontier = self._events_tree.tree.frontier()
        if header.size != frontier.size or header.root != frontier.root().hex():
            return fault_in_header(stored, f"its root is not {frontier.root().hex()}, which follows from the lines")
        return fault_in_header(stored, "its frontier does not follow from the lines")

    def _check_genesis(self, stored: StoredRecord, genesis: Genesis) -> None:
        name = self._name
        if name is not None and (name.origin, name.partition) != (genesis.origin, genesis.partition):
            said = f"log {name.origin}, partition {name.partition}"
            raise fault_in_header(stored, f"begins the log {genesis.origin}, but {LOG_FILE} says {said}")
        self.report.origin, self.report.genesis = genesis.origin, genesis


def _split_hashes(text: str) -> list[bytes]:
    raw = bytes.fromhex(text)
    return [raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES)]
