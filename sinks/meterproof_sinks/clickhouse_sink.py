"""The sink that carries the log into ClickHouse."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256

import orjson
import structlog

from meterproof_schemas.chain import Cursor
from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_schemas.price_book import PriceBook
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError, ClickHouseUnavailable, UnfitRows
from meterproof_sinks.reference_rows import put_price_books
from meterproof_sinks.sink import Density
from meterproof_sinks.usage_rows import (
    EVENT_COLUMNS,
    Books,
    UnfitRow,
    erased_rows,
    event_rows,
    line_of,
    position_of,
    record_rows,
    sent_of,
)

ReadBooks = Callable[[], Awaitable[Mapping[int, PriceBook]]]
"""Reads all published price books."""

_PROGRESS = """
SELECT log, argMax(tuple(epoch, log_offset, digest, next), log_offset) FROM sink_progress
WHERE partition = {partition:UInt32} GROUP BY log
"""
_PRESENT_EVENTS = "SELECT DISTINCT position FROM usage_rows WHERE log = {log:String} AND position >= {next:UInt64}"
_PRESENT_RECORDS = (
    "SELECT DISTINCT log_offset FROM usage_records WHERE log = {log:String} AND log_offset > {offset:Int64}"
)
_DENSITY = "SELECT dense, toInt64(positions) - toInt64(last_position) - 1 FROM density WHERE log = {log:String}"
_ADVANCE = """
INSERT INTO sink_progress (log, partition, epoch, log_offset, digest, next) VALUES
({log:String}, {partition:UInt32}, {epoch:String}, {log_offset:UInt64}, {digest:String}, {next:UInt64})
"""

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.sink")


class UnknownPriceBook(Exception):
    """A log record names a price book that is not published."""


class TwoLogs(ClickHouseError):
    """The database holds two logs for one partition."""


class ClickHouseSink:
    """Rows in ClickHouse: exact for everybody who reads the views, at any moment, whatever was retried or replayed.

    Promises: `sink_progress` names a record only after every event and record up to it was acknowledged to this very
    object; a row is the same however often and in whatever company it is written. A row that the database will not have
    stands in `quarantine` with its error before any progress is noted, and keeps no other row out. Lives as long as its
    worker; the database stays the caller's.
    """

    name = "clickhouse"

    def __init__(self, clickhouse: ClickHouse, read_books: ReadBooks) -> None:
        self._clickhouse = clickhouse
        self._read_books = read_books
        self._books: Mapping[int, PriceBook] = {}
        self._cursors: dict[int, Cursor | None] = {}
        self._origins: dict[int, str] = {}
        """Of the logs that are here, by partition."""
        self._noted: set[int] = set()
        """Price books that are in `price_books` for sure."""
        self._present: dict[str, tuple[frozenset[int], frozenset[int]]] = {}

    async def cursor(self, log: int) -> Cursor | None:
        """The record that the newest progress row of this partition names.

        Raises:
            TwoLogs: rows of two epochs, so it cannot be said which one goes on.
            ClickHouseError: the database cannot be asked.
        """
        found = await asyncio.to_thread(self._clickhouse.rows, _PROGRESS, {"partition": log})
        if len(found) > 1:
            raise TwoLogs(
                f"the database holds several logs of partition {log}: {', '.join(sorted(row[0] for row in found))}; "
                "let each deployment and each epoch have its own database"
            )
        cursor = None
        for origin, (epoch, log_offset, digest, position) in found:
            self._origins[log] = origin
            cursor = Cursor(epoch, log_offset, digest, position)
        self._cursors[log] = cursor
        return cursor

    async def write(self, partition: int, genesis: Genesis, records: list[tuple[int, LogRecord]]) -> None:
        """Write records; see `Sink.write`.

        1. once per run, and again after each call of which the end is not known: what of the log is there already
           above the progress row, left by the steps below
        2. the price books that the records name; those are noted in `price_books` too
        3. insert the events that are not there, and the places of those that were erased
        4. insert the records that are not there
        5. insert the rows that steps 3 and 4 found unfit, each alone, into `quarantine`
        6. all are acknowledged: insert the progress row

        Raises:
            UnknownPriceBook: a record names a book that is not on its topic.
            ClickHouseUnavailable: the database is away; the same call may succeed later.
            ClickHouseError: the database refused.
        """
        if not records:
            return
        origin = self._origins[partition] = genesis.origin
        if origin not in self._present:  # 1
            self._present[origin] = await asyncio.to_thread(self._find_present, partition, origin)
        books = await self._books_for(records)  # 2
        try:
            await asyncio.to_thread(self._write, partition, genesis, records, books)
        except ClickHouseUnavailable:
            # It may have been done and only the answer lost, or a part of it.
            self._present.pop(origin, None)
            raise

    async def density(self, partition: int) -> Density | None:
        """By the view `density`: from a projection, in milliseconds; None before anything of this partition is here.

        Raises:
            ClickHouseUnavailable: the database is away.
            ClickHouseError: it cannot be asked.
        """
        origin = self._origins.get(partition)
        if origin is None:
            return None
        found = await asyncio.to_thread(self._clickhouse.rows, _DENSITY, {"log": origin})
        return Density(bool(found[0][0]), int(found[0][1])) if found else None

    async def close(self) -> None:
        """Nothing to let go of: the database is the caller's."""

    def _write(self, partition: int, genesis: Genesis, records: list[tuple[int, LogRecord]], books: Books) -> None:
        """Steps 2, its end, to 6."""
        named = {record.header.price_book for _, record in records} - {0} - self._noted
        if named:  # 2
            put_price_books(self._clickhouse, [book for version in sorted(named) if (book := books(version))])
            self._noted |= named
        origin = genesis.origin
        positions, offsets = self._present[origin]
        sent = [sent_of(record) for _, record in records]
        rows, unfit_events = event_rows(origin, [record for _, record in records], sent, books, positions)
        for row, error in self._insert("usage_lines", EVENT_COLUMNS, rows, "TSVRaw"):  # 3
            unfit_events.append(UnfitRow(position_of(row), line_of(row), error))
        if gone := erased_rows(origin, [record for _, record in records]):
            self._clickhouse.insert("usage_erased", (), b"\n".join([*gone, b""]), "JSONEachRow", len(gone))
        rows = record_rows(origin, records, sent, offsets)
        unfit_records = [  # 4
            UnfitRow(orjson.loads(row)["log_offset"], row, error)
            for row, error in self._insert("usage_records", (), rows, "JSONEachRow")
        ]
        self._quarantine(origin, unfit_events, unfit_records)  # 5
        log_offset, last = records[-1]
        self._clickhouse.command(  # 6
            _ADVANCE,
            {
                "log": origin,
                "partition": partition,
                "epoch": genesis.epoch,
                "log_offset": log_offset,
                "digest": last.digest,
                "next": last.header.size,
            },
        )
        self._cursors[partition] = Cursor(genesis.epoch, log_offset, last.digest, last.header.size)
        if positions or offsets:
            self._present[origin] = (
                frozenset(position for position in positions if position >= last.header.size),
                frozenset(offset for offset in offsets if offset > log_offset),
            )

    def _insert(
        self, table: str, columns: Sequence[str], rows: list[bytes], format_name: str
    ) -> list[tuple[bytes, str]]:
        """Insert rows, and return those that can't be, each with the engine's error.

        A refusal is of all rows together. So halves are tried, until each unfit row stands alone and all others are in.
        """
        if not rows:
            return []
        try:
            self._clickhouse.insert(table, columns, b"\n".join([*rows, b""]), format_name, len(rows))
        except UnfitRows as error:
            if len(rows) == 1:
                return [(rows[0], str(error))]
            half = len(rows) // 2
            return [
                unfit
                for part in (rows[:half], rows[half:])
                for unfit in self._insert(table, columns, part, format_name)
            ]
        return []

    def _quarantine(self, origin: str, events: list[UnfitRow], records: list[UnfitRow]) -> None:
        rows = [
            orjson.dumps(
                {
                    "log": origin,
                    "kind": kind,
                    "position": unfit.position,
                    "digest": sha256(unfit.row).hexdigest(),
                    "error": unfit.error,
                    "row": unfit.row.decode("utf-8", "backslashreplace"),
                }
            )
            for kind, all_unfit in (("event", events), ("record", records))
            for unfit in all_unfit
        ]
        if not rows:
            return
        self._clickhouse.insert("quarantine", (), b"\n".join([*rows, b""]), "JSONEachRow", len(rows))
        for unfit in [*events, *records]:
            _log.error("row_quarantined", log=origin, position=unfit.position, error=unfit.error)

    def _find_present(self, partition: int, origin: str) -> tuple[frozenset[int], frozenset[int]]:
        """Positions and log offsets that are there above the progress row: what is left of an unfinished write."""
        cursor = self._cursors.get(partition)
        above, after = (0, -1) if cursor is None else (cursor.position, cursor.log_offset)
        positions = self._clickhouse.rows(_PRESENT_EVENTS, {"log": origin, "next": above})
        offsets = self._clickhouse.rows(_PRESENT_RECORDS, {"log": origin, "offset": after})
        return frozenset(position for (position,) in positions), frozenset(offset for (offset,) in offsets)

    async def _books_for(self, records: list[tuple[int, LogRecord]]) -> Books:
        """The books that these records name; the topic is read again once for one that is not known yet."""
        wanted = {record.header.price_book for _, record in records if record.header.price_book}
        if not wanted <= self._books.keys():
            self._books = await self._read_books()
        if missing := sorted(wanted - self._books.keys()):
            raise UnknownPriceBook(
                f"the log names price book {missing[0]}, which is not published; published are "
                f"{sorted(self._books) or 'none'}: publish it again, from the file that it came from"
            )
        return self._books.get
