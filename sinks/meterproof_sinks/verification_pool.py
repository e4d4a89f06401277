"""Processes that verify for one that waits for them, and tell it how far they are."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from meterproof_sinks.verification_inputs import OnProgress, VerificationInputs

_PROGRESS_S: Final = 0.2

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")

Work = Callable[[_Item, VerificationInputs, OnProgress], _Found]
"""Verifies one thing."""


class VerificationPool:
    """So many processes, each with the inputs; lives for one run. A context manager: its end is theirs."""

    def __init__(self, jobs: int, inputs: VerificationInputs, on_progress: OnProgress | None) -> None:
        """Make the pool; its processes start with the first work.

        Args:
            jobs: how many processes.
            inputs: what all of them verify against.
            on_progress: told what they have checked, while somebody waits for them.

        """
        self.jobs = jobs
        self._on_progress = on_progress
        self._told = 0
        context = multiprocessing.get_context("spawn")
        self._done = context.Value("Q", 0)
        self._processes = ProcessPoolExecutor(jobs, context, _begin, (self._done, inputs))

    def __enter__(self) -> Self:
        """Nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the processes; what was not begun is not done."""
        self._processes.shutdown(cancel_futures=True)

    def submit(self, work: Work[_Item, _Found], item: _Item) -> "Future[_Found]":
        """Have something verified."""
        return self._processes.submit(_verify, work, item)

    def wait_for(self, found: "Future[_Found]") -> _Found:
        """What was found, once it was; tells the progress meanwhile."""
        while True:
            over = not wait([found], timeout=_PROGRESS_S).not_done
            done: int = self._done.value
            if self._on_progress is not None and done > self._told:
                self._on_progress(done - self._told)
                self._told = done
            if over:
                return found.result()


_given: Any = None
"""In a process of the pool: the counter of bytes that all of them share, and the inputs."""


def _begin(*given: object) -> None:
    global _given  # noqa: PLW0603 - how a pool hands something over that cannot be sent with a task
    _given = given


def _verify(work: Work[_Item, _Found], item: _Item) -> _Found:
    done, inputs = _given

    def count(checked: int) -> None:
        with done.get_lock():
            done.value += checked

    return work(item, inputs, count)
