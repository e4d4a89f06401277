"""A ClickHouse server for tests: the embedded engine behind as much of ClickHouse's HTTP interface as a sink uses.

Everything is done by the real engine, over a real socket, for the real client. What a network, an operator or a full
disk does to it is asked for by `Fault`s.
"""

import asyncio
import json
import re
import threading
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

from meterproof_sinks.clickhouse import _INSERT_SETTINGS, ClickHouse, ClickHouseError, Escaped

PASSWORD = "it's a secret"
_INSERT = re.compile(r"\s*INSERT INTO\s+(\S+)\s*(?:\((.*?)\))?\s*(?:SETTINGS .*?)?\s*FORMAT\s+(\w+)\s*", re.DOTALL)
_FORMAT = re.compile(r"\s+FORMAT\s+(\w+)\s*\Z")


@dataclass
class Fault:
    """What goes wrong with the next calls whose SQL contains `where`."""

    kind: Literal["status", "exception", "cut before", "cut after", "half", "slow"]
    where: str = ""
    times: int = 1
    status: int = 503
    """Of `status`: answered by something in front of the server, without a word of ClickHouse's."""
    code: int = 0
    """Of `exception`: ClickHouse's number for the error."""
    text: str = ""
    seconds: float = 3.0
    """Of `slow`: until the answer, which is then right."""


class ClickHouseServer:
    """Lives as long as the `with`; `engine` looks behind the HTTP interface."""

    def __init__(self, engine: ClickHouse) -> None:
        self.engine = engine
        self.url = ""
        self.password = ""
        self.faults: list[Fault] = []
        self.calls: list[str] = []
        """The SQL of every call since the start, inserts without their rows."""
        self.met = 0
        """Calls that met a fault."""
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def up(self) -> None:
        """Listen, on the same port as before."""
        self._do(self._up())

    def down(self) -> None:
        """Stop listening; connections are refused."""
        self._do(self._down())

    def close(self) -> None:
        """End it."""
        self.down()
        self._do(self._cancel_answers())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Any) -> None:
        done: Future[None] = asyncio.run_coroutine_threadsafe(what, self._loop)
        done.result(60)

    async def _up(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/ping", self._ping)
        app.router.add_route("*", "/", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def _down(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    async def _cancel_answers(self) -> None:
        """Those that nobody waits for any more."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    def _fault(self, sql: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.where in sql:
                fault.times -= 1
                self.met += 1
                return fault
        return None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        sql = request.query.get("query", "")
        if not sql:
            sql, body = body.decode(), b""
        if self.password:
            basic = b64encode(f"default:{self.password}".encode()).decode()
            if request.headers.get("Authorization") != f"Basic {basic}":
                text = "default: Authentication failed: password is incorrect, or there is no user with such name."
                return _exception(516, text, "AUTHENTICATION_FAILED", status=403)
        insert = _INSERT.match(sql)
        if insert is not None and insert.end() < len(sql):
            sql, body = sql[: insert.end()], sql[insert.end() :].encode() + body
        self.calls.append(sql)
        fault = self._fault(sql)
        kind = None if fault is None else fault.kind
        if fault is not None and kind == "status":
            return web.Response(status=fault.status, text="no healthy upstream\n")
        if fault is not None and kind == "exception":
            return _exception(fault.code, fault.text, "TEST")
        if kind == "cut before":
            return _cut(request)
        if kind == "half" and insert is not None:
            # The connection broke while the body came; what came was taken in.
            await asyncio.to_thread(self._insert_half, insert, body)
            return _cut(request)
        answer = await asyncio.to_thread(self._run, sql, body, request, insert)
        if kind == "cut after":
            return _cut(request)
        if fault is not None and kind == "slow":
            await asyncio.sleep(fault.seconds)
        return answer

    def _insert_half(self, insert: re.Match[str], body: bytes) -> None:
        table, names = insert[1].replace("`", ""), _columns(insert)
        types = dict(
            self.engine.rows(
                "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {table:String}",
                {"table": table},
            )
        )
        path = self.engine.folder / "half"
        path.write_bytes(body)
        given = {"path": str(path), "structure": ", ".join(f"`{name}` {types[name]}" for name in names)}
        rows = f"FROM file({{path:String}}, {insert[3]}, {{structure:String}})"
        ((count,),) = self.engine.rows(f"SELECT count() {rows}", given)
        self.engine.command(
            f"INSERT INTO {table} ({', '.join(names)}) SELECT * {rows} LIMIT {{half:UInt64}}",
            {**given, "half": count // 2},
        )
        path.unlink()

    def _run(self, sql: str, body: bytes, request: web.Request, insert: re.Match[str] | None) -> web.Response:
        parameters: dict[str, Any] = {
            name.removeprefix("param_"): Escaped(value)
            for name, value in request.query.items()
            if name.startswith("param_")
        }
        summary: dict[str, str] = {}
        answer, format_name = b"", "TabSeparated"
        try:
            if insert is not None:
                with self.engine._calling() as client:
                    inserted = client.raw_insert(
                        insert[1].replace("`", ""), _columns(insert), body, settings=_INSERT_SETTINGS, fmt=insert[3]
                    )
                summary = {"written_rows": str(inserted.written_rows)}
            elif re.match(r"(?:\s|--.*\n)*(SELECT|WITH|SHOW|DESCRIBE|EXISTS|EXPLAIN)\b", sql):
                clause = _FORMAT.search(sql)
                format_name = clause[1] if clause else request.query.get("default_format", "TabSeparated")
                answer = self.engine.raw(sql[: clause.start()] if clause else sql, format_name, parameters)
            else:
                self.engine.command(sql, parameters)
        except ClickHouseError as error:
            return _exception(error.code or 1001, str(error), "", status=500)
        return web.Response(
            body=answer,
            headers={
                "X-ClickHouse-Format": format_name,
                "X-ClickHouse-Summary": json.dumps(summary),
                "X-ClickHouse-Query-Id": "1",
            },
        )


def _columns(insert: re.Match[str]) -> list[str]:
    return [name.strip(" `\n") for name in (insert[2] or "").split(",") if name.strip()]


def _exception(code: int, text: str, name: str, status: int = 500) -> web.Response:
    text = text if text.startswith("Code:") else f"Code: {code}. DB::Exception: {text}. ({name})"
    return web.Response(status=status, text=f"{text}\n", headers={"X-ClickHouse-Exception-Code": str(code)})


def _cut(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@contextmanager
def served(folder: Path) -> Iterator[ClickHouseServer]:
    """A server over a new folder; the process can have no other folder open."""
    engine = ClickHouse.open_folder(folder)
    server = ClickHouseServer(engine)
    try:
        server.up()
        yield server
    finally:
        server.close()
        engine.close()
