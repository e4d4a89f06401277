"""A loopback HTTP endpoint for reading the ClickHouse folder that this process owns: chDB lets no other one open it.

It speaks as much of ClickHouse's HTTP interface as reading needs, so `curl`, tools that ask for text formats, and
ClickHouse's client for Python work: SQL in the body or in `?query=`, `default_format` or a FORMAT clause, bound
parameters as `param_<name>`, and `/ping`. Not spoken is `client_protocol_version`, by which a client chooses how
`Native` is laid out: the engine of a folder takes none. ClickHouse's client for Go, and Grafana's data source with it,
insists on one.
"""

import asyncio
import contextlib
import os
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson
import structlog
from aiohttp import web

from meterproof_sinks.clickhouse import DATABASE, EXACT_JSON, ClickHouse, ClickHouseError, Escaped

ENDPOINT_FILE: Final = "endpoint.json"
_READERS: Final = 2
_QUERY_BYTES_MAX: Final = 1024 * 1024
_PARAMETER_PREFIX: Final = "param_"
_DEFAULT_FORMAT: Final = "TabSeparated"
READER_SETTINGS: Final[dict[str, Any]] = {
    "max_execution_time": 120,
    "max_memory_usage": 2 * 1024**3,
    **EXACT_JSON,
}
"""Of every connection that answers other people's queries; the queries cannot change them."""
_READS: Final = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS"})
_FIRST_WORD: Final = re.compile(r"[\s(]*(\w+)")
_FORMAT_CLAUSE: Final = re.compile(r"\bFORMAT\s+(\w+)\s*\Z", re.IGNORECASE)
# The engine lets even a read-only connection write a file with this clause: the word is refused wherever it stands.
_OUTFILE: Final = re.compile(r"OUTFILE", re.IGNORECASE)
# Everything in which a semicolon separates nothing: strings, quoted names, here-documents, comments.
_OPAQUE: Final = re.compile(
    r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`"""
    r"""|\$(\w*)\$.*?\$\1\$|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/""",
    re.DOTALL,
)
# What clients send about the transport; it changes no result here.
_TRANSPORT: Final = frozenset({
    "query", "default_format", "database", "user", "password", "query_id", "session_id", "session_timeout",
    "session_check", "compress", "decompress", "enable_http_compression", "wait_end_of_query", "buffer_size",
    "client_protocol_version", "send_progress_in_http_headers", "http_headers_progress_interval_ms", "quota_key",
    "role",
})  # fmt: skip
_READONLY_CODE: Final = 164
_UNKNOWN_CODE: Final = 1001
_CONTENT_TYPES: Final = {"JSON": "application/json", "CSV": "text/csv", "Tab": "text/tab-separated-values"}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What `endpoint.json` says, in the ClickHouse folder."""

    url: str
    pid: int


def read_endpoint(folder: Path) -> Endpoint | None:
    """The endpoint of the process that owns this ClickHouse folder; None if there is none that lives."""
    try:
        written = orjson.loads((folder / ENDPOINT_FILE).read_bytes())
        endpoint = Endpoint(str(written["url"]), int(written["pid"]))
        with contextlib.suppress(PermissionError):  # it lives, as another user's process
            os.kill(endpoint.pid, 0)
    except (FileNotFoundError, ProcessLookupError, orjson.JSONDecodeError, KeyError):
        return None
    return endpoint


class QueryFront:
    """Serves reads of one ClickHouse folder on 127.0.0.1; a context manager that lives inside the owner's event loop.

    Every connection to the engine is read-only (`readonly=1`: no inserts, no DDL, no files, no URLs, no change of
    settings), and statements that could write all the same are refused before they get there.
    """

    def __init__(self, folder: Path, *, database: str = DATABASE, port: int = 0) -> None:
        self._folder = folder
        self._database = database
        self._port = port
        self._readers: asyncio.Queue[ClickHouse] = asyncio.Queue()
        self._runner: web.AppRunner | None = None
        self.url = ""
        """`http://127.0.0.1:<port>`, once it is open."""

    async def __aenter__(self) -> Self:
        """Open the endpoint and write `endpoint.json`."""
        for _ in range(_READERS):
            self._readers.put_nowait(await asyncio.to_thread(self._reader))
        app = web.Application(client_max_size=_QUERY_BYTES_MAX, middlewares=[_only_from_here])
        app.router.add_get("/ping", self._ping)
        app.router.add_route("*", "/", self._query)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"
        file = self._folder / ENDPOINT_FILE
        temporary = file.with_suffix(".new")
        temporary.write_bytes(orjson.dumps({"url": self.url, "pid": os.getpid()}, option=orjson.OPT_APPEND_NEWLINE))
        temporary.replace(file)
        _log.info("query_front_opened", url=self.url)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Remove `endpoint.json`, finish what is being answered, close."""
        (self._folder / ENDPOINT_FILE).unlink(missing_ok=True)
        if self._runner is not None:
            await self._runner.cleanup()
        while not self._readers.empty():
            await asyncio.to_thread(self._readers.get_nowait().close)

    def _reader(self) -> ClickHouse:
        return ClickHouse.read_folder(self._folder, database=self._database, settings=READER_SETTINGS)

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _query(self, request: web.Request) -> web.Response:
        """Answer one query, or `Ok.` where there is none, as ClickHouse does."""
        sql = "\n".join(part for part in (request.query.get("query", ""), await _body(request)) if part.strip())
        if not sql:
            return web.Response(text="Ok.\n")
        try:
            sql, format_name = one_read(sql, request.query.get("default_format", _DEFAULT_FORMAT))
            parameters = {
                name.removeprefix(_PARAMETER_PREFIX): Escaped(value)
                for name, value in request.query.items()
                if name.startswith(_PARAMETER_PREFIX)
            }
            for name, value in request.query.items():
                if not (name.startswith(_PARAMETER_PREFIX) or name in _TRANSPORT or _is_fixed(name, value)):
                    raise _refused(
                        f"Cannot modify '{name}' setting in readonly mode: this endpoint has its settings fixed"
                    )
            # The driver formats a query without placeholders in another way as soon as it is given parameters.
            parameters = {name: value for name, value in parameters.items() if re.search(rf"\{{\s*{name}\s*:", sql)}
            reader = await self._readers.get()
            try:
                body = await asyncio.to_thread(reader.raw, sql, format_name, parameters)
            finally:
                self._readers.put_nowait(reader)
        except ClickHouseError as error:
            code = _code_of(error)
            return web.Response(
                status=500,
                text=f"{error}\n",
                headers={"X-ClickHouse-Exception-Code": str(code), "X-ClickHouse-Query-Id": str(uuid.uuid4())},
            )
        content_type = next((kind for start, kind in _CONTENT_TYPES.items() if format_name.startswith(start)), None)
        return web.Response(
            body=body,
            content_type=content_type or "application/octet-stream",
            headers={
                "X-ClickHouse-Format": format_name,
                "X-ClickHouse-Summary": "{}",
                "X-ClickHouse-Query-Id": str(uuid.uuid4()),
            },
        )


@web.middleware
async def _only_from_here(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuse what a web page made a browser on this machine send: its Host or Origin is not this endpoint."""
    host = request.host.rpartition(":")[0] or request.host
    if host not in {"127.0.0.1", "localhost"} or request.headers.get("Origin") is not None:
        return web.Response(status=403, text="this endpoint answers programs on this machine only\n")
    return await handler(request)


async def _body(request: web.Request) -> str:
    raw = await request.read()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise web.HTTPBadRequest(text=f"the query is not UTF-8: {error}\n") from error


def one_read(sql: str, default_format: str) -> tuple[str, str]:
    """One read without its FORMAT clause, and the format to answer in.

    Raises:
        ClickHouseError: it is no read, or more than one, or names the one clause that could write a file.
    """
    if _OUTFILE.search(sql):
        raise _refused("INTO OUTFILE is refused, and so is the word anywhere in a query")
    # The same text, character by character, with nothing in it that only looks like syntax.
    bare = _OPAQUE.sub(lambda found: (" " if found[0][0] in "-#/" else "x") * len(found[0]), sql)
    bare = bare.rstrip().rstrip(";").rstrip()
    first = _FIRST_WORD.match(bare)
    if first is None or first[1].upper() not in _READS:
        raise _refused(f"only reads are answered here: {', '.join(sorted(_READS))}")
    if ";" in bare:
        raise _refused("one statement at a time is answered here")
    clause = _FORMAT_CLAUSE.search(bare)
    if clause is not None:
        return sql[: clause.start()], clause[1]
    if not re.fullmatch(r"\w+", default_format):
        raise _refused("default_format is not the name of a format")
    return sql[: len(bare)], default_format


def _is_fixed(name: str, value: str) -> bool:
    """Whether a setting is asked for that holds here anyway."""
    return str(READER_SETTINGS.get(name)) == value


def _refused(text: str) -> ClickHouseError:
    return ClickHouseError(f"Code: {_READONLY_CODE}. DB::Exception: {text}. (READONLY)")


def _code_of(error: ClickHouseError) -> int:
    match = re.search(r"Code:\s*(\d+)", str(error))
    return int(match[1]) if match else _UNKNOWN_CODE
