"""One attempt over real HTTP: what counts as delivered, and what a hostile endpoint cannot do."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from meterproof_sinks.webhook_endpoints import Endpoint, load_endpoints
from meterproof_sinks.webhook_message import message_of
from meterproof_sinks.webhook_sender import ANSWER_BYTES_MAX, Answer, WebhookSender
from tests.alerts import alert
from tests.integration.sinks.webhook_receiver import SECRET, Received, Receiver, answers

MESSAGE = message_of(alert())


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as listening:
        yield listening


def endpoint(folder: Path, entry: dict[str, Any]) -> Endpoint:
    path = folder / "webhooks.json"
    path.write_bytes(orjson.dumps({"version": 1, "endpoints": [entry]}))
    return load_endpoints(path, {"WEBHOOK_SECRET": SECRET})[0]


async def attempt(receiver: Receiver, folder: Path, times: int = 1, **more: Any) -> Answer:
    async with WebhookSender(endpoint(folder, receiver.entry("one", **more))) as sender:
        for _ in range(times - 1):
            await sender.send(MESSAGE, 1_769_817_600)
        return await sender.send(MESSAGE, 1_769_817_600)


@pytest.mark.parametrize(
    ("status", "delivered", "final"),
    [
        *((status, True, False) for status in (200, 201, 202, 204, 299)),
        *((status, False, False) for status in (301, 302, 307, 308, 408, 429, 500, 502, 503, 599)),
        *((status, False, True) for status in (400, 401, 403, 404, 405, 410, 413, 422, 451)),
    ],
)
async def test_what_an_answer_means(
    receiver: Receiver, tmp_path: Path, status: int, delivered: bool, final: bool
) -> None:
    receiver.answer = answers(status)
    answer = await attempt(receiver, tmp_path)
    assert (answer.status, answer.delivered, answer.final) == (status, delivered, final)
    assert answer.reason == (None if delivered else f"answered {status}")
    assert (receiver.ids, receiver.received[0].timestamp_s) == ([MESSAGE.id], 1_769_817_600)
    assert receiver.received[0].body == MESSAGE.body


async def test_a_redirect_is_not_followed(receiver: Receiver, tmp_path: Path) -> None:
    async with Receiver() as other:
        receiver.answer = answers(307, headers={"location": other.url})
        assert (await attempt(receiver, tmp_path)).status == 307
        assert (len(receiver.received), other.received) == (1, [])


async def test_a_body_without_end_is_cut_off_and_a_cookie_not_kept(receiver: Receiver, tmp_path: Path) -> None:
    """Written as bytes: what a server library would not send."""
    requests: list[bytes] = []
    cut_off = asyncio.Event()

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-encoding: gzip\r\n\r\n")
        try:
            for _ in range(1_000):
                writer.write(b"\x1f" * ANSWER_BYTES_MAX)
                await writer.drain()
        except ConnectionError:
            cut_off.set()
        writer.close()

    server = await asyncio.start_server(pour, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        answer = await attempt(receiver, tmp_path, times=2, url=f"http://127.0.0.1:{port}/T0KEN", timeout_s=60)
        assert answer.delivered
        async with asyncio.timeout(60):
            await cut_off.wait()
    assert len(requests) == 2
    assert b"cookie" not in requests[1].lower()


async def test_a_short_body_leaves_the_connection_open(receiver: Receiver, tmp_path: Path) -> None:
    requests = connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests, connections
        connections += 1
        while not reader.at_eof():
            try:
                await reader.readuntil(b"}}")
            except asyncio.IncompleteReadError:
                break
            requests += 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await attempt(receiver, tmp_path, times=3, url=f"http://127.0.0.1:{port}/")).delivered
    assert (requests, connections) == (3, 1)


async def test_an_endpoint_that_never_answers_is_left(receiver: Receiver, tmp_path: Path) -> None:
    async def hang(received: Received, before: int) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    receiver.answer = hang
    answer = await attempt(receiver, tmp_path, timeout_s=1)
    assert (answer.status, answer.reason, answer.final) == (None, "no answer within 1 s", False)


async def test_no_connection_and_no_http(receiver: Receiver, tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # so nobody listens there, and nobody else can
        port = held.getsockname()[1]
        answer = await attempt(receiver, tmp_path, url=f"http://127.0.0.1:{port}/T0KEN")
    assert (answer.status, answer.reason) == (None, "no connection: ConnectionRefusedError")

    async def rubbish(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0" * 100 + b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(rubbish, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        answer = await attempt(receiver, tmp_path, url=f"http://127.0.0.1:{port}/T0KEN")
    assert answer.status is None
    assert answer.reason is not None
    assert answer.reason.startswith("no answer: ")
    assert "T0KEN" not in answer.reason


@pytest.mark.parametrize("host", [f"{'a' * 64}.example.invalid", "a..example.invalid", "example.invalid"])
async def test_a_name_that_cannot_be_looked_up(receiver: Receiver, tmp_path: Path, host: str) -> None:
    for allowed in (True, False):
        answer = await attempt(receiver, tmp_path, url=f"https://{host}/T0KEN", allow_private_addresses=allowed)
        assert answer.status is None
        assert answer.reason is not None
        assert host not in answer.reason


async def test_a_name_with_private_addresses_is_not_connected_to(receiver: Receiver, tmp_path: Path) -> None:
    connections = 0

    async def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        url = f"https://localhost:{port}/T0KEN"
        answer = await attempt(receiver, tmp_path, url=url, allow_private_addresses=False)
        assert (answer.status, answer.reason, answer.final) == (None, "the host has no public address", False)
        assert connections == 0
        answer = await attempt(receiver, tmp_path, url=url)
        assert answer.status is None
        assert connections > 0
