"""The same Kafka in a container, for machines where Docker answers."""

import time
from typing import Any, Self

from meterproof_local.broker import new_cluster_id
from meterproof_local.errors import BrokerError
from meterproof_local.jars import kafka_version
from meterproof_local.ports import choose_ports
from meterproof_local.properties import ONE_NODE
from meterproof_local.readiness import ask_cluster

_CONTROLLER = "localhost:19093"
_POLL_INTERVAL_S = 0.1
_START_TIMEOUT_S = 120.0
"""How long a start may take, without pulling the image."""


class ContainerBroker:
    """Apache Kafka in a container, with the properties of `LocalBroker`, published on 127.0.0.1.

    The image is the Apache project's own, in the version of the jars. Promises: port and records survive `kill` and
    `restart`; they end with `close`, because they live in the container. Lives from `start` to `close`; testcontainers
    removes the container should this process die.
    """

    def __init__(self) -> None:
        """Describe a broker; nothing happens before `start`."""
        self._image = f"apache/kafka:{kafka_version()}"
        self._cluster_id = new_cluster_id()
        self._address: tuple[str, int] | None = None
        self._container: Any = None

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients, plaintext; raises `BrokerError` before the start."""
        if self._address is None:
            raise BrokerError("the broker has no port before its start")
        return f"{self._address[0]}:{self._address[1]}"

    def start(self) -> Self:
        """Create and start the container, and return when the broker is ready.

        Raises:
            BrokerError: Docker or testcontainers is missing, or the broker was not ready in time.

        """
        try:
            from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise BrokerError("testcontainers is not installed: pip install 'meterproof-local[containers]'") from error
        (port,) = choose_ports(1)
        try:
            container = DockerContainer(self._image).with_bind_ports(port, port)
            host = container.get_docker_client().host()
            properties = {
                **ONE_NODE,
                "controller.quorum.voters": f"1@{_CONTROLLER}",
                "listeners": f"PLAIN://:{port},CONTROLLER://{_CONTROLLER}",
                "advertised.listeners": f"PLAIN://{host}:{port}",
                "log.dirs": "/var/lib/kafka/data",
            }
            container = container.with_env("CLUSTER_ID", self._cluster_id)
            for name, value in properties.items():
                container = container.with_env("KAFKA_" + name.upper().replace(".", "_"), value)
            self._container = container.start()
        except Exception as error:  # docker, requests and testcontainers have no common base
            raise BrokerError(
                f"Docker did not start {self._image}: {error}. Start Docker, or take LocalBroker."
            ) from error
        self._address = (host, port)
        self._wait()
        return self

    def kill(self) -> None:
        """End the broker with SIGKILL."""
        self._container.get_wrapped_container().kill()

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same records and port; returns when it is ready."""
        self._container.get_wrapped_container().restart(timeout=10)
        self._wait()

    def close(self) -> None:
        """Stop and remove the container; harmless when repeated."""
        container, self._container = self._container, None
        if container is not None:
            container.stop()

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _wait(self) -> None:
        host, port = self._address or ("", 0)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            answer = ask_cluster(host, port)
            if answer is not None and answer.cluster_id == self._cluster_id and (host, port) in answer.brokers:
                return
            time.sleep(_POLL_INTERVAL_S)
        output = b"".join(self._container.get_logs()).decode("utf-8", "replace")
        self.close()
        raise BrokerError(f"{self._image} was not ready within {_START_TIMEOUT_S:g} s:\n{output[-4000:]}")
