"""A look at the process from outside of its event loop."""

import threading
import time
from collections.abc import Callable
from typing import Final, NoReturn

from meterproof_stream.errors import WorkerStalled

_INTERVAL_S: Final = 0.5


class Watchdog(threading.Thread):
    """Ends the process when a stop takes too long, or when the event loop stands still.

    Lives as long as the process, as a thread of its own.
    """

    def __init__(
        self, stop_deadline_s: float, stall_timeout_s: float, die: Callable[[BaseException], NoReturn]
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._stop_deadline_s = stop_deadline_s
        self._stall_timeout_s = stall_timeout_s
        self._die = die
        self._beat_s = time.monotonic()
        self._stop_by_s: float | None = None
        self._finished = threading.Event()

    def beat(self) -> None:
        """The event loop is alive."""
        self._beat_s = time.monotonic()

    def stop_within_deadline(self) -> None:
        """The process was asked to stop; the first call counts."""
        if self._stop_by_s is None:
            self._stop_by_s = time.monotonic() + self._stop_deadline_s

    def finish(self) -> None:
        """The process ends by itself."""
        self._finished.set()

    def run(self) -> None:
        """Look twice a second."""
        while not self._finished.wait(_INTERVAL_S):
            now_s = time.monotonic()
            if self._stop_by_s is not None:
                if now_s > self._stop_by_s:
                    self._die(WorkerStalled(f"asked to stop {self._stop_deadline_s} s ago and still running"))
            elif now_s - self._beat_s > self._stall_timeout_s:
                self._die(WorkerStalled(f"the event loop did nothing for {self._stall_timeout_s} s"))
