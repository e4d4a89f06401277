"""The lock of a log's folder: one writer, whether it writes the log, erases lines of it, or gives up segments."""

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from meterproof_sinks.audit_errors import AuditDiskError, LockedAudit
from meterproof_sinks.disk import Disk
from meterproof_sinks.file_lock import is_locked

LOCK_FILE: Final = "lock"
_ATTEMPTS: Final = 20
_PAUSE_S: Final = 0.05


class AuditLock:
    """Holds a log's folder for one writer, from when it is made to `release`; the folder is made if it is missing."""

    def __init__(self, folder: Path, disk: Disk, *, attempts: int = _ATTEMPTS) -> None:
        """Take the lock.

        Raises:
            LockedAudit: another writer has it.
            AuditDiskError: the folder, or the file in it, cannot be made.
        """
        try:
            disk.make_folders(folder)
            self._descriptor: int | None = disk.open_append(folder / LOCK_FILE)
        except OSError as error:
            raise AuditDiskError(
                f"{folder}: cannot be opened for writing: {error}; see to its rights and its disk"
            ) from error
        # A verifier that looks whether a writer is at work holds the lock for an instant, hence more than one attempt.
        for _ in range(attempts):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_PAUSE_S)
            else:
                return
        self.release()
        raise LockedAudit(
            f"{folder}: another process writes here, the audit sink or a command that erases or gives up; there is one "
            "writer per log: stop it, or wait until it is done"
        )

    def release(self) -> None:
        """Let another writer in. May be repeated."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def writer_is_running(folder: Path) -> bool:
    """Whether a writer is known to hold the folder's lock now; looks without disturbing one that starts."""
    return is_locked(folder / LOCK_FILE)
