"""Whether somebody holds a file's lock."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

_OWN_FILES: Final = Path("/dev/fd")


def is_locked(file: Path) -> bool:
    """Whether a `flock` of the file is known to be held exclusively; it is had itself for an instant, shared.

    False also where the file is missing or cannot be read.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_locked_by_another(file: Path) -> bool:
    """As `is_locked`, by another process than this one, which then has the file open itself.

    Not told by a process id: in two containers that share the file they can be the same.
    """
    return is_locked(file) and not _is_open_here(file)


def _is_open_here(file: Path) -> bool:
    for one in _OWN_FILES.iterdir():
        with contextlib.suppress(OSError):
            if one.samefile(file):
                return True
    return False
