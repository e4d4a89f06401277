"""Re-derive an audit folder from its first byte and compare it with what was signed. Trusts nothing but the keys given.

For each log, per record: every line is hashed again; the record's digest, its link to the record before, the positions,
the ingest clock, the size, root and frontier that it states are re-derived; the producer's signature over the batch's
header is verified, and the signed batch root is re-derived from the accepted lines and the digests of the others. The
log's signed checkpoint must be by one of the keys and give the size where it stands the root that was derived. Where
the log is published as tiles, every file of that is derived again from the lines and compared. The same is done for the
log's second tree, over the heads of its records (`meterproof_schemas.records_tree`).
"""

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import ValidationError

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.event_proof import RECORDS_SUFFIX
from meterproof_proofs.frontier import batch_root, leaf_hashes
from meterproof_proofs.key_files import NoVerifierKey as NoVerifierKey  # noqa: PLC0414 - what `load_verifiers` raises
from meterproof_proofs.key_files import read_verifiers
from meterproof_proofs.note import Verifier
from meterproof_proofs.tree import HASH_BYTES
from meterproof_schemas.batch import BatchHeader, Signatures
from meterproof_schemas.chain import LogChain
from meterproof_schemas.errors import InvalidBatch, InvalidEvent, InvalidRecord
from meterproof_schemas.event import entries_of, parse_event
from meterproof_schemas.keys import KeyRegistry, parse_registry
from meterproof_schemas.log_record import Genesis, LogRecord, RecordHeader, frontier_of
from meterproof_schemas.records_tree import head_entry, head_of, records_origin, records_verifiers
from meterproof_sinks.audit_folder import (
    CHECKPOINT_FILE,
    LOG_FILE,
    RECORDS_CHECKPOINT_FILE,
    RECORDS_TLOG_FOLDER,
    TLOG_FOLDER,
    VOLUME_FOLDER,
    AuditFault,
    ChangedRecord,
    DamagedAudit,
    LogName,
    Segment,
    StoredRecord,
    TornAudit,
    follow_stored,
    is_log_folder,
    log_folders,
    read_log_name,
    read_segment,
    segments_of,
    split_record,
    torn_files,
    unexpected_files,
    writer_is_running,
)
from meterproof_sinks.derived_tree import DerivedTree
from meterproof_sinks.erased import entry_of_kept, erased_entry
from meterproof_sinks.remembered_checkpoints import RememberedCheckpoint
from meterproof_sinks.tlog_verification import TlogVerification
from meterproof_sinks.verification_memory import (
    VerificationMemory,
    VerifiedLog,
    VerifiedSegment,
    file_digest,
    keys_digest,
)

_PROGRESS_BYTES: Final = 1 << 20
_PROGRESS_S: Final = 0.2
_COUNTS: Final = (
    *("records", "events", "batches", "signatures_verified", "signatures_repudiable", "signatures_unchecked"),
    *("batch_roots_verified", "batch_roots_unchecked", "erased"),
)
"""The fields of a report that count records."""

_DERIVED_ON_START: Final = "if the audit worker was killed, its next start writes what is missing"

OnProgress = Callable[[int], None]
"""Called with the bytes that were checked since the last call."""


@dataclass(frozen=True, slots=True)
class Producers:
    """The producers' keys to check signatures with."""

    registry: KeyRegistry
    without_secret: frozenset[str]
    """Ids of `hmac-sha256` keys whose secret is not here: nobody but its holders can check those signatures."""


@dataclass(slots=True)
class LogReport:
    """What was found in one log's folder."""

    folder: Path
    origin: str = ""
    genesis: Genesis | None = None
    """What the log's first record fixes."""
    records: int = 0
    events: int = 0
    checkpoint: Checkpoint | None = None
    """The signed checkpoint, if a key given vouches for it."""
    covered: int = 0
    """Events whose place in the log the checkpoint proves; the others are not yet covered."""
    records_checkpoint: Checkpoint | None = None
    """The signed checkpoint of the second tree, if a key given vouches for it."""
    records_covered: int = 0
    """Records whose verdicts and batch headers that checkpoint proves."""
    batches: int = 0
    """Records that carry a producer's batch."""
    signatures_verified: int = 0
    """Batches whose producer's Ed25519 signature verified."""
    signatures_repudiable: int = 0
    """Batches vouched for by a shared secret only: it convinces those who hold it and proves nothing to others."""
    signatures_unchecked: int = 0
    """Batches whose signatures were not checked: no registry was given, or the shared secret is not here."""
    batch_roots_verified: int = 0
    """Batches whose signed root was re-derived from all their lines or the digests of those not accepted."""
    batch_roots_unchecked: int = 0
    """Batches refused as a whole: the log does not say what was in them."""
    tlog_size: int | None = None
    """Entries that the published tiles were signed for; None if there are no such files, or they do not hold."""
    tlog_files: int = 0
    """Published tiles and entry bundles that were derived again and compared."""
    records_tlog_size: int | None = None
    """Records that the second tree's published tiles were signed for; None as above."""
    records_tlog_files: int = 0
    """Published tiles and entry bundles of the second tree that were derived again and compared."""
    resumed: int = 0
    """Events whose lines an earlier run followed; this one compared their files' digests with those of then."""
    verified: VerifiedLog | None = None
    """What the next run need not derive, if that was asked for and there is anything."""
    erased: int = 0
    """Events whose lines were erased on request. Their entries are there, and every proof goes on holding."""
    torn_files: int = 0
    """Torn tails that a writer set aside. They are no part of the log."""
    writer_running: bool = False
    """A writer was at work, so an unfinished last record is no fault."""
    unfinished: bool = False
    """The writer was in the middle of a record."""
    faults: list[AuditFault] = field(default_factory=list)

    @property
    def not_covered(self) -> int:
        """Events behind the checkpoint: consistent with each other, but not yet signed for."""
        return self.events - self.covered

    @property
    def holds(self) -> bool:
        """Whether everything that was checked is as it should be."""
        return not self.faults

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "folder": str(self.folder),
            "origin": self.origin,
            "holds": self.holds,
            "records": self.records,
            "events": self.events,
            "checkpoint": _checkpoint_as_json(self.checkpoint),
            "records_checkpoint": _checkpoint_as_json(self.records_checkpoint),
            "records_covered": self.records_covered,
            "covered": self.covered,
            "not_covered": self.not_covered,
            "batches": self.batches,
            "signatures": {
                "verified": self.signatures_verified,
                "repudiable": self.signatures_repudiable,
                "unchecked": self.signatures_unchecked,
            },
            "batch_roots": {"verified": self.batch_roots_verified, "unchecked": self.batch_roots_unchecked},
            "tlog": None if self.tlog_size is None else {"size": self.tlog_size, "files": self.tlog_files},
            "records_tlog": None
            if self.records_tlog_size is None
            else {"size": self.records_tlog_size, "files": self.records_tlog_files},
            "resumed": self.resumed,
            "erased": self.erased,
            "torn_files": self.torn_files,
            "writer_running": self.writer_running,
            "unfinished": self.unfinished,
            "faults": [fault_as_json(fault) for fault in self.faults],
        }


@dataclass(slots=True)
class FolderReport:
    """What was found in a folder: one report per log, and what belongs to none."""

    folder: Path
    logs: list[LogReport]
    faults: list[AuditFault]

    @property
    def logs_elsewhere(self) -> list[str]:
        """Origins of logs of the same deployments that are not here: on another worker's volume, or withheld."""
        geneses = [log.genesis for log in self.logs if log.genesis is not None]
        all_of_them = {
            f"{genesis.name}/{genesis.epoch}/p{partition}"
            for genesis in geneses
            for partition in range(genesis.partitions)
        }
        return sorted(all_of_them - {genesis.origin for genesis in geneses})

    @property
    def all_faults(self) -> list[AuditFault]:
        """Everything that does not hold."""
        return [*self.faults, *(fault for log in self.logs for fault in log.faults)]

    @property
    def holds(self) -> bool:
        """True only if nothing is wrong anywhere and at least one log has a signed checkpoint."""
        return not self.all_faults and any(log.checkpoint is not None for log in self.logs)

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "folder": str(self.folder),
            "holds": self.holds,
            "logs": [log.as_json() for log in self.logs],
            "logs_elsewhere": self.logs_elsewhere,
            "faults": [fault_as_json(fault) for fault in self.faults],
        }


def _checkpoint_as_json(checkpoint: Checkpoint | None) -> dict[str, object] | None:
    return None if checkpoint is None else {"size": checkpoint.size, "root": checkpoint.root.hex()}


def fault_as_json(fault: AuditFault) -> dict[str, object]:
    """A fault for programs."""
    return {"file": str(fault.file), "line": fault.line, "position": fault.position, "fault": fault.fault}


def load_verifiers(path: Path) -> list[Verifier]:
    """The verifier keys of a file (one per line, empty lines and `#` comments ignored) or of a folder's `*.vkey` files.

    Raises:
        NoVerifierKey: there is none, or a line is not a verifier key.
    """
    return read_verifiers(path)


def load_producers(path: Path) -> Producers:
    """The producers' keys of a registry file; shared secrets that are not on this machine are left out.

    Raises:
        InvalidRegistry: the file is faulty.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    try:
        document = orjson.loads(content)
        keys = [key for key in document["keys"] if isinstance(key, dict)]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        document, keys = None, []
    absent = {
        str(key.get("key_id"))
        for key in keys
        if key.get("algorithm") == "hmac-sha256" and not (path.parent / str(key.get("secret_file"))).is_file()
    }
    if document is not None and absent:
        document["keys"] = [key for key in document["keys"] if key.get("key_id") not in absent]
        content = orjson.dumps(document)
    return Producers(parse_registry(content, folder=path.parent), frozenset(absent))


def audit_folder_of(folder: Path) -> Path:
    """The audit folder inside a data folder; the folder itself if it is one, or one log's."""
    inner = folder / "audit"
    return inner if inner.is_dir() and not is_log_folder(folder) and not log_folders(folder) else folder


def bytes_to_check(folder: Path) -> int:
    """Size of all that `verify_folder` will read."""
    top = audit_folder_of(folder)
    logs = [top] if is_log_folder(top) else log_folders(top)
    return sum(path.stat().st_size for log in logs for path in log.glob("*.jsonl"))


@dataclass(frozen=True, slots=True)
class VerificationInputs:
    """What a folder is verified against, beside itself."""

    verifiers: Sequence[Verifier]
    """The keys that may sign checkpoints. A key named like a log's origin is the only one for that log."""
    producers: Producers | None = None
    """The producers' keys; without them their signatures are counted as unchecked."""
    remembered: Sequence[RememberedCheckpoint] = ()
    """Checkpoints kept from before, of any of the logs."""
    memory: VerificationMemory | None = None
    """What earlier runs found true; None to derive everything."""
    remember: bool = False
    """Whether to tell in the report what the next run need not derive."""

    @property
    def keys(self) -> str:
        """Digest of all keys."""
        return keys_digest(self.verifiers, None if self.producers is None else self.producers.registry.digest)


def verify_folder(
    folder: Path,
    verifiers: Sequence[Verifier],
    producers: Producers | None = None,
    on_progress: OnProgress | None = None,
    *,
    remembered: Sequence[RememberedCheckpoint] = (),
    memory: VerificationMemory | None = None,
    jobs: int = 1,
) -> FolderReport:
    """Verify a data folder, an audit folder or one log's folder.

    Args:
        folder: which.
        verifiers: the keys that may sign checkpoints. A key named like a log's origin is the only one for that log.
        producers: the producers' keys; without them their signatures are counted as unchecked.
        on_progress: told how many bytes were checked.
        remembered: checkpoints kept from before; each log must have grown out of its own.
        memory: what earlier runs found true, which is not derived again; given, the reports hold what to remember.
        jobs: logs that are verified at the same time, each in a process of its own.

    """
    inputs = VerificationInputs(verifiers, producers, remembered, memory, remember=memory is not None)
    top = audit_folder_of(folder)
    faults: list[AuditFault] = []
    if is_log_folder(top):
        found = [top]
    else:
        found = log_folders(top)
        if not found:
            return FolderReport(folder, [], [DamagedAudit(top, None, None, "holds no log")])
        faults += (
            DamagedAudit(path, None, None, "is no log's folder and does not belong here")
            for path in sorted(top.iterdir())
            if path not in found and path.name != VOLUME_FOLDER and (not path.is_dir() or unexpected_files(path))
        )
    report = FolderReport(folder, verify_logs(found, inputs, on_progress, jobs=jobs), faults)
    origins = {log.origin for log in report.logs}
    for one in remembered:
        if one.checkpoint.origin.removesuffix(RECORDS_SUFFIX) not in origins:
            fault = f"is a checkpoint of log {one.checkpoint.origin}, which is not in the folder"
            faults.append(DamagedAudit(one.file, 1, None, fault))
    return report


def verify_logs(
    logs: Sequence[Path], inputs: VerificationInputs, on_progress: OnProgress | None, *, jobs: int
) -> list[LogReport]:
    """Verify logs, some at the same time; the reports in their order."""
    if min(jobs, len(logs)) <= 1:
        return [verify_log(log, inputs, on_progress) for log in logs]
    # The largest first: the others fit in beside it.
    order = sorted(logs, key=lambda log: -sum(file.stat().st_size for file in log.glob("*.jsonl")))
    context = multiprocessing.get_context("spawn")
    done = context.Value("Q", 0)
    with ProcessPoolExecutor(min(jobs, len(logs)), context, _share_progress, (done,)) as pool:
        running = {log: pool.submit(_verify_in_process, log, inputs) for log in order}
        told, left = 0, set(running.values())
        while left:
            left = wait(left, timeout=_PROGRESS_S).not_done
            if on_progress is not None and done.value > told:
                on_progress(done.value - told)
                told = done.value
        return [running[log].result() for log in logs]


_done: Any = None
"""In a process that verifies for another: the counter of bytes that all of them share."""


def _share_progress(done: Any) -> None:  # noqa: ANN401 - multiprocessing names no public type for it
    global _done  # noqa: PLW0603 - how a pool hands something over that cannot be sent with a task
    _done = done


def _verify_in_process(folder: Path, inputs: VerificationInputs) -> LogReport:
    def count(checked: int) -> None:
        with _done.get_lock():
            _done.value += checked

    report = verify_log(folder, inputs, count)
    # Some faults carry what they were found with; what another process is told is the place and the text.
    report.faults = [DamagedAudit(one.file, one.line, one.position, one.fault) for one in report.faults]
    return report


def verify_log(folder: Path, inputs: VerificationInputs, on_progress: OnProgress | None = None) -> LogReport:
    """Verify one log's folder; reads every byte once and holds one record in memory. Never raises for what it finds."""
    verification = _LogVerification(folder, inputs)
    verification.run(on_progress)
    return verification.report


class _TreeVerification:
    """One of a log's two trees: its signed checkpoint and its published files beside the derived roots and entries.

    Lives for one pass over the log. Read it before the records: what is covered by one file is then in the next.
    """

    def __init__(self, report: LogReport, file: Path, tlog: Path, what: str) -> None:
        self.file = file
        self.checkpoint: Checkpoint | None = None
        """The signed checkpoint, if a key given signed it; `compare` says whether it holds."""
        self.holds = False
        """Whether the signed root follows from the lines."""
        self.tlog_size: int | None = None
        """Entries that the published files were signed for, if they hold."""
        self.tree = DerivedTree()
        self._report = report
        self._tlog_folder = tlog
        self._what = what
        self._size = 0
        self._wanted: set[int] = set()
        """Sizes at which a checkpoint stands."""
        self._roots: dict[int, bytes] = {}
        """The derived roots there, once they were reached."""
        self._published: Checkpoint | None = None
        self._remembered: list[RememberedCheckpoint] = []
        self._tlog: TlogVerification | None = None

    @property
    def files(self) -> int:
        """Published files that were derived again and compared."""
        return 0 if self._tlog is None else self._tlog.files

    def read(self, verifiers: Sequence[Verifier], origin: str, remembered: Sequence[RememberedCheckpoint]) -> None:
        """Read the published checkpoint, then the log's own; take those remembered that are of this tree."""
        published_note = self._note(self._tlog_folder / CHECKPOINT_FILE)
        note = self._note(self.file)
        self._read_published(published_note, note, verifiers, origin)
        if note is not None:
            self.checkpoint = self._opened(self.file, note, verifiers, origin)
        self._remembered = [one for one in remembered if one.checkpoint.origin == origin]
        own = [one for one in (self.checkpoint, self._published) if one is not None]
        self._wanted.update(one.size for one in (*own, *(one.checkpoint for one in self._remembered)))

    def resume(self, size: int, hashes: Sequence[bytes]) -> bool:
        """Go on behind the first `size` entries, which led to this frontier before; False if that cannot be.

        The published files of these entries are compared as all others, from the entries in the published bundles.
        """
        if self._tlog is None:
            if any(0 < wanted < size for wanted in self._wanted):
                return False  # what the lines give there is not known
            self.tree, self._size = DerivedTree.of(size, hashes), size
            if size in self._wanted:
                self._roots[size] = self.tree.frontier().root()
            return True
        stops = sorted({wanted for wanted in self._wanted if wanted < size} | {size})
        for entries in self._tlog.published_entries(size):
            if entries is None:
                return False
            at = 0
            while at < len(entries):
                stop = next(stop for stop in stops if stop > self._size) - self._size
                self.take(entries[at : at + stop])
                at += stop
        return self.tree.hashes == list(hashes)

    def take(self, entries: Sequence[bytes]) -> list[bytes]:
        """Take the entries of the next record; their leaf hashes."""
        leaves = leaf_hashes(entries)
        roots = self.tree.extend(leaves)
        self._size += len(entries)
        if self._size in self._wanted:
            self._roots[self._size] = self.tree.frontier().root()
        if self._tlog is not None:
            self._tlog.take(entries, leaves, roots)
        return leaves

    def compare(self, *, whole: bool) -> None:
        """Compare both checkpoints, the right edge, and look for files that are missing; `whole`: all was followed."""
        self._compare_own()
        self._compare_published(whole=whole)
        if whole:
            self._compare_remembered()

    def _compare_own(self) -> None:
        checkpoint, report = self.checkpoint, self._report
        if checkpoint is None:
            return
        root = self._roots.get(checkpoint.size)
        self.holds = root == checkpoint.root
        if self.holds:
            return
        if checkpoint.size > self._size:
            fault = f"{checkpoint.size} {self._what} are signed for, but only {self._size} are here and hold"
            report.faults.append(DamagedAudit(self.file, 2, report.events, fault))
        elif root is None:
            fault = "the signed size is not the end of any record"
            report.faults.append(DamagedAudit(self.file, 2, checkpoint.size, fault))
        else:
            fault = f"the signed root of size {checkpoint.size} is not {root.hex()}, which follows from the lines"
            report.faults.append(DamagedAudit(self.file, 3, 0, fault))

    def _compare_remembered(self) -> None:
        for one in self._remembered:
            size, root = one.checkpoint.size, self._roots.get(one.checkpoint.size)
            if size == 0 or root == one.checkpoint.root:
                continue
            if size > self._size:
                fault = (
                    f"{size} {self._what} were signed for when it was kept, and only {self._size} are here: rolled back"
                )
            elif root is None:
                fault = f"size {size}, which was signed for, is not the end of any record any more"
            else:
                fault = f"the root signed for size {size} is not {root.hex()}, which follows from the lines: a fork"
            self._report.faults.append(DamagedAudit(one.file, 2, None, fault))

    def _read_published(self, note: bytes | None, own: bytes | None, keys: Sequence[Verifier], origin: str) -> None:
        """The published checkpoint if a key given signed it; says so if it is not the log's own.

        While a writer is at work, it may be an earlier one.
        """
        folder, report = self._tlog_folder, self._report
        file = folder / CHECKPOINT_FILE
        if not folder.is_dir():
            return
        self._tlog = TlogVerification(folder, writer_running=report.writer_running)
        if note is None:
            if own is not None and not report.writer_running:
                report.faults.append(DamagedAudit(file, None, None, f"is missing; {_DERIVED_ON_START}"))
            return
        self._published = published = self._opened(file, note, keys, origin)
        if published is not None and note != own and not report.writer_running:
            fault = f"of size {published.size}, is not the log's own {self.file.name}; {_DERIVED_ON_START}"
            report.faults.append(DamagedAudit(file, None, None, fault))

    def _compare_published(self, *, whole: bool) -> None:
        tlog, published = self._tlog, self._published
        if tlog is None:
            return
        holds = published is not None and self._roots.get(published.size) == published.root
        if published is not None and whole and not holds:
            fault = f"the signed root of size {published.size} does not follow from the lines"
            self._report.faults.append(DamagedAudit(self._tlog_folder / CHECKPOINT_FILE, 3, None, fault))
        if whole:
            tlog.finish(published.size if published is not None and holds else None)
        self._report.faults.extend(tlog.faults)
        if published is not None and holds and not tlog.faults:
            self.tlog_size = published.size

    def _opened(self, file: Path, note: bytes, verifiers: Sequence[Verifier], origin: str) -> Checkpoint | None:
        try:
            return open_checkpoint(note, verifiers, origin=origin)
        except ProofError as error:
            self._report.faults.append(DamagedAudit(file, getattr(error, "line", None), None, str(error)))
            return None

    def _note(self, file: Path) -> bytes | None:
        try:
            return file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report.faults.append(DamagedAudit(file, None, None, f"cannot be read: {error.strerror}"))
            return None


class _LogVerification:
    """One pass over one log. Stops at the first fault in the records: nothing behind it can be judged.

    1. Read both trees' checkpoints, then the records. 2. Follow the records, and compare the published tiles on the
    way. 3. Compare the checkpoints with what was derived. 4. Look for what does not belong there.
    """

    def __init__(self, folder: Path, inputs: VerificationInputs) -> None:
        self.report = LogReport(folder, writer_running=writer_is_running(folder))
        self._folder = folder
        self._inputs = inputs
        self._verifiers = inputs.verifiers
        self._producers = inputs.producers
        self._name: LogName | None = None
        self._chain = LogChain()
        self._segments: list[VerifiedSegment] = []
        """Those that were followed to their end, if they are to be remembered."""
        self._files = hashlib.sha256(), hashlib.sha256()
        """Over what was followed of the two files of the segment at hand."""
        self._make_trees()

    def _make_trees(self) -> None:
        report, folder = self.report, self._folder
        self._events_tree = _TreeVerification(report, folder / CHECKPOINT_FILE, folder / TLOG_FOLDER, "events")
        self._records_tree = _TreeVerification(
            report, folder / RECORDS_CHECKPOINT_FILE, folder / RECORDS_TLOG_FOLDER, "records"
        )

    def run(self, on_progress: OnProgress | None) -> None:
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
                report.faults.append(self._located(torn))
        except AuditFault as fault:
            report.faults.append(self._located(fault))
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

    def _resume(self, on_progress: OnProgress | None) -> None:
        """Go on behind the segments that an earlier run followed, if they are what they were; else from the start."""
        memory = self._inputs.memory
        known = None if memory is None else memory.logs.get(self.report.origin)
        if known is None or known.keys != self._inputs.keys or not self._unchanged(known, on_progress):
            return
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
            return
        first = next(read_segment(segments_of(self._folder)[0], last=False))
        follow_stored(first, self._chain)
        if self._chain.genesis is not None:
            self._check_genesis(first, self._chain.genesis)
        chain = self._chain
        chain.log_offset, chain.digest, chain.position = known.log_offset, known.digest, known.position
        chain.next_source_offset, chain.clock_ms = known.next_source_offset, known.clock_ms
        for name, count in known.counts.items():
            setattr(self.report, name, count)
        self._segments = list(known.segments)
        self.report.resumed = known.position

    def _unchanged(self, known: VerifiedLog, on_progress: OnProgress | None) -> bool:
        """Whether the segments that are remembered are the log's first ones, byte for byte, and not its last."""
        segments = segments_of(self._folder)
        if not known.segments or [one.first for one in known.segments] != [
            segment.first for segment in segments[: len(known.segments)]
        ]:
            return False
        if len(segments) <= len(known.segments):
            return False
        for one, segment in zip(known.segments, segments, strict=False):
            if (file_digest(segment.events), file_digest(segment.records)) != (one.events, one.records):
                return False
            if on_progress is not None:
                on_progress(segment.events.stat().st_size + segment.records.stat().st_size)
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
            counts={name: getattr(self.report, name) for name in _COUNTS},
        )

    def _records(self) -> Iterator[StoredRecord]:
        """All whole records behind those that were followed before, in order, as `read_records`."""
        segments, position = segments_of(self._folder), self._chain.position
        for segment in segments[len(self._segments) :]:
            if segment.first != position:
                fault = f"a segment that begins at {position} was due; files are missing or renamed"
                raise DamagedAudit(segment.records, None, position, fault)
            last = segment is segments[-1]
            self._files = hashlib.sha256(), hashlib.sha256()
            for stored in read_segment(segment, last=last):
                yield stored
                position = stored.position + stored.events
            if self._inputs.remember and not last:
                self._remember(segment)

    # --- the records ---

    def _follow(self, on_progress: OnProgress | None) -> None:
        self._resume(on_progress)
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
                self._check_batch(stored, record, leaves)
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
            return _fault_in_header(stored, f"its root is not {frontier.root().hex()}, which follows from the lines")
        return _fault_in_header(stored, "its frontier does not follow from the lines")

    def _check_genesis(self, stored: StoredRecord, genesis: Genesis) -> None:
        name = self._name
        if name is not None and (name.origin, name.partition) != (genesis.origin, genesis.partition):
            said = f"log {name.origin}, partition {name.partition}"
            raise _fault_in_header(stored, f"begins the log {genesis.origin}, but {LOG_FILE} says {said}")
        self.report.origin, self.report.genesis = genesis.origin, genesis

    def _check_batch(self, stored: StoredRecord, record: LogRecord, leaves: list[bytes]) -> None:
        report, header, genesis = self.report, record.header, self._chain.genesis
        header_line, signatures_line = record.carried or (b"", b"")
        report.batches += 1
        try:
            batch = BatchHeader.model_validate_json(header_line)
        except ValidationError as error:
            raise _fault_at(stored, 2, "is not a batch's header") from error
        if genesis is None or (batch.audience, batch.topic, batch.partition) != (
            genesis.deployment,
            genesis.source_topic,
            genesis.partition,
        ):
            raise _fault_at(
                stored, 2, "the batch was signed for another deployment, topic or partition than this log's"
            )
        self._check_signatures(stored, batch, header_line, signatures_line, header.append_ms)
        if header.reason is not None:
            report.batch_roots_unchecked += 1
        else:
            if _root_of_all_lines(header, batch.count, leaves) != batch.root:
                raise _fault_at(stored, 2, "the signed root of the batch does not follow from its lines and refusals")
            report.batch_roots_verified += 1
            source = memoryview(stored.value)[len(record.header_line) + 1 :]
            if not (header.not_accepted or stored.erased) and (
                header.source is None or hashlib.sha256(source).hexdigest() != header.source.digest
            ):
                raise _fault_in_header(stored, "its source digest is not that of the batch")

    def _check_signatures(
        self, stored: StoredRecord, batch: BatchHeader, header_line: bytes, signatures_line: bytes, append_ms: int
    ) -> None:
        report = self.report
        if self._producers is None:
            report.signatures_unchecked += 1
            return
        try:
            signatures = Signatures.model_validate_json(signatures_line).signatures
        except ValidationError as error:
            raise _fault_at(stored, 3, "is not a batch's signatures") from error
        checkable = [one for one in signatures if one.key_id not in self._producers.without_secret]
        if not checkable:
            report.signatures_unchecked += 1
            return
        try:
            keys = self._producers.registry.authorities(header_line, checkable, batch.producer, append_ms)
        except InvalidBatch as error:
            raise _fault_at(stored, 3, f"producer {batch.producer!r}: {error}") from error
        if any(key.algorithm == "ed25519" for key in keys):
            report.signatures_verified += 1
        else:
            report.signatures_repudiable += 1

    # --- where a fault is ---

    def _located(self, fault: AuditFault) -> AuditFault:
        """The same fault, closer to the changed line where the tree tells which file it is in."""
        cause = fault.__cause__ if isinstance(fault, TornAudit) else fault
        if not isinstance(cause, ChangedRecord):
            return fault
        stored = cause.stored
        lines = stored.value.split(b"\n")[:-1]
        events = lines[stored.header_lines :]
        derived = self._events_tree.tree.frontier()
        derived.extend(leaf_hashes([entry_of_kept(line) for line in events]))
        try:
            header = RecordHeader.model_validate_json(lines[0])
            own_root = frontier_of(header).root().hex()
        except (ValidationError, InvalidRecord):
            return _fault_in_header(stored, "the record's header was changed")
        if derived.root().hex() == header.root or b"".join(derived.hashes).hex() == header.frontier:
            last = stored.records_line + stored.header_lines
            fault_text = (
                f"one of the lines {stored.records_line + 1}-{last} was changed: they have not the digest that "
            )
            return _fault_in_header(stored, fault_text + "the record's frame states")
        if own_root != header.root:
            return _fault_in_header(stored, "the record's header was changed: root and frontier do not fit each other")
        broken = [number for number, line in enumerate(events) if not _is_event(line)]
        first = broken[0] if broken else 0
        last_line = stored.events_line + stored.events - 1
        return DamagedAudit(
            stored.segment.events,
            stored.events_line + first,
            stored.position + first,
            "the line was changed: it is no event any more"
            if broken
            else f"one of the lines {stored.events_line}-{last_line} (positions {stored.position}-"
            f"{stored.position + stored.events - 1}) was changed, moved or replaced",
        )


def _split_hashes(text: str) -> list[bytes]:
    raw = bytes.fromhex(text)
    return [raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES)]


def _root_of_all_lines(header: RecordHeader, count: int, accepted: list[bytes]) -> str | None:
    """The root over all lines of a batch, the leaf hashes of the accepted ones given; None if they are not all told."""
    refused: Mapping[int, str] = {number: entry for number, _, entry in header.not_accepted}
    if len(refused) != len(header.not_accepted) or len(refused) + len(accepted) != count:
        return None
    if not refused:
        return batch_root(accepted).hex()
    kept = iter(accepted)
    leaves: list[bytes] = []
    for number in range(count):
        entry = refused.get(number)
        leaf = next(kept, None) if entry is None else leaf_hashes([bytes.fromhex(entry)])[0]
        if leaf is None:
            return None
        leaves.append(leaf)
    return batch_root(leaves).hex()


def _is_event(line: bytes) -> bool:
    try:
        parse_event(line)
    except InvalidEvent:
        return False
    return True


def _fault_in_header(stored: StoredRecord, fault: str) -> DamagedAudit:
    return _fault_at(stored, 1, fault)


def _fault_at(stored: StoredRecord, line: int, fault: str) -> DamagedAudit:
    """A fault in the record's `line`-th line: 1 its header, 2 the batch's header, 3 the signatures."""
    return DamagedAudit(stored.segment.records, stored.records_line + line, stored.position, fault)
