"""A TCP proxy on 127.0.0.1 between clients and broker, a process of its own, that delays and cuts connections.

    python proxy.py PORT UPSTREAM_PORT

Reads commands from standard input, one a line: `latency SECONDS` (of a round trip, for what is sent from now on), `cut
SECONDS` (resets every connection, and every new one for that long), `silence` (what comes on connections that are open
now is thrown away, and they stay open). Prints `ready` once it listens; ends with its
input. Imports the standard library only.
"""

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Self

_CHUNK_BYTES = 64 * 1024
_WAITING_CHUNKS_MAX = 64


class Proxy:
    """The process, for whoever commands it. Lives from `with` on; ends with its parent, whose end closes its input."""

    def __init__(self, port: int, upstream_port: int) -> None:
        self._command = [sys.executable, str(Path(__file__)), str(port), str(upstream_port)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            message = f"the proxy did not start: {self._command}"
            raise RuntimeError(message)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def latency(self, round_trip_s: float) -> None:
        """Delay everything from now on."""
        self._say(f"latency {round_trip_s}")

    def cut(self, away_s: float) -> None:
        """Reset every connection, and every new one for a while."""
        self._say(f"cut {away_s}")

    def silence(self) -> None:
        """Let every connection that is open now carry nothing any more, without closing it."""
        self._say("silence")

    def _say(self, command: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()


class _Proxying:
    """What runs inside the process."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._delay_s = 0.0
        self._away_until_s = 0.0
        self._open: set[asyncio.StreamWriter] = set()
        self._silent: set[asyncio.StreamWriter] = set()

    def obey(self, line: bytes) -> None:
        match line.decode().split():
            case ["latency", seconds]:
                self._delay_s = float(seconds) / 2
            case ["cut", seconds]:
                self._away_until_s = asyncio.get_running_loop().time() + float(seconds)
                for writer in self._open:
                    writer.transport.abort()
            case ["silence"]:
                self._silent |= self._open
            case words:
                message = f"no such command: {words}"
                raise ValueError(message)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if asyncio.get_running_loop().time() < self._away_until_s:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, back}
        try:
            await asyncio.gather(self._carry(reader, back), self._carry(there, writer))
        finally:
            for one in (writer, back):
                self._open.discard(one)
                self._silent.discard(one)
                one.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read on one side, write on the other, in order, each chunk after its delay."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING_CHUNKS_MAX)

        async def read() -> None:
            with contextlib.suppress(OSError):  # a reset ends it like any other end
                while chunk := await reader.read(_CHUNK_BYTES):
                    await waiting.put((loop.time() + self._delay_s, chunk))
            await waiting.put((loop.time(), b""))

        reading = asyncio.create_task(read())
        try:
            while True:
                due_s, chunk = await waiting.get()
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                if not chunk:
                    break
                if writer not in self._silent:
                    writer.write(chunk)
                    await writer.drain()
        except OSError:
            pass
        finally:
            reading.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await reading
            writer.transport.abort()


async def _main(port: int, upstream_port: int) -> None:
    proxying = _Proxying(upstream_port)
    await asyncio.start_server(proxying.accept, "127.0.0.1", port)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := await commands.readline():
        proxying.obey(line)


if __name__ == "__main__":
    asyncio.run(_main(*map(int, sys.argv[1:])))
