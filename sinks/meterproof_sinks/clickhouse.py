"""One ClickHouse, reached the same way whether it is a folder opened in this process (chDB) or a server behind a URL."""

import contextlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError as DriverError
from clickhouse_connect.driver.exceptions import OperationalError, ProgrammingError

DATABASE: Final = "meterproof"
_INSERT_FOLDER: Final = "inserts"
_INSERT_SETTINGS: Final = {
    # An insert returns when its rows are in the table, never when they wait in a buffer.
    "async_insert": 0,
    # Rows of one insert are never repeats of one another, so looking for them before writing is lost time.
    "optimize_on_insert": 0,
}


class ClickHouseError(Exception):
    """What the database refused or could not do; the text is the engine's own."""


class ClickHouseUnavailable(ClickHouseError):
    """The database could not be reached; the same call may succeed later."""


class FolderInUse(ClickHouseError):
    """Another process has the folder open: chDB allows one."""


class Queries(Protocol):
    """What can be asked of a ClickHouse."""

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The result of a query, in Python's types."""

    def raw(self, sql: str, parameters: Mapping[str, Any] | None = None, format_name: str | None = None) -> bytes:
        """The result of a query in one of ClickHouse's formats."""


class ClickHouse:
    """A connection to one database of a ClickHouse. Usable from several threads, one call at a time; lives until `close`.

    Of a folder, one process at a time can hold connections, and never one that was forked after the first was opened.
    """

    def __init__(self, client: Client, folder: Path | None) -> None:
        self._client = client
        self._folder = folder

    @classmethod
    def open_folder(cls, folder: Path, *, database: str = DATABASE) -> Self:
        """Open a folder in this process, for reading and writing; it and the database are created if missing.

        The engine takes inserts in through temporary files. They are kept in the folder, and what a crash left there
        is removed: so the folder is the only place that events touch.

        Raises:
            FolderInUse: another process has it.
            ClickHouseError: it cannot be opened.
        """
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        client = _open_engine(folder, {})
        inserts = folder / _INSERT_FOLDER
        shutil.rmtree(inserts, ignore_errors=True)
        inserts.mkdir()
        # The driver writes its files where the process keeps its temporary ones; it has no setting of its own.
        tempfile.tempdir = str(inserts)
        opened = cls(client, folder)
        opened._use(database)
        return opened

    @classmethod
    def connect(cls, url: str, *, username: str = "default", password: str = "", database: str = DATABASE) -> Self:
        """Connect to a server: `http://host:8123` or `https://host:8443`. The database is created if missing.

        Raises:
            ClickHouseUnavailable: nothing answers there.
            ClickHouseError: it refuses.
        """
        parts = urlsplit(url)
        with _translated():
            client = clickhouse_connect.get_client(
                interface=parts.scheme,
                host=parts.hostname or "localhost",
                port=parts.port or (8443 if parts.scheme == "https" else 8123),
                username=username,
                password=password,
                autogenerate_session_id=False,
            )
        opened = cls(client, None)
        opened._use(database)
        return opened

    def reader(self, *, settings: Mapping[str, Any] | None = None) -> "ClickHouse":
        """A second connection to the same folder that can only read, beside this one in the same process."""
        if self._folder is None:
            message = "a read-only connection to a server is a matter of its users and grants"
            raise ValueError(message)
        client = _open_engine(self._folder, {**(settings or {})}, self._client.database)
        with _translated():
            # Last: from here on this connection can change no setting, not even this one.
            client.set_client_setting("readonly", 1)
        return ClickHouse(client, self._folder)

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement that returns nothing.

        Raises:
            ClickHouseError: with the engine's text.
        """
        with _translated():
            self._client.command(sql, parameters=dict(parameters or {}))

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The result of a query, in Python's types.

        Raises:
            ClickHouseError: with the engine's text.
        """
        with _translated():
            return [tuple(row) for row in self._client.query(sql, parameters=dict(parameters or {})).result_rows]

    def raw(self, sql: str, parameters: Mapping[str, Any] | None = None, format_name: str | None = None) -> bytes:
        """The result of a query as bytes in one of ClickHouse's formats (None: the query's own FORMAT clause).

        Raises:
            ClickHouseError: with the engine's text.
        """
        with _translated():
            return self._client.raw_query(sql, parameters=dict(parameters or {}), fmt=format_name)

    def insert(self, table: str, columns: Sequence[str], body: bytes, format_name: str, rows: int) -> None:
        """Insert this many rows that are spelled in one of ClickHouse's formats; return when the tables have them.

        Raises:
            ClickHouseUnavailable: it is not known whether the rows arrived; insert them again.
            ClickHouseError: refused, or another number of rows was taken than was sent.
        """
        with _translated():
            summary = self._client.raw_insert(table, list(columns), body, settings=_INSERT_SETTINGS, fmt=format_name)
        written = summary.written_rows
        # A server counts what went on into a table behind a view as well.
        if written < rows or (self._folder is not None and written != rows):
            message = f"{rows} rows were sent to {table} and {written} were taken"
            raise ClickHouseError(message)

    def close(self) -> None:
        """Let go of the database; harmless when repeated."""
        self._client.close()
        if self._folder is not None and tempfile.tempdir == str(self._folder / _INSERT_FOLDER):
            tempfile.tempdir = None

    def _use(self, database: str) -> None:
        self.command("CREATE DATABASE IF NOT EXISTS {database:Identifier}", {"database": database})
        self._client.database = database


def _open_engine(folder: Path, settings: Mapping[str, Any], database: str | None = None) -> Client:
    try:
        with _translated():
            return clickhouse_connect.get_client(
                interface="chdb", path=str(folder), database=database, settings=dict(settings)
            )
    except ClickHouseError as error:
        if "EmbeddedServer" in str(error):
            raise FolderInUse(
                f"{folder} is open in another process{_owner(folder)}, and chDB allows one: "
                "ask that process (its endpoint.json says where), or stop it"
            ) from error
        raise


def _owner(folder: Path) -> str:
    """Who holds the folder, as the engine notes it there."""
    with contextlib.suppress(OSError):
        for line in (folder / "status").read_text("utf-8").splitlines():
            if line.startswith("PID:"):
                return f" (process {line[4:].strip()})"
    return ""


@contextlib.contextmanager
def _translated() -> Any:  # noqa: ANN401 - a context manager
    """The driver's errors as ours."""
    try:
        yield
    except OperationalError as error:
        raise ClickHouseUnavailable(str(error)) from error
    except (DriverError, ProgrammingError) as error:
        raise ClickHouseError(str(error)) from error
