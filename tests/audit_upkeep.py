"""Erasing from a whole audit folder, and giving up of it, where no sink runs."""

from collections.abc import Sequence
from pathlib import Path

from meterproof_sinks.audit_erasure import Matches
from meterproof_sinks.audit_folder import log_folders, read_log_name
from meterproof_sinks.audit_retention import RetainedLog, RetentionRequest
from meterproof_sinks.audit_upkeep import LockedFolder
from meterproof_sinks.disk import Disk
from meterproof_sinks.legal_holds import Hold


def erase_lines(audit: Path, matches: Matches, disk: Disk | None = None) -> dict[str, list[int]]:
    """Erase the lines that match; the positions erased, by log."""
    erased: dict[str, list[int]] = {}
    for folder in log_folders(audit):
        keeper = LockedFolder(folder, disk or Disk())
        try:
            erased[read_log_name(folder).origin] = keeper.erase(matches)
        finally:
            keeper.release()
    return erased


def give_up_all(
    audit: Path, request: RetentionRequest, holds: Sequence[Hold] = (), disk: Disk | None = None
) -> dict[str, RetainedLog]:
    """Give up what is old; what was given up, by log."""
    done: dict[str, RetainedLog] = {}
    for folder in log_folders(audit):
        keeper = LockedFolder(folder, disk or Disk())
        try:
            done[read_log_name(folder).origin] = keeper.give_up(request, holds)
        finally:
            keeper.release()
    return done
