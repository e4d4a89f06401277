"""A real HTTP server that takes webhooks, and answers as a test says."""

import asyncio
import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

import orjson
from aiohttp import web

SECRET = f"whsec_{b64encode(bytes(range(32))).decode()}"
PATH = "/T0KEN"
PATIENCE_S = 180.0


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    id: str
    timestamp_s: int
    subject: str
    headers: dict[str, str]
    body: bytes


Answering = Callable[[Received, int], Awaitable[web.StreamResponse]]
"""Answers a request, of which it is told how many of its id came before."""


def answers(*statuses: int, headers: dict[str, str] | None = None) -> Answering:
    """To the first request of an id the first status, to the second the second …, and the last to all later ones."""

    async def answer(received: Received, before: int) -> web.StreamResponse:
        status = statuses[min(before, len(statuses) - 1)]
        return web.Response(status=status, headers=headers if status >= 300 else None)

    return answer


class Receiver:
    """Listens on a free port of 127.0.0.1, checks every signature, and notes every request. Lives in `async with`."""

    def __init__(self, answer: Answering | None = None) -> None:
        self.answer = answer or answers(200)
        self.received: list[Received] = []
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A request that a test leaves hanging must not keep the test from ending.
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}{PATH}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def ids(self) -> list[str]:
        """In the order in which they came."""
        return [one.id for one in self.received]

    @property
    def subjects(self) -> list[str]:
        """Of the alerts, in the order in which they came."""
        return [one.subject for one in self.received]

    def entry(self, name: str, **more: Any) -> dict[str, Any]:
        """It as an endpoint of the endpoints file, with the secret in `WEBHOOK_SECRET` and quick retries."""
        return {
            "name": name,
            "url": self.url,
            "secret_env": "WEBHOOK_SECRET",
            "since": "2026-01-01T00:00:00.000Z",
            "allow_private_addresses": True,
            "first_pause_ms": 20,
            "longest_pause_ms": 100,
            **more,
        }

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = b64decode(SECRET.removeprefix("whsec_"))
        assert headers["webhook-signature"] == f"v1,{b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"
        assert (request.method, request.path, headers["content-type"]) == ("POST", PATH, "application/json")
        message = orjson.loads(body)
        received = Received(
            headers["webhook-id"], int(headers["webhook-timestamp"]), message["data"]["subject"], headers, body
        )
        before = self.ids.count(received.id)
        self.received.append(received)
        return await self.answer(received, before)


async def eventually(holds: Callable[[], bool], *tasks: "asyncio.Task[Any]") -> None:
    """Wait until something holds, which it must within a generous time and before any of the tasks ends."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            for task in tasks:
                assert not task.done(), task
            await asyncio.sleep(0.02)
