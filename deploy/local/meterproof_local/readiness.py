"""Is a broker ready, and is it the one that was meant? Asked with one Metadata request, version 2, without a library.

An open port is not enough (the broker opens it before it can answer), and an answer alone is not either: it may come
from another broker that was quicker to take the port. Metadata names the cluster id and the brokers in service.
Format: Kafka protocol guide, "Metadata Request (Version: 2)".
"""

import socket
import struct
from dataclasses import dataclass

_REQUEST = struct.pack(">hhihi", 3, 2, 1, -1, 0)  # api key, version, correlation id, no client id, no topics


@dataclass(frozen=True)
class ClusterAnswer:
    """What a broker says about its cluster."""

    cluster_id: str
    brokers: tuple[tuple[str, int], ...]
    """Advertised host and port of every broker in service."""


def ask_cluster(host: str, port: int, timeout_s: float = 1.0) -> ClusterAnswer | None:
    """Return the broker's answer, or None if there is none in time."""
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(_REQUEST)) + _REQUEST)
            (size,) = struct.unpack(">i", _read(connection, 4))
            return _parse(_read(connection, min(size, 1 << 16)))
    except (OSError, struct.error, UnicodeDecodeError):
        return None


def _read(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionError("closed by the broker")
        received += part
    return received


def _parse(body: bytes) -> ClusterAnswer:
    at = 8
    (_, count) = struct.unpack_from(">ii", body)
    brokers = []
    for _ in range(count):
        at += 4  # node id
        host, at = _string(body, at)
        (port,) = struct.unpack_from(">i", body, at)
        _, at = _string(body, at + 4)  # rack
        brokers.append((host, port))
    cluster_id, at = _string(body, at)
    return ClusterAnswer(cluster_id, tuple(brokers))


def _string(body: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", body, at)
    end = at + 2 + max(size, 0)
    return body[at + 2 : end].decode(), end
