"""The way to a ClickHouse that may be away when its sink starts."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from meterproof.deployment import DataFolder
from meterproof_schemas.budget import parse_budgets
from meterproof_schemas.chain import Cursor
from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_sinks.backlog import Backlog
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError, ClickHouseUnavailable, FolderInUse
from meterproof_sinks.clickhouse_settings import ClickHouseSettings
from meterproof_sinks.clickhouse_sink import ClickHouseSink, ReadBooks
from meterproof_sinks.merge_priority import let_merges_wait
from meterproof_sinks.migrate import migrate, pending
from meterproof_sinks.reference_rows import put_budgets
from meterproof_sinks.sink import Density

_FOLDER_PATIENCE_S: Final = 15.0
_FOLDER_RETRY_S: Final = 0.25


class ClickHouseOpening:
    """A deployment's ClickHouse, opened once, as soon as it can be. Lives as long as its worker."""

    def __init__(self, settings: ClickHouseSettings, data: Path) -> None:
        """Open nothing yet."""
        self.backlog = Backlog()
        """Of the sink that writes to it."""
        self._settings = settings
        self._data = data
        self._one_at_a_time = asyncio.Lock()
        self._is_open = asyncio.Event()
        self._clickhouse: ClickHouse | None = None

    async def reach(self) -> ClickHouse:
        """The database with all its tables, opened if it is not yet.

        1. open; a folder that `meterproof query` has is waited for, since it lets go soon
        2. a folder's tables are brought up to date, and its merges stand back; a server's must be up to date
        3. the budget file in force, if there is one, becomes the table `budgets`

        Raises:
            ClickHouseUnavailable: the server is away; try again later.
            ClickHouseError: it refuses, or lacks a migration.
            InvalidRegistry: the budget file is faulty.
        """
        async with self._one_at_a_time:
            if self._clickhouse is None:
                clickhouse = await self._opened()  # 1
                try:
                    await asyncio.to_thread(self._prepare, clickhouse)  # 2, 3
                except BaseException:
                    clickhouse.close()
                    raise
                self._clickhouse = clickhouse
                self._is_open.set()
            return self._clickhouse

    async def reached(self, stop: asyncio.Event) -> ClickHouse | None:
        """The database, once somebody has reached it; None if `stop` is set before that."""
        waits = [asyncio.create_task(event.wait()) for event in (self._is_open, stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._clickhouse

    def close(self) -> None:
        """Let go of the database; harmless when repeated."""
        if self._clickhouse is not None:
            self._clickhouse.close()

    async def _opened(self) -> ClickHouse:
        deadline_s = asyncio.get_running_loop().time() + _FOLDER_PATIENCE_S
        while True:
            try:
                return await asyncio.to_thread(self._settings.open, self._data)
            except FolderInUse:
                if asyncio.get_running_loop().time() >= deadline_s:
                    raise
                await asyncio.sleep(_FOLDER_RETRY_S)

    def _prepare(self, clickhouse: ClickHouse) -> None:
        if clickhouse.embedded:
            migrate(clickhouse)
            let_merges_wait()
        elif missing := pending(clickhouse):
            raise ClickHouseError(
                f"the database lacks migration {missing[0].number:04} ({missing[0].name}); "
                f"run `meterproof migrate --url {self._settings.url}` first"
            )
        file = DataFolder(self._data).budgets
        if file.is_file():
            put_budgets(clickhouse, parse_budgets(file.read_bytes()))


class OpeningSink:
    """A `ClickHouseSink` whose database may be away at first: asked for its cursor, it tries to reach it."""

    name = ClickHouseSink.name

    def __init__(self, database: ClickHouseOpening, read_books: ReadBooks) -> None:
        """Reach for nothing yet."""
        self._database = database
        self._read_books = read_books
        self._sink: ClickHouseSink | None = None
        self.away = True
        """Whether the database was away when it was last called."""

    async def cursor(self, log: int) -> Cursor | None:
        """See `ClickHouseSink.cursor`.

        Raises:
            ClickHouseUnavailable: the database is away.
            Exception: see `ClickHouseOpening.reach` and `ClickHouseSink.cursor`.
        """
        with self._noted():
            return await (await self._reached()).cursor(log)

    async def write(self, partition: int, genesis: Genesis, records: list[tuple[int, LogRecord]]) -> None:
        """See `ClickHouseSink.write`."""
        with self._noted():
            await (await self._reached()).write(partition, genesis, records)
            self._database.backlog.note(records)

    async def density(self, partition: int) -> Density | None:
        """See `ClickHouseSink.density`."""
        with self._noted():
            return await (await self._reached()).density(partition)

    async def close(self) -> None:
        """Nothing to let go of: the database is the caller's."""

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except ClickHouseUnavailable:
            self.away = True
            raise
        self.away = False

    async def _reached(self) -> ClickHouseSink:
        clickhouse = await self._database.reach()
        if self._sink is None:
            self._sink = ClickHouseSink(clickhouse, self._read_books)
        return self._sink
