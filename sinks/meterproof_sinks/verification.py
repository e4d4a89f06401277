"""Re-derive an audit folder from its first byte and compare it with what was signed. Trusts nothing but the keys given.

For each log, per record: every line is hashed again; the record's digest, its link to the record before, the positions,
the ingest clock, the size, root and frontier that it states are re-derived; the producer's signature over the batch's
header is verified, and the signed batch root is re-derived from the accepted lines and the digests of the others. The
log's signed checkpoint must be by one of the keys and give the size where it stands the root that was derived. Where
the log is published as tiles, every file of that is derived again from the lines and compared. The same is done for the
log's second tree, over the heads of its records (`meterproof_schemas.records_tree`).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson
from pydantic import ValidationError

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.frontier import batch_root, leaf_hashes
from meterproof_proofs.note import Verifier
from meterproof_schemas.batch import BatchHeader, Signatures
from meterproof_schemas.chain import LogChain
from meterproof_schemas.errors import InvalidBatch, InvalidEvent, InvalidRecord
from meterproof_schemas.event import entries_of, entry_of, parse_event
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
    StoredRecord,
    TornAudit,
    follow_stored,
    is_log_folder,
    log_folders,
    read_log_name,
    read_records,
    torn_files,
    unexpected_files,
    writer_is_running,
)
from meterproof_sinks.derived_tree import DerivedTree
from meterproof_sinks.tlog_verification import TlogVerification

_PROGRESS_BYTES: Final = 1 << 20

_DERIVED_ON_START: Final = "if the audit worker was killed, its next start writes what is missing"

OnProgress = Callable[[int], None]
"""Called with the bytes that were checked since the last call."""


class NoVerifierKey(Exception):
    """The keys to verify checkpoints with cannot be had; the text says why."""


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
    files = sorted(path.glob("*.vkey")) if path.is_dir() else [path]
    verifiers: list[Verifier] = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise NoVerifierKey(f"{file}: cannot be read: {error}") from error
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#"):
                try:
                    verifiers.append(Verifier.parse(line.strip()))
                except ProofError as error:
                    raise NoVerifierKey(f"{file}, line {number}: {error}") from error
    if not verifiers:
        raise NoVerifierKey(
            f"{path}: holds no verifier key; ask the log's owner for it, not whoever gave you the folder"
        )
    return verifiers


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


def verify_folder(
    folder: Path,
    verifiers: Sequence[Verifier],
    producers: Producers | None = None,
    on_progress: OnProgress | None = None,
) -> FolderReport:
    """Verify a data folder, an audit folder or one log's folder.

    Args:
        folder: which.
        verifiers: the keys that may sign checkpoints. A key named like a log's origin is the only one for that log.
        producers: the producers' keys; without them their signatures are counted as unchecked.
        on_progress: told how many bytes were checked.

    """
    top = audit_folder_of(folder)
    if is_log_folder(top):
        return FolderReport(folder, [verify_log(top, verifiers, producers, on_progress)], [])
    found = log_folders(top)
    if not found:
        return FolderReport(folder, [], [DamagedAudit(top, None, None, "holds no log")])
    faults: list[AuditFault] = [
        DamagedAudit(path, None, None, "is no log's folder and does not belong here")
        for path in sorted(top.iterdir())
        if path not in found and path.name != VOLUME_FOLDER and (not path.is_dir() or unexpected_files(path))
    ]
    return FolderReport(folder, [verify_log(log, verifiers, producers, on_progress) for log in found], faults)


def verify_log(
    folder: Path,
    verifiers: Sequence[Verifier],
    producers: Producers | None = None,
    on_progress: OnProgress | None = None,
) -> LogReport:
    """Verify one log's folder; reads every byte once and holds one record in memory. Never raises for what it finds."""
    verification = _LogVerification(folder, verifiers, producers)
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
        self._tlog: TlogVerification | None = None

    @property
    def files(self) -> int:
        """Published files that were derived again and compared."""
        return 0 if self._tlog is None else self._tlog.files

    def read(self, verifiers: Sequence[Verifier], origin: str) -> None:
        """Read the published checkpoint, then the log's own."""
        published_note = self._note(self._tlog_folder / CHECKPOINT_FILE)
        note = self._note(self.file)
        self._read_published(published_note, note, verifiers, origin)
        if note is not None:
            self.checkpoint = self._opened(self.file, note, verifiers, origin)
        self._wanted.update(one.size for one in (self.checkpoint, self._published) if one is not None)

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

    def __init__(self, folder: Path, verifiers: Sequence[Verifier], producers: Producers | None) -> None:
        self.report = LogReport(folder, writer_running=writer_is_running(folder))
        self._folder = folder
        self._verifiers = verifiers
        self._producers = producers
        self._name: LogName | None = None
        self._chain = LogChain()
        self._events_tree = _TreeVerification(self.report, folder / CHECKPOINT_FILE, folder / TLOG_FOLDER, "events")
        self._records_tree = _TreeVerification(
            self.report, folder / RECORDS_CHECKPOINT_FILE, folder / RECORDS_TLOG_FOLDER, "records"
        )

    def run(self, on_progress: OnProgress | None) -> None:
        report, events, records = self.report, self._events_tree, self._records_tree
        try:
            self._name = read_log_name(self._folder)
            report.origin = self._name.origin
        except DamagedAudit as fault:
            report.faults.append(fault)
        except FileNotFoundError:
            report.faults.append(DamagedAudit(self._folder / LOG_FILE, None, None, "is missing"))
        trusted = self._trusted()
        records.read(records_verifiers(trusted, report.origin), records_origin(report.origin))  # 1
        events.read(trusted, report.origin)
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

    # --- the records ---

    def _follow(self, on_progress: OnProgress | None) -> None:
        report, events = self.report, self._events_tree
        unreported = 0
        for stored in read_records(self._folder):
            record = follow_stored(stored, self._chain)
            header = record.header
            if header.genesis is not None:
                self._check_genesis(stored, header.genesis)
            leaves = events.take(entries_of(record.lines))
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
            source = stored.value[len(record.header_line) + 1 :]
            if not header.not_accepted and (
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
        derived.extend(leaf_hashes([entry_of(line) for line in events]))
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
