"""A look at a worker's process from outside of its event loop."""

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

from meterproof.exit_codes import CLEAN

LAST_RESORT_S: Final = 10.0
"""How long this thread itself may be kept from running, or from ending the process, beyond what it watches for."""
_INTERVAL_S: Final = 0.5
_SHOWN_FRAMES: Final = 3
_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_NUMBERS_MAX: Final = 64


class WorkerStalled(Exception):
    """A worker that lives and does nothing: its event loop stands, a stop takes too long, or records wait untaken."""


class Watchdog(threading.Thread):
    """Ends the process when a stop takes too long, or when the event loop stands still.

    Three lines, each for when the one before cannot act: this thread calls `die`; if `die` does not return, or if this
    thread gets no turn because a native call keeps the interpreter to itself, a timer of the interpreter's own
    (`faulthandler`, which needs neither) writes where every thread stands and ends the process with exit code 1.

    Lives as long as the process, as a daemon thread.
    """

    def __init__(
        self, *, stop_deadline_s: float, stall_timeout_s: float, die: Callable[[BaseException], NoReturn]
    ) -> None:
        """Watch nothing yet.

        Args:
            stop_deadline_s: how long a stop may take.
            stall_timeout_s: how long the event loop may do nothing.
            die: ends the process; called by this thread.

        """
        super().__init__(name="watchdog", daemon=True)
        self._stop_deadline_s = stop_deadline_s
        self._stall_timeout_s = stall_timeout_s
        self._die = die
        self._watched = threading.main_thread().ident or 0
        self._beat_s = time.monotonic()
        self._stop_by_s: float | None = None
        self._loop_ended = False

    def beat(self) -> None:
        """The event loop is alive."""
        self._beat_s = time.monotonic()

    @property
    def silence_s(self) -> float:
        """Since the event loop was last known to be alive."""
        return 0.0 if self._loop_ended else time.monotonic() - self._beat_s

    def stop_within_deadline(self) -> None:
        """The process was asked to stop; the first call counts."""
        if self._stop_by_s is None:
            self._stop_by_s = time.monotonic() + self._stop_deadline_s

    def note_signals(self) -> None:
        """Let SIGTERM and SIGINT start the deadline even while the event loop stands.

        Call after the loop's own handlers were added, from the main thread. A handler of Python's would not do: it runs
        when the main thread gets to it, which never happens in a system call that does not return, or that the kernel
        takes up again after the signal. What the interpreter does at once is to write the signal's number to a
        descriptor, which is the loop's: so a thread stands in between, hears of it, and hands it on.
        """
        ours, told = socket.socketpair()
        told.setblocking(False)
        loops = signal.set_wakeup_fd(told.detach(), warn_on_full_buffer=False)
        # Of our own: the loop's number may be another file's when the loop is closed.
        arguments = (ours, None if loops < 0 else os.dup(loops))
        threading.Thread(target=self._hear, args=arguments, name="signals", daemon=True).start()

    def _hear(self, signals: socket.socket, loop: int | None) -> None:
        while numbers := signals.recv(_NUMBERS_MAX):
            if not _SIGNALS.isdisjoint(numbers):
                self.stop_within_deadline()
            if loop is not None:
                with contextlib.suppress(OSError):  # closed, or so full that it wakes up anyway
                    os.write(loop, numbers)

    def loop_ended(self) -> None:
        """The event loop is done; what is left of the process still has to end before the deadline, if there is one."""
        self._loop_ended = True

    def run(self) -> None:
        """Look twice a second."""
        while True:
            self._arm(self._stall_timeout_s + LAST_RESORT_S)
            time.sleep(_INTERVAL_S)
            now_s = time.monotonic()
            if self._stop_by_s is not None:
                if now_s > self._stop_by_s:
                    self._end(f"asked to stop {self._stop_deadline_s:g} s ago and still running")
            elif not self._loop_ended and now_s - self._beat_s > self._stall_timeout_s:
                self._end(f"the event loop did nothing for {self._stall_timeout_s:g} s")

    def _end(self, what: str) -> NoReturn:
        self._arm(LAST_RESORT_S)
        self._die(WorkerStalled(f"{what}; the main thread stands in {self._where()}"))

    def _where(self) -> str:
        frame = sys._current_frames().get(self._watched)  # noqa: SLF001 - documented, for exactly this
        if frame is None:
            return "nothing"
        frames = traceback.extract_stack(frame)[-_SHOWN_FRAMES:]
        return ", called from ".join(f"{one.name} ({one.filename}:{one.lineno})" for one in reversed(frames))

    @staticmethod
    def _arm(timeout_s: float) -> None:
        with contextlib.suppress(AttributeError, ValueError, OSError):  # no standard error to write to
            faulthandler.dump_traceback_later(timeout_s, exit=True, file=sys.__stderr__)  # type: ignore[arg-type]


def end_at_once_on_signals() -> None:
    """Until the loop has handlers of its own, SIGTERM and SIGINT end the process as asked: it has taken nothing yet.

    Without a handler the first process of a container would ignore them.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        os._exit(CLEAN)

    for number in _SIGNALS:
        signal.signal(number, end)
