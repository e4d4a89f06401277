"""A process that ends with its parent, however the parent ends.

On Linux a wrapper asks the kernel for it (prctl(2), PR_SET_PDEATHSIG) and then becomes the program; no code of ours
runs between fork and exec in a program with threads. The signal follows the *thread* that started the child, so only
the main thread may start one. Elsewhere the wrapper stays as the parent and watches a pipe that only we hold open.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_BECOME = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

_WATCH = """
import os, signal, subprocess, sys, threading
signal.signal(signal.SIGTERM, lambda *_: None)
program = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, close_fds=False)
def watch():
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
sys.exit(program.wait() % 256)
"""


class Child:
    """A running program in a session of its own, so that Ctrl-C in the terminal reaches only its parent.

    It lives until it ends by itself, `stop` or `kill` is called, or the process that made it ends.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        folder: Path,
        environment: Mapping[str, str],
        output: IO[bytes],
        keep_open: Sequence[int] = (),
        watch: bool = not sys.platform.startswith("linux"),
    ) -> None:
        """Start the program.

        Args:
            command: absolute path of the program, and its arguments.
            folder: its working directory.
            environment: its whole environment.
            output: where standard output and standard error go.
            keep_open: file descriptors that it inherits, such as that of a lock.
            watch: keep a wrapper as the parent in place of PR_SET_PDEATHSIG.

        Raises:
            RuntimeError: not called from the main thread.

        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "start the broker from the main thread: the kernel kills it as soon as the thread that started it ends "
                "(so not from asyncio.to_thread or a thread pool)"
            )
        self._watched = watch
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-I", "-c", _WATCH if watch else _BECOME, str(os.getpid()), *command],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE if watch else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=keep_open,
        )

    @property
    def pid(self) -> int:
        """Process id; also the id of its process group."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        return self._process.poll()

    def wait(self, patience_s: float) -> int:
        """Wait for its end and return the exit code; after `patience_s`, or when interrupted, it is killed."""
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return self.kill()
        except BaseException:  # the second Ctrl-C
            self.kill()
            raise
        self._close()
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the program and whatever it started; nothing happens if it has ended."""
        if self.poll() is None:
            os.killpg(self.pid, number)

    def stop(self, patience_s: float) -> int:
        """Send SIGTERM, after `patience_s` SIGKILL; return the exit code."""
        self.send_signal(signal.SIGTERM)
        self.send_signal(signal.SIGCONT)  # a paused program could not end
        return self.wait(patience_s)

    def kill(self) -> int:
        """Send SIGKILL, wait for the end and return the exit code."""
        self.send_signal(signal.SIGKILL)
        code = self._process.wait()
        self._close()
        return code

    def _close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
