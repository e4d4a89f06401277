"""What a verification found: per log, and for a folder as a whole."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from meterproof_proofs.checkpoint import Checkpoint
from meterproof_schemas.log_record import Genesis
from meterproof_sinks.audit_errors import AuditFault
from meterproof_sinks.verification_memory import VerifiedLog

COUNTS: Final = (
    *("records", "events", "batches", "signatures_verified", "signatures_repudiable", "signatures_unchecked"),
    *("batch_roots_verified", "batch_roots_unchecked", "erased", "corrections", "corrections_unchecked"),
)
"""The fields of a report that count records."""


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
    corrections: int = 0
    """Accepted corrections."""
    corrections_unchecked: int = 0
    """Those whose stated effect could not be derived in full: they were erased, or what it depends on was, or was given
    up; or a price book is not here."""
    kept_from: int = 0
    """First position whose line is kept: segments before it were given up after their time."""
    sealed: int = 0
    """Segments that are sealed, and hold what their manifests state."""
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
            "corrections": {
                "verified": self.corrections - self.corrections_unchecked,
                "unchecked": self.corrections_unchecked,
            },
            "kept_from": self.kept_from,
            "sealed": self.sealed,
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
