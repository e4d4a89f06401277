"""Lets the merges of a folder's engine stand back for writes and queries of the same process."""

import contextlib
import os
from pathlib import Path
from typing import Final

MERGES_NICE: Final = 10
"""What the threads add to their niceness: where every core is busy, a merge gets about a tenth of what a write gets."""
_THREADS: Final = Path("/proc/self/task")
_NAME: Final = "MergeMutate"


def merge_threads() -> list[int]:
    """The ids of the engine's threads that merge, which it starts with its first table; none where nobody tells."""
    found = []
    with contextlib.suppress(FileNotFoundError):  # another system than Linux
        for thread in _THREADS.iterdir():
            with contextlib.suppress(OSError):  # ended meanwhile
                if (thread / "comm").read_text("utf-8").strip() == _NAME:
                    found.append(int(thread.name))
    return found


def let_merges_wait() -> None:
    """Lower the priority of the threads that merge. Any process may: no right is needed to be nicer.

    The engine's own setting (`os_threads_nice_value_merge_mutate`) needs CAP_SYS_NICE, and reached one of two threads.
    """
    for thread in merge_threads():
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, MERGES_NICE)
