"""One worker process under supervision: started, watched, started again with back-off, stopped."""

import enum
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from meterproof.exit_codes import STOPPED
from meterproof_local.child import Child

FIRST_PAUSE_S: Final = 0.2
"""Before the first restart: a worker that was killed once should be back at once."""
LONGEST_PAUSE_S: Final = 10.0
STABLE_AFTER_S: Final = 30.0
"""A worker that ran this long has recovered: its next crash is again a first one."""
HEALTH: Final = {"METERPROOF_HEALTH_HOST": "127.0.0.1", "METERPROOF_HEALTH_PORT": "0"}
"""Probes and metrics of each worker, on a free port that its status file names."""
_WRONG_USAGE: Final = 2
_METERPROOF: Final = "import sys; from meterproof_proofs.command import main; sys.exit(main(sys.argv[1:]))"
_LAST_BYTES: Final = 8192


class State(enum.StrEnum):
    """What a supervised worker is doing."""

    RUNNING = "running"
    WAITING = "restarting"
    """It ended unexpectedly, and waits for its next start."""
    NEEDS_YOU = "needs you"
    """It ended because going on could do harm: only a person may start it again."""
    STOPPED = "stopped"
    """Not started, or stopped as asked."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What to run."""

    name: str
    """Unique in the pipeline; names the log file."""
    arguments: tuple[str, ...]
    """Of the command `meterproof`."""
    status: str
    """Name of the status file that it writes."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Added to its environment."""
    patience_s: float = 25.0
    """How long it may take to stop."""
    carries_logs: bool = True
    """Whether it holds partitions of the log, and its status says how far each is."""


class Worker:
    """A worker process and its restarts. Lives as long as its supervisor, whose main thread calls every method."""

    def __init__(self, spec: WorkerSpec, logs: Path, folder: Path) -> None:
        self.spec = spec
        self.log = logs / f"{spec.name}.log"
        """What the process printed, over all its runs."""
        self.restarts = 0
        """How often it was started again after it had ended unexpectedly."""
        self.exit_code: int | None = None
        """Of the last run that ended; negative for a signal."""
        self._folder = folder
        self._child: Child | None = None
        self._wanted = False
        self._started_s = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._due_s = 0.0
        self._stop_by_s: float | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    @property
    def state(self) -> State:
        """What it is doing now."""
        if self.pid is not None:
            return State.RUNNING
        if not self._wanted:
            return State.STOPPED
        return State.NEEDS_YOU if self.exit_code in {STOPPED, _WRONG_USAGE} else State.WAITING

    def start(self, now_s: float) -> None:
        """Start the process; does nothing if it runs."""
        self._wanted = True
        if self.pid is not None:
            return
        self._started_s, self._stop_by_s = now_s, None
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(
                ("METERPROOF_KAFKA_", "METERPROOF_WORKER_", "METERPROOF_CLICKHOUSE_", "METERPROOF_HEALTH_")
            )
        } | HEALTH
        with self.log.open("ab") as output:
            self._child = Child(
                [sys.executable, "-c", _METERPROOF, *self.spec.arguments],
                folder=self._folder,
                environment=environment | dict(self.spec.variables),
                output=output,
            )

    def watch(self, now_s: float) -> bool:
        """Notice an end, and start the process again when that is due; True if its state changed."""
        if self._child is not None and (code := self._child.poll()) is not None:
            self._child, self.exit_code = None, code
            if now_s - self._started_s >= STABLE_AFTER_S:
                self._pause_s = FIRST_PAUSE_S
            self._due_s = now_s + self._pause_s
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            return True
        if self._child is None and self.state is State.WAITING and now_s >= self._due_s:
            self.restarts += 1
            self.start(now_s)
            return True
        return False

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would; `watch` starts it again."""
        if self._child is not None:
            self._child.send_signal(signal.SIGKILL)

    def ask_to_stop(self, now_s: float) -> None:
        """Send SIGTERM; it is not started again."""
        self._wanted = False
        if self._child is not None and self._stop_by_s is None:
            self._stop_by_s = now_s + self.spec.patience_s
            self._child.send_signal(signal.SIGTERM)
            self._child.send_signal(signal.SIGCONT)  # a paused process could not end

    def has_ended(self, now_s: float) -> bool:
        """Whether it is gone after `ask_to_stop`; after its patience it is killed."""
        child = self._child
        if child is None:
            return True
        code = child.poll()
        if code is None and self._stop_by_s is not None and now_s > self._stop_by_s:
            code = child.kill()
        if code is None:
            return False
        self._child, self.exit_code = None, code
        return True

    def end(self) -> None:
        """Kill it now, for good."""
        self._wanted = False
        if self._child is not None:
            self.exit_code = self._child.kill()
            self._child = None

    def last_words(self, lines: int = 5) -> Sequence[str]:
        """The last lines of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - _LAST_BYTES))
                text = file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return []
        return [line for line in text.splitlines() if line.strip()][-lines:]
