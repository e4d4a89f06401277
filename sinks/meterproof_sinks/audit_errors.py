"""What can be wrong with an audit folder; every text is for operators and says where."""

from pathlib import Path
from typing import ClassVar

from meterproof_sinks.sink import SinkFault


class AuditError(SinkFault):
    """Root of all errors of audit folders; the text is for operators and says where."""


class LockedAudit(AuditError):
    """Another process writes into this log's folder."""

    retriable: ClassVar[bool] = True


class AuditDiskError(AuditError):
    """The disk refused a write or a sync. Nothing of that write counts, and this writer writes no more."""


class AuditFault(AuditError):
    """Something in a log's files is not as it was written: which file, which line (from 1), which position."""

    def __init__(self, file: Path, line: int | None, position: int | None, fault: str) -> None:
        super().__init__(file, line, position, fault)
        self.file = file
        self.line = line
        """First line concerned, from 1; None when the file as a whole is."""
        self.position = position
        """First position that cannot be relied on; None when that is all of them, or none."""
        self.fault = fault

    def __str__(self) -> str:
        """Say where, then what."""
        line = "" if self.line is None else f", line {self.line}"
        position = "" if self.position is None else f", position {self.position}"
        return f"{self.file}{line}{position}: {self.fault}"


class DamagedAudit(AuditFault):
    """Bytes were changed, removed or added before the end; nothing repairs that by itself."""
