"""A ClickHouse folder for one test, and what the log says that it must hold."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from meterproof_schemas.price_book import PriceBook
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.clickhouse_sink import ClickHouseSink
from meterproof_sinks.migrate import migrate
from meterproof_sinks.usage_rows import EVENT_COLUMNS, EVENT_FORMAT, RecordLines
from tests.rated_log import BOOKS, RatedLog, costs

RECONCILIATION = (Path(__file__).parents[3] / "sinks" / "queries" / "reconciliation.sql").read_text(encoding="utf-8")
"""The shipped query that answers nothing while all is well."""


async def read_books() -> Mapping[int, PriceBook]:
    """The price books of `RatedLog`."""
    return BOOKS


@cache
def _empty() -> "TemporaryDirectory[str]":
    """A folder with all tables and no rows, made once per process: migrating costs a second, a copy hundredths."""
    parent = TemporaryDirectory(prefix="meterproof-clickhouse-")
    clickhouse = ClickHouse.open_folder(Path(parent.name) / "clickhouse")
    try:
        migrate(clickhouse)
    finally:
        clickhouse.close()
    return parent


def migrated(folder: Path) -> None:
    """Make a folder that has all tables, for whichever process opens it, where there is none yet."""
    if not folder.exists():
        shutil.copytree(Path(_empty().name) / "clickhouse", folder, symlinks=True)


@contextmanager
def opened(folder: Path) -> Iterator[ClickHouse]:
    """Open a folder with all tables; a process can have one folder open at a time."""
    migrated(folder)
    clickhouse = ClickHouse.open_folder(folder)
    try:
        migrate(clickhouse)
        yield clickhouse
    finally:
        clickhouse.close()


def new_sink(clickhouse: ClickHouse) -> ClickHouseSink:
    """A sink as a worker makes it when it starts."""
    return ClickHouseSink(clickhouse, read_books)


def one(clickhouse: ClickHouse, sql: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """The only value of a query's only row."""
    ((value,),) = clickhouse.rows(sql, parameters or {})
    return value


def insert_events(clickhouse: ClickHouse, rows: list[RecordLines]) -> None:
    """Insert events as a sink does."""
    body = b"".join(piece for row in rows for piece in row.pieces)
    clickhouse.insert("record_lines", EVENT_COLUMNS, body, EVENT_FORMAT, len(rows))


def assert_holds_exactly(clickhouse: ClickHouse, log: RatedLog) -> int:
    """Assert that the views hold the log up to the progress row, each event once, and return how many events."""
    rows = clickhouse.rows(
        "SELECT argMax(next, log_offset) FROM sink_progress WHERE log = {l:String}", {"l": log.origin}
    )
    size = rows[0][0]
    found = clickhouse.rows(
        "SELECT count(), uniqExact(position), sum(position), sum(cost) FROM usage WHERE log = {l:String}",
        {"l": log.origin},
    )
    spend = sum(costs(log.records)[:size], Decimal(0))
    assert found == [(size, size, size * (size - 1) // 2, spend)]
    return int(size)


def assert_adds_up(clickhouse: ClickHouse, log: RatedLog) -> None:
    """Assert that events, quantities and spend by agent and by customer equal the contract's own fold of the log."""
    assert assert_holds_exactly(clickhouse, log) == log.state.position
    for column, accounts in (("agent", log.accounts.agents), ("customer", log.accounts.customers)):
        rows = clickhouse.rows(f"SELECT {column}, count(), sumMap(usage), sum(cost) FROM usage GROUP BY {column}")
        assert {name: (events, usage, spend) for name, events, usage, spend in rows} == {
            name: (account.events, dict(account.usage), account.spend) for name, account in accounts.items()
        }
