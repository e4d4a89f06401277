"""Where the status of a sink worker goes: its file, its probes, its metrics, and the watchdog."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

from meterproof.health import Health, HealthServer, HealthSettings
from meterproof.metrics import StatusMetrics
from meterproof.status import StatusFile
from meterproof.watchdog import Watchdog
from meterproof_sinks.sink_settings import SinkSettings

_SLUGGISH_S: Final = 5.0
"""An event loop that did nothing for this long carries nothing."""
_FINE: Final = ("running", "standing by")
"""States of a worker that does what it should."""


class StatusWriter(Protocol):
    """Takes a worker's status as often as it has one."""

    def write(self, status: dict[str, Any]) -> None:
        """Take the newest, which nobody changes afterwards."""


class SinkStatus:
    """Shows a worker's status to everybody who wants it; also while its event loop stands.

    Lives from `start` to the end of the process.
    """

    def __init__(
        self,
        worker: str,
        folder: Path,
        *,
        settings: SinkSettings,
        health: HealthSettings,
        die: Callable[[BaseException], NoReturn],
    ) -> None:
        """Show nothing yet; `die` ends the process, and is called by the watchdog's thread."""
        self.instance = settings.instance or worker
        self.watchdog = Watchdog(
            stop_deadline_s=settings.stop_deadline_s, stall_timeout_s=settings.stall_timeout_s, die=die
        )
        self._stall_timeout_s = settings.stall_timeout_s
        self._file = StatusFile(folder, self.instance)
        self._shown: Mapping[str, Any] = {"state": "starting"}
        self._server = HealthServer(
            health,
            health=lambda: self._health(self._shown),
            about={"worker": worker, "instance": self.instance},
            metrics=StatusMetrics(worker, self.instance, lambda: self._shown),
        )

    def start(self) -> None:
        """Answer probes, and watch.

        Raises:
            PortTaken: the port for health cannot be listened on.
        """
        self._server.start()
        self.watchdog.beat()
        self.watchdog.start()

    def write(self, status: dict[str, Any]) -> None:
        """Show a status."""
        shown = status | {"instance": self.instance, "health_port": self._server.port}
        self._shown = shown | self._health(shown).as_json()
        self._file.write(dict(self._shown))

    def failed(self, error: BaseException) -> None:
        """Show why the worker ends."""
        self.write(dict(self._shown) | {"state": "failed", "error": str(error)})

    def _health(self, status: Mapping[str, Any]) -> Health:
        unhealthy, waiting = list(status.get("stuck", ())), list(status.get("slow", ()))
        silence_s = self.watchdog.silence_s
        if silence_s > self._stall_timeout_s:
            unhealthy.append(f"the event loop did nothing for {silence_s:.0f} s")
        elif silence_s > _SLUGGISH_S:
            waiting.append(f"the event loop did nothing for {silence_s:.0f} s")
        if status["state"] not in _FINE:
            waiting.append(status["state"])
        waiting += [
            f"partition {partition}: {away}"
            for partition, part in status.get("partitions", {}).items()
            if (away := part.get("away")) is not None
        ]
        if (fault := status.get("broker_fault")) is not None:
            waiting.append(fault)
        return Health(tuple(unhealthy), tuple(waiting))
