"""Ports for a broker that is to keep them over restarts.

They lie below the range from which the system takes the source ports of outgoing connections. Inside that range a
client that keeps trying to connect to the broker can be given the broker's own port as its source, connects to
itself, and the broker can never bind (TCP simultaneous open, RFC 9293 section 3.5).
"""

import random
import socket
from pathlib import Path

_LOWEST = 20000
_HIGHEST = 32000
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def is_free(port: int) -> bool:
    """Tell whether a server could listen on the port of 127.0.0.1 now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: old connections do not matter
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_ports(count: int) -> list[int]:
    """Return different ports on which nothing listens now; another process may still be quicker.

    Raises:
        RuntimeError: no free ports were found.

    """
    lowest, highest = _below_ephemeral()
    chosen: list[int] = []
    for port in random.SystemRandom().sample(range(lowest, highest), min(1000, highest - lowest)):
        if is_free(port):
            chosen.append(port)
        if len(chosen) == count:
            return chosen
    raise RuntimeError(f"found no {count} free ports between {lowest} and {highest}")


def _below_ephemeral() -> tuple[int, int]:
    try:
        first_ephemeral = int(_RANGE_FILE.read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        first_ephemeral = 1 << 15  # Linux; macOS and Windows begin at 49152
    highest = min(_HIGHEST, first_ephemeral)
    return (_LOWEST, highest) if highest - _LOWEST >= 1000 else (1024, max(first_ephemeral, 2048))
