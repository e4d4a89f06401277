"""Re-derive an audit folder from its first byte and compare it with what was signed. Trusts nothing but the keys given.

For each log, per record: every line is hashed again; the record's digest, its link to the record before, the positions,
the ingest clock, the size, root and frontier that it states are re-derived; the producer's signature over the batch's
header is verified, and the signed batch root is re-derived from the accepted lines and the digests of the others. The
log's signed checkpoint must be by one of the keys and give the size where it stands the root that was derived. Where
the log is published as tiles, every file of that is derived again from the lines and compared. The same is done for the
log's second tree, over the heads of its records (`meterproof_schemas.records_tree`). What accepted corrections do is
derived again as far as it bears on any total (`effect_verification`).
"""

from collections.abc import Sequence
from pathlib import Path

from meterproof_proofs.event_proof import RECORDS_SUFFIX
from meterproof_proofs.note import Verifier
from meterproof_schemas.price_book import parse_price_book
from meterproof_sinks.audit_errors import AuditFault, DamagedAudit
from meterproof_sinks.audit_folder import (
    VOLUME_FOLDER,
    is_log_folder,
    log_folders,
    logs_held_twice,
    segments_of,
    unexpected_files,
)
from meterproof_sinks.log_verification import verify_log
from meterproof_sinks.price_book_folder import PRICES_FOLDER, kept_price_books
from meterproof_sinks.remembered_checkpoints import RememberedCheckpoint
from meterproof_sinks.segment_manifest import lines_bytes
from meterproof_sinks.verification_inputs import OnProgress, Producers, VerificationInputs
from meterproof_sinks.verification_memory import VerificationMemory
from meterproof_sinks.verification_pool import VerificationPool
from meterproof_sinks.verification_report import FolderReport, LogReport


def audit_folder_of(folder: Path) -> Path:
    """The audit folder inside a data folder; the folder itself if it is one, or one log's."""
    inner = folder / "audit"
    return inner if inner.is_dir() and not is_log_folder(folder) and not log_folders(folder) else folder


def bytes_to_check(folder: Path) -> int:
    """Bytes of all lines that `verify_folder` will follow."""
    top = audit_folder_of(folder)
    logs = [top] if is_log_folder(top) else log_folders(top)
    return sum(lines_bytes(segment) for log in logs for segment in segments_of(log))


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
        jobs: processes: for as many logs at the same time, or segments of one.

    """
    top = audit_folder_of(folder)
    faults: list[AuditFault] = []
    books: dict[int, bytes] = {}
    if is_log_folder(top):
        found = [top]
    else:
        found = log_folders(top)
        if not found:
            return FolderReport(folder, [], [DamagedAudit(top, None, None, "holds no log")])
        faults += logs_held_twice(found)
        faults += (
            DamagedAudit(path, None, None, "is no log's folder and does not belong here")
            for path in sorted(top.iterdir())
            if path not in found
            and path.name not in {VOLUME_FOLDER, PRICES_FOLDER}
            and (not path.is_dir() or unexpected_files(path))
        )
        try:
            books = kept_price_books(top)
        except DamagedAudit as damage:
            faults.append(damage)
    prices = {version: parse_price_book(content) for version, content in books.items()}
    inputs = VerificationInputs(verifiers, producers, remembered, memory, prices, remember=memory is not None)
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
    """Verify logs; the reports in their order.

    With as many logs as processes, or more, each log has a process; with fewer, the segments of each have.
    """
    if jobs <= 1:
        return [verify_log(log, inputs, on_progress) for log in logs]
    with VerificationPool(jobs, inputs, on_progress) as pool:
        if len(logs) < jobs:
            return [verify_log(log, inputs, on_progress, pool) for log in logs]
        # The largest first: the others fit in beside it.
        order = sorted(logs, key=lambda log: -sum(map(lines_bytes, segments_of(log))))
        running = {log: pool.submit(_verify_elsewhere, log) for log in order}
        return [pool.wait_for(running[log]) for log in logs]


def _verify_elsewhere(folder: Path, inputs: VerificationInputs, on_progress: OnProgress) -> LogReport:
    report = verify_log(folder, inputs, on_progress)
    # Some faults carry what they were found with; what another process is told is the place and the text.
    report.faults = [DamagedAudit(one.file, one.line, one.position, one.fault) for one in report.faults]
    return report
