"""What a worker says of its health, and the small web server that says it: `/livez`, `/readyz`, `/metrics`.

Alive means that ending this process would cure nothing: false only when the event loop stands, or when records wait and
none is taken although nothing outside is waited for. Ready means that records which come now are carried: false also
while it starts, takes over, waits for a broker or a destination, or stops. A rebalance, a slow destination or a broker
that is away is alive and not ready.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

import orjson
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from meterproof.errors import MeterError

_REQUEST_TIMEOUT_S: Final = 5.0


class HealthSettings(BaseSettings):
    """Where a worker serves its health. Each field can come from `METERPROOF_HEALTH_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix="METERPROOF_HEALTH_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    port: int | None = Field(default=None, ge=0, le=65535)
    """None: not at all. 0: any free port, so that workers of one host never clash; the status file says which."""
    host: str = "0.0.0.0"  # noqa: S104 - probes and scrapers come from other machines; nothing secret is served
    """The address to listen on."""


@dataclass(frozen=True, slots=True)
class Health:
    """A verdict, with its reasons in words for people."""

    unhealthy: tuple[str, ...] = ()
    """Why the process should be ended; empty while it is alive."""
    waiting: tuple[str, ...] = ()
    """Why nothing is carried now, though the process is alive; empty while it is ready."""

    @property
    def alive(self) -> bool:
        """Whether ending this process would cure nothing."""
        return not self.unhealthy

    @property
    def ready(self) -> bool:
        """Whether records that come now are carried."""
        return not self.unhealthy and not self.waiting

    def as_json(self) -> dict[str, Any]:
        """For the status file and the web server."""
        return {"alive": self.alive, "ready": self.ready, "reasons": [*self.unhealthy, *self.waiting]}


class PortTaken(MeterError):
    """The port for health cannot be listened on."""


class HealthServer:
    """Answers probes and scrapers from threads of its own, so also while the event loop stands.

    `GET /livez` and `/readyz`: 200 or 503, with `{"alive", "ready", "reasons", …}`. `GET /metrics`: Prometheus' text
    format, or OpenMetrics if that is asked for. Lives from `start` to the end of the process.
    """

    def __init__(
        self, settings: HealthSettings, *, health: Callable[[], Health], about: dict[str, Any], metrics: Collector
    ) -> None:
        """Serve nothing yet.

        Args:
            settings: where.
            health: the verdict of the moment; called by any thread.
            about: added to each verdict: which worker it is.
            metrics: the worker's metrics; collected by any thread. Those of the process are added.

        """
        self._settings = settings
        self._health = health
        self._about = about
        self._registry = CollectorRegistry()
        self._registry.register(metrics)
        ProcessCollector(registry=self._registry)
        self._server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int | None:
        """Where it listens; None if it does not."""
        return None if self._server is None else int(self._server.server_address[1])

    def start(self) -> Self:
        """Listen, if the settings name a port.

        Raises:
            PortTaken: another process listens there, or the address is not this machine's.
        """
        settings = self._settings
        if settings.port is None:
            return self
        answering = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_TIMEOUT_S
            server_version = "meterproof"
            sys_version = ""

            def do_GET(self) -> None:
                status, kind, body = answering.answer(self.path, self.headers.get("Accept"))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Probes come every few seconds."""

        try:
            self._server = _Server((settings.host, settings.port), Handler)
        except OSError as error:
            raise PortTaken(
                f"health cannot be served on {settings.host}:{settings.port}: {error.strerror}. Give each worker of a "
                "host a METERPROOF_HEALTH_PORT of its own, or 0 for any free one"
            ) from error
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()
        return self

    def answer(self, path: str, accept: str | None = None) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for a path."""
        match path.partition("?")[0]:
            case "/livez":
                health = self._health()
                return self._verdict(health, holds=health.alive)
            case "/readyz":
                health = self._health()
                return self._verdict(health, holds=health.ready)
            case "/metrics":
                encode, kind = choose_encoder(accept or "")
                return HTTPStatus.OK, kind, encode(self._registry)
        body = orjson.dumps({"error": "not here; ask /livez, /readyz or /metrics"}) + b"\n"
        return HTTPStatus.NOT_FOUND, "application/json", body

    def _verdict(self, health: Health, *, holds: bool) -> tuple[HTTPStatus, str, bytes]:
        body = orjson.dumps(health.as_json() | self._about, option=orjson.OPT_APPEND_NEWLINE)
        return HTTPStatus.OK if holds else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", body


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Whoever asked has gone."""
