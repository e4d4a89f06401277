"""A broker with a second listener, whose clients are told the address of a proxy."""

import json
from pathlib import Path
from typing import NamedTuple

from meterproof.kafka.settings import KafkaSettings
from meterproof_local.broker import LocalBroker
from meterproof_local.ports import choose_ports
from tests.chaos.proxy import Proxy

REQUEST_TIMEOUT_S = 10
"""Of clients behind the proxy: how long a connection that fell silent is believed."""


class ProxiedBroker(NamedTuple):
    """Both, not started yet."""

    broker: LocalBroker
    proxy: Proxy
    kafka: KafkaSettings
    """Kafka through the proxy; `broker.bootstrap` is the way past it."""


def proxied_broker(folder: Path) -> ProxiedBroker:
    """Describe a broker in this folder and a proxy in front of it."""
    broker, controller, behind, front = choose_ports(4)
    folder.mkdir(parents=True)
    (folder / "ports.json").write_text(json.dumps({"broker": broker, "controller": controller}))
    properties = {
        "listeners": f"PLAIN://127.0.0.1:{broker},PROXIED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAIN://127.0.0.1:{broker},PROXIED://127.0.0.1:{front}",
        "listener.security.protocol.map": "PLAIN:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }
    settings = KafkaSettings(
        bootstrap=f"127.0.0.1:{front}",
        topic_prefix="",
        security_protocol="PLAINTEXT",
        request_timeout_s=REQUEST_TIMEOUT_S,
    )
    return ProxiedBroker(LocalBroker(folder, properties=properties), Proxy(front, behind), settings)
