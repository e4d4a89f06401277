"""Erasing from a log's folder and giving up segments of it: asked for by a file, done by whoever writes the folder.

One way, whether the audit sink runs or not. A command puts its request into each log's folder. Whoever has the lock of
the folder carries it out: the sink, between two writes; where none runs, the command itself. The outcome is noted
before the request goes, so a request is never lost, and one that a crash cut off is carried out again.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from meterproof_sinks.audit_erasure import Matches, erase_from_log
from meterproof_sinks.audit_errors import AuditError, LockedAudit
from meterproof_sinks.audit_folder import log_folders, read_log_name
from meterproof_sinks.audit_lock import AuditLock
from meterproof_sinks.audit_request import (
    PendingRequest,
    UpkeepOutcome,
    UpkeepRequest,
    note_outcome,
    outcome_of,
    pending_requests,
    put_request,
)
from meterproof_sinks.audit_retention import RetainedLog, RetentionRequest, give_up
from meterproof_sinks.disk import Disk
from meterproof_sinks.legal_holds import Hold, HoldError, LegalHolds

_POLL_S: Final = 0.2

OnWait = Callable[[str, float], None]
"""Called with a log's origin and the seconds for which its writer has been waited for."""


class UpkeepFailed(AuditError):
    """A request could not be carried out, or was not within the time; the text says for which log, and what to do."""


class LogKeeper(Protocol):
    """Has a log's folder to itself, and can change what is written there."""

    folder: Path

    @property
    def disk(self) -> Disk:
        """The file operations."""

    def erase(self, matches: Matches, holds: Sequence[Hold]) -> list[int]:
        """Erase the lines that match; their positions."""

    def give_up(self, request: RetentionRequest, holds: Sequence[Hold]) -> RetainedLog:
        """Give up what is old."""


class LockedFolder:
    """A log's folder to which nobody writes: locked from when this is made to `release`."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        """Take the lock.

        Raises:
            LockedAudit: somebody writes.
            AuditDiskError: the lock's file cannot be opened.
        """
        self.folder = folder
        self.disk = disk
        self._lock = AuditLock(folder, disk, attempts=1)

    def erase(self, matches: Matches, holds: Sequence[Hold] = ()) -> list[int]:
        """Erase the lines that match; their positions."""
        return erase_from_log(self.folder, matches, holds, self.disk)

    def give_up(self, request: RetentionRequest, holds: Sequence[Hold] = ()) -> RetainedLog:
        """Give up what is old."""
        return give_up(self.folder, request, holds, disk=self.disk)

    def release(self) -> None:
        """Let a writer in. May be repeated."""
        self._lock.release()


def carry_out(keeper: LogKeeper, holds_file: Path) -> list[UpkeepOutcome]:
    """Carry out what is asked of a log's folder; what became of it.

    Per request: 1. nothing, if its outcome is known: a crash came before 3. 2. Do it, and note the outcome. 3. Remove
    the request. One that fails is told in its outcome, and keeps the writer from nothing.

    Args:
        keeper: has the folder to itself.
        holds_file: of the deployment, read for each request.

    Raises:
        OSError: an outcome cannot be noted, or a request not be removed.

    """
    outcomes = []
    for pending in pending_requests(keeper.folder):
        if outcome_of(keeper.folder, pending.name) is None:  # 1
            outcome = _done(keeper, pending, holds_file)
            note_outcome(keeper.folder, outcome, keeper.disk)  # 2
            outcomes.append(outcome)
        keeper.disk.remove(pending.file)  # 3
        keeper.disk.sync_folder(pending.file.parent)
    return outcomes


def ask(
    audit: Path,
    request: UpkeepRequest,
    holds_file: Path,
    *,
    patience_s: float,
    on_wait: OnWait = lambda *_: None,
) -> dict[str, UpkeepOutcome]:
    """Have something done to every log of an audit folder, and wait until it is; the outcomes, by log.

    1. Put the request into each log's folder. 2. Log by log: carry it out if nobody has the lock, or wait for who has.

    Raises:
        UpkeepFailed: some log's writer could not do it, or did not within the time; what it was asked stays asked.
        OSError: a file cannot be read or written.
    """
    disk = Disk()
    folders = {read_log_name(folder).origin: folder for folder in log_folders(audit)}
    for folder in folders.values():  # 1
        put_request(folder, request, disk)
    began_s = time.monotonic()
    outcomes: dict[str, UpkeepOutcome] = {}
    for origin, folder in folders.items():  # 2
        while (outcome := outcome_of(folder, request.request)) is None:
            try:
                keeper = LockedFolder(folder, disk)
            except LockedAudit:
                waited_s = time.monotonic() - began_s
                if waited_s >= patience_s:
                    raise UpkeepFailed(
                        f"{origin}: who writes {folder} has not done it within {patience_s:g} s. It stays asked, and "
                        f"is done as soon as the audit sink comes to it, or starts again: {folder}/requests.jsonl will "
                        f"tell, as request {request.request}. Run the command again to wait on"
                    ) from None
                on_wait(origin, waited_s)
                time.sleep(_POLL_S)
                continue
            try:
                carry_out(keeper, holds_file)
            finally:
                keeper.release()
        outcomes[origin] = outcome
    failures = [f"{origin}: {outcome.failure}" for origin, outcome in outcomes.items() if outcome.failure is not None]
    if failures:
        raise UpkeepFailed("; ".join(failures))
    return outcomes


def _done(keeper: LogKeeper, pending: PendingRequest, holds_file: Path) -> UpkeepOutcome:
    """Step 2 of `carry_out`."""
    asked, name = pending.request, pending.name
    try:
        if asked is not None:
            found = {hold.hold: hold for hold in (*asked.holds, *LegalHolds(holds_file).in_force)}
            holds = list(found.values())
            if asked.erase is not None:
                return UpkeepOutcome(request=name, erased=len(keeper.erase(asked.erase.owns, holds)))
            if asked.retain is not None:
                return UpkeepOutcome(request=name, retained=keeper.give_up(asked.retain, holds))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a request must not end the writer again and again
        known = isinstance(error, AuditError | HoldError | OSError)
        return UpkeepOutcome(request=name, failure=str(error) if known else f"{type(error).__name__}: {error}")
    return UpkeepOutcome(request=name, failure=pending.fault)
