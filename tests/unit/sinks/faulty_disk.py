"""Faults of single file operations: each fails once, or is the process's last."""

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from meterproof_sinks.audit_errors import AuditDiskError, LockedAudit
from meterproof_sinks.disk import Disk


class FaultyDisk(Disk):
    """Real files; before the `at`-th operation (counted from 0) something strikes, an append being half done by then.

    It does not wait for the device: what the operating system has survives the process.
    """

    def __init__(self, at: int, strike: Callable[[], None]) -> None:
        self.left = at
        self._strike = strike

    def _count(self) -> None:
        self.left -= 1
        if self.left == -1:
            self._strike()

    def open_append(self, path: Path) -> int:
        self._count()
        return super().open_append(path)

    def append(self, descriptor: int, content: bytes) -> None:
        if self.left == 0:
            super().append(descriptor, content[: len(content) // 2])
        self._count()
        super().append(descriptor, content)

    def sync(self, descriptor: int) -> None:
        self._count()

    def truncate(self, path: Path, size: int) -> None:
        self._count()
        os.truncate(path, size)

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._count()
        super().remove(path)

    def make_folder(self, folder: Path) -> None:
        self._count()
        super().make_folder(folder)


def fail() -> None:
    """As a device that refuses once."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def die() -> None:
    """As SIGKILL, or the end of power to the process."""
    os.kill(os.getpid(), signal.SIGKILL)


def struck_folders(base: Path, place: Path, act: Callable[[Path, Disk], object], *, kill: bool) -> Iterator[Path]:
    """Copies of a folder, one after the other at `place`, after `act` was struck at each of its operations in turn.

    Each fault is an error, or, with `kill`, SIGKILL in a process of its own. The last copy is one that nothing struck.
    """
    for at in count():
        folder = Path(shutil.copytree(base, place))
        struck = _killed(folder, at, act) if kill else _failed(folder, at, act)
        yield folder
        shutil.rmtree(folder)
        if not struck:
            return


def _killed(folder: Path, at: int, act: Callable[[Path, Disk], object]) -> bool:
    child = os.fork()
    if child == 0:
        try:
            act(folder, FaultyDisk(at, die))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert not os.WIFSIGNALED(status) or os.WTERMSIG(status) == signal.SIGKILL
    return os.WIFSIGNALED(status)


def _failed(folder: Path, at: int, act: Callable[[Path, Disk], object]) -> bool:
    disk = FaultyDisk(at, fail)
    try:
        act(folder, disk)
    except LockedAudit:
        assert disk.left < 0
    except (OSError, AuditDiskError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        assert isinstance(cause, OSError)
        assert cause.errno == errno.EIO
        assert disk.left < 0
    return disk.left < 0
