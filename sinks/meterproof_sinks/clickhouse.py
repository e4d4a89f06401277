"""One ClickHouse, reached the same way whether it is a folder opened in this process (chDB) or a server at a URL."""

import contextlib
import io
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError as DriverError
from clickhouse_connect.driver.exceptions import OperationalError

from meterproof_sinks.file_lock import is_locked_by_another
from meterproof_sinks.sink import SinkFault, SinkUnavailable

DATABASE: Final = "meterproof"
_INSERT_FOLDER: Final = "inserts"
_STATUS_FILE: Final = "status"
"""In a folder: locked by the engine that has it open, with the id of its process."""
_INSERT_SETTINGS: Final = {
    # An insert returns when its rows are in the table, never when they wait in a buffer.
    "async_insert": 0,
    # Rows of one insert are never repeats of one another, so looking for them before writing is lost time.
    "optimize_on_insert": 0,
    # Skip indexes prune little of what has just come in, and each merge builds them anew anyway.
    "materialize_skip_indexes_on_insert": 0,
    # One block has nothing to share among threads; cutting it up for them first costs a tenth of the whole.
    "input_format_parallel_parsing": 0,
    "max_threads": 1,
}
EXACT_JSON: Final[Mapping[str, Any]] = MappingProxyType({"output_format_json_quote_decimals": 1})
"""Money and quantities as JSON strings, on every connection: a JSON number would be read as a float."""
_SETTINGS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        **EXACT_JSON,
        # A query would be compiled at its third run, for a quarter of a second at once, and gain nothing by it.
        "compile_expressions": 0,
        "compile_aggregate_expressions": 0,
        # Groups that take more go to the disk: of a day with millions of sessions, too, no more is in memory at once.
        "max_bytes_before_external_group_by": 1024**3,
    }
)
"""Of every connection."""
ENGINE_MEMORY_MIB: Final = 4096
"""What the engine of a folder may hold in all; less where nine tenths of the machine or the container are less."""
_ENGINE_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        # What finds rows is kept up to this. By default each of the first two would go on to 5 GiB with the folder.
        "mark_cache_size": 128 * 1024**2,
        "index_mark_cache_size": 32 * 1024**2,
        "query_condition_cache_size": 16 * 1024**2,
    }
)
"""Of the engine of a folder, which the first connection of a process starts."""
_NO_SETTINGS: Final[Mapping[str, Any]] = MappingProxyType({})
_PORTS: Final = {"http": 8123, "https": 8443}
ANSWER_TIMEOUT_S: Final = 120.0
"""How long a call waits for a server's answer."""
_PASSING: Final = frozenset({
    159, 202, 203, 236, 241, 252, 290, 364, 394, 425, 439,  # busy, slow, out of memory, shutting down
    95, 96, 198, 209, 210, 279, 319,  # the network
    75, 76, 242, 243, 294, 499, 774,  # the disk: full, read-only
    225, 254, 285, 286, 289, 369, 999,  # replicas and Keeper
    164, 192, 193, 194, 201, 497, 516,  # what an operator takes away and gives back: rights, quota, password
})  # fmt: skip
"""Numbers of ClickHouse's errors that say nothing about the data: the same call may succeed later."""
_UNFIT_ROWS: Final = frozenset({
    6, 25, 26, 27, 33, 38, 41, 72, 117, 376, 467, 632,  # cannot be parsed
    53, 69, 70, 131, 321, 349, 407,  # does not fit its column
    395, 469,  # refused by a check of ours
})  # fmt: skip
"""Numbers of ClickHouse's errors that are about the rows of an insert: these rows will never go in."""
_BUSY_STATUS: Final = re.compile(r"HTTP status (?:408|429|5\d\d)\b")
_CODE: Final = re.compile(r"\bCode:\s*(\d+)")


class ClickHouseError(SinkFault):
    """What the database refused or could not do; the text is the engine's own."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        """ClickHouse's number for the error; None where it did not get so far as to say one."""


class ClickHouseUnavailable(ClickHouseError, SinkUnavailable):
    """The database cannot be reached, or cannot do it now: the same call may succeed later.

    Of an insert or a command it is not known whether it was done.
    """

    retriable: ClassVar[bool] = True


class UnfitRows(ClickHouseError):
    """The database read the rows of an insert and refuses at least one of them; none is known to be there."""


class FolderInUse(ClickHouseError):
    """Another process has the folder open: chDB allows one."""

    retriable: ClassVar[bool] = True


class Escaped(str):
    """A bound parameter that is already spelled as ClickHouse's HTTP interface takes it; others are spelled for it."""

    __slots__ = ()


class ClickHouse:
    """A connection to one database of a ClickHouse; usable from several threads, lives until `close`.

    Of a folder, one process at a time can hold connections, and never one that was forked after the first was opened.
    Calls on a connection to a folder wait for one another, and a call that fails replaces it: chDB keeps what a failed
    query had put out so far, and would hand it out in front of the next result.
    """

    def __init__(self, connect: Callable[[], Client], folder: Path | None) -> None:
        self._connect = connect
        self._folder = folder
        self._inserts: str | None = None
        """Where this connection's inserts touch the disk on their way in; None if it makes none."""
        self._lock = threading.Lock()
        self._client = connect()

    @classmethod
    def open_folder(cls, folder: Path, *, database: str = DATABASE, memory_mib: int = ENGINE_MEMORY_MIB) -> Self:
        """Open a folder in this process, for reading and writing; it and the database are created if missing.

        What the engine would need beyond `memory_mib` is refused: a query fails, a write or a merge is tried again. The
        first connection of a process to a folder decides it.

        The engine takes inserts in through temporary files. They are kept in the folder, and what a crash left there
        is removed: so the folder is the only place that events touch.

        Raises:
            FolderInUse: another process has it.
            ClickHouseError: it cannot be opened.
        """
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with _engine(folder, {}, memory_mib=memory_mib) as client, _translated():
            client.command("CREATE DATABASE IF NOT EXISTS {database:Identifier}", {"database": database})
            opened = cls(lambda: _engine(folder, {}, database, memory_mib=memory_mib), folder)
        inserts = folder / _INSERT_FOLDER
        shutil.rmtree(inserts, ignore_errors=True)
        inserts.mkdir()
        # The driver writes its files where the process keeps its temporary ones; it has no setting of its own.
        tempfile.tempdir = opened._inserts = str(inserts)
        return opened

    @classmethod
    def read_folder(cls, folder: Path, *, database: str = DATABASE, settings: Mapping[str, Any] = _NO_SETTINGS) -> Self:
        """Open a folder in this process, for reading only; beside the connections that this process may have to it.

        Raises:
            FolderInUse: another process has it.
            ClickHouseError: there is no such folder or database, or it cannot be opened.
        """
        folder = folder.resolve()
        if not (folder / "metadata").is_dir():
            raise ClickHouseError(f"there is no ClickHouse in {folder}: start the sink, or name another folder")
        return cls(lambda: _reader(folder, settings, database), folder)

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        username: str = "default",
        password: str = "",
        database: str = DATABASE,
        create: bool = False,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Self:
        """Connect to a server: `http://host:8123` or `https://host:8443`; create the database if asked to.

        A call that is not answered in `answer_timeout_s` ends as unavailable.

        Raises:
            ClickHouseUnavailable: nothing answers there.
            ClickHouseError: it refuses.
        """
        scheme, host, port = _address(url)

        def connect(database: str | None) -> Client:
            return clickhouse_connect.get_client(
                interface=scheme,
                host=host,
                port=port,
                username=username,
                password=password,
                database=database,
                settings=dict(_SETTINGS),
                send_receive_timeout=answer_timeout_s,
                # Without a session, queries of several threads do not exclude one another.
                autogenerate_session_id=False,
            )

        with _translated():
            if create:
                with connect(None) as client:
                    client.command("CREATE DATABASE IF NOT EXISTS {database:Identifier}", {"database": database})
            return cls(lambda: connect(database), None)

    def another(self) -> Self:
        """One more connection to the same database, which waits for no call of this one; close it before this one."""
        with _translated():
            return type(self)(self._connect, self._folder)

    @property
    def folder(self) -> Path:
        """The folder that is open in this process.

        Raises:
            ValueError: it is a server.
        """
        if self._folder is None:
            message = "a server has no folder here"
            raise ValueError(message)
        return self._folder

    @property
    def embedded(self) -> bool:
        """Whether it is a folder in this process, and not a server."""
        return self._folder is not None

    def command(self, sql: str, parameters: Mapping[str, Any] = _NO_SETTINGS) -> None:
        """Run a statement that returns nothing.

        Raises:
            ClickHouseError: with the engine's text.
        """
        with self._calling() as client:
            client.command(sql, parameters=_bound(parameters))

    def rows(self, sql: str, parameters: Mapping[str, Any] = _NO_SETTINGS) -> list[tuple[Any, ...]]:
        """The result of a query, in Python's types.

        Raises:
            ClickHouseError: with the engine's text.
        """
        with self._calling() as client:
            return [tuple(row) for row in client.query(sql, parameters=_bound(parameters)).result_rows]

    def raw(self, sql: str, format_name: str, parameters: Mapping[str, Any] = _NO_SETTINGS) -> bytes:
        """The result of a query without FORMAT clause, as bytes in one of ClickHouse's formats.

        Raises:
            ClickHouseError: with the engine's text.
        """
        with self._calling() as client:
            return client.raw_query(sql, parameters=_bound(parameters), fmt=format_name)

    def insert(self, table: str, columns: Sequence[str], body: bytes, format_name: str, rows: int) -> None:
        """Insert this many rows that are spelled in one of ClickHouse's formats; return when the tables have them.

        Raises:
            ClickHouseUnavailable: it is not known whether the rows arrived; insert them again.
            UnfitRows: a row is refused for what is in it.
            ClickHouseError: refused, or another number of rows was taken than was sent.
        """
        # A body that cannot be rewound keeps the driver from sending it again by itself when a connection is cut.
        block = body if self.embedded else io.BytesIO(body)
        with self._calling() as client:
            summary = client.raw_insert(table, list(columns), block, settings=_INSERT_SETTINGS, fmt=format_name)
        written = summary.written_rows
        # A server also counts what a view made of the rows.
        if written < rows or (self.embedded and written != rows):
            raise ClickHouseError(f"{rows} rows were sent to {table} and {written} were taken")

    def close(self) -> None:
        """Let go of the database, in a folder after the call that is under way; harmless when repeated."""
        with self._lock if self.embedded else contextlib.nullcontext():
            self._client.close()
        if self._inserts is not None and tempfile.tempdir == self._inserts:
            tempfile.tempdir = None

    @contextlib.contextmanager
    def _calling(self) -> Iterator[Client]:
        with self._lock if self.embedded else contextlib.nullcontext(), _translated():
            try:
                yield self._client
            except DriverError:
                if self.embedded:
                    failed, self._client = self._client, self._connect()
                    failed.close()
                raise


def _engine(
    folder: Path, settings: Mapping[str, Any], database: str | None = None, *, memory_mib: int = ENGINE_MEMORY_MIB
) -> Client:
    # Looked at first, for one clear line: an engine that cannot have the folder writes to stderr itself.
    if not all(os.access(place, os.R_OK | os.W_OK) for place in (folder, folder / _STATUS_FILE) if place.exists()):
        raise ClickHouseError(
            f"{folder} cannot be opened: this user may not write there, and the engine must, also to read; "
            "be the user whose sink it is"
        )
    if is_locked_by_another(folder / _STATUS_FILE):
        raise _in_use(folder, _noted_owner(folder))
    try:
        with _translated():
            return clickhouse_connect.get_client(
                interface="chdb",
                path=str(folder),
                chdb_options={**_ENGINE_OPTIONS, "max_server_memory_usage": memory_mib * 1024**2},
                database=database,
                settings={**_SETTINGS, **settings},
            )
    except ClickHouseError as error:
        if "EmbeddedServer" in str(error):
            raise _in_use(folder, _noted_owner(folder)) from error
        raise


def _reader(folder: Path, settings: Mapping[str, Any], database: str) -> Client:
    client = _engine(folder, settings, database)
    with _translated():
        # Last: from here on this connection can change no setting, not even this one.
        client.set_client_setting("readonly", 1)
    return client


def _bound(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as the driver wants them: what it does not know it spells by `str`, so it leaves that as it is."""
    return {name: _Verbatim(value) if isinstance(value, Escaped) else value for name, value in parameters.items()}


class _Verbatim:
    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return str.__str__(self._text)


def _in_use(folder: Path, owner: str | None) -> FolderInUse:
    by = "" if owner is None else f" (process {owner})"
    return FolderInUse(
        f"{folder} is open in another process{by}, and chDB allows one: "
        "ask that process (its endpoint.json says where), or stop it"
    )


def _noted_owner(folder: Path) -> str | None:
    """The id of the process that opened the folder last, as the engine notes it there."""
    with contextlib.suppress(OSError):
        for line in (folder / _STATUS_FILE).read_text("utf-8").splitlines():
            if line.startswith("PID:"):
                return line[4:].strip()
    return None


def _address(url: str) -> tuple[str, str, int]:
    """Scheme, host and port. The error quotes nothing: what is in the wrong place may be a password."""
    try:
        parts = urlsplit(url)
        if parts.scheme in _PORTS and "@" not in parts.netloc:
            return parts.scheme, parts.hostname or "localhost", parts.port or _PORTS[parts.scheme]
    except ValueError:  # no port, or no host
        pass
    raise ClickHouseError(
        "the address of a ClickHouse is http://host:port or https://host:port, and METERPROOF_CLICKHOUSE_URL is not; "
        "name and password are METERPROOF_CLICKHOUSE_USERNAME and METERPROOF_CLICKHOUSE_PASSWORD"
    )


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The driver's errors as ours."""
    try:
        yield
    except DriverError as error:
        raise _ours(error) from error


def _ours(error: DriverError) -> ClickHouseError:
    text = str(error)
    code = getattr(error, "code", None)
    if code is None and (found := _CODE.search(text)) is not None:
        code = int(found[1])
    kind = ClickHouseError
    if code in _PASSING or (code is None and (isinstance(error, OperationalError) or _BUSY_STATUS.search(text))):
        kind = ClickHouseUnavailable
    elif code in _UNFIT_ROWS:
        kind = UnfitRows
    return kind(text, code)
