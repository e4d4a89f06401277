"""Which core does what: the broker and the bench itself on the first, the measured process on the second."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def available() -> list[int]:
    """The cores that this process may use, ascending; empty where the system does not tell (macOS)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextmanager
def started_on(cores: list[int]) -> Iterator[None]:
    """What is started in this block runs on these cores with all its threads; an empty list changes nothing."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
