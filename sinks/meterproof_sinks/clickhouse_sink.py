"""The sink that carries the log into ClickHouse."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, Final, TypeVar

import orjson
import structlog

from meterproof_schemas.chain import Cursor
from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_schemas.price_book import PriceBook
from meterproof_sinks.batch_bounds import CLICKHOUSE_BOUNDS
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError, ClickHouseUnavailable, UnfitRows
from meterproof_sinks.correction_rows import correction_rows
from meterproof_sinks.group_commit import GroupCommit
from meterproof_sinks.log_limits import note_limits
from meterproof_sinks.log_total import log_total
from meterproof_sinks.reference_rows import put_price_books
from meterproof_sinks.row_deletion import delete_positions
from meterproof_sinks.sink import Density, SinkFault
from meterproof_sinks.usage_rows import (
    EVENT_COLUMNS,
    EVENT_FORMAT,
    Books,
    RecordLines,
    UnfitRow,
    erased_positions,
    erased_rows,
    event_rows,
    record_rows,
    sent_of,
    unfit_event,
    unfit_record,
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
_PROGRESS_COLUMNS: Final = ("log", "partition", "epoch", "log_offset", "digest", "next")

_Row = TypeVar("_Row")

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.sink")


class UnknownPriceBook(SinkFault):
    """A log record names a price book that is not published: as soon as it is, the next start can go on."""

    retriable: ClassVar[bool] = True


class TwoLogs(ClickHouseError):
    """The database holds two logs for one partition."""


@dataclass(frozen=True, slots=True)
class _Write:
    """Records of one log as they go into the tables."""

    genesis: Genesis
    partition: int
    cursor: Cursor
    """What it ends with."""
    books: tuple[PriceBook, ...]
    """That the records name and that are not known to be noted."""
    events: list[RecordLines]
    erased: list[bytes]
    left: list[int]
    """Positions of erased events whose rows an unfinished write has left."""
    corrections: list[bytes]
    records: list[bytes]
    unfit: list[UnfitRow]


class ClickHouseSink:
    """Rows in ClickHouse: exact for everybody who reads the views, at any moment, whatever was retried or replayed.

    Promises: `sink_progress` names a record only after every event and record up to it was acknowledged to this very
    object; a row is the same however often and in whatever company it is written. A row that the database will not have
    stands in `quarantine` with its error before any progress is noted, and keeps no other row out. Logs that are
    written at the same time share their inserts, since an insert costs as much for one row as for several thousand.
    Lives as long as its worker; the database stays the caller's.
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
        self._group: GroupCommit[_Write] = GroupCommit(
            lambda writes: asyncio.to_thread(self._commit, writes),
            lambda write: sum(map(len, write.events)),
            CLICKHOUSE_BOUNDS.rows_max,
        )

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

        1. once per run, and again after each call of which the end is not known: note the log's limits, where they are
           not yet; what of the log is there already above the progress row, left by the steps below
        2. make the rows, from the price books that the records name

        and then, together with the logs that have come so far meanwhile:

        3. note the price books in `price_books`
        4. insert the events that are not there, the places of those that were erased, and what corrections do; delete
           what an unfinished write has left of erased ones, which stood in the log when it was begun
        5. insert the records that are not there
        6. insert the rows that steps 4 and 5 found unfit, each alone, into `quarantine`
        7. all are acknowledged: insert the progress rows

        Raises:
            UnknownPriceBook: a record names a book that is not on its topic.
            ClickHouseUnavailable: the database is away; the same call may succeed later.
            ClickHouseError: the database refused.
        """
        if not records:
            return
        origin = self._origins[partition] = genesis.origin
        if origin not in self._present:  # 1
            self._present[origin] = await asyncio.to_thread(self._find_present, partition, genesis)
        books = await self._books_for(records)
        try:
            await self._group.add(asyncio.to_thread(self._make, partition, genesis, records, books))
        except ClickHouseUnavailable:
            # It may have been done and only the answer lost, or a part of it.
            self._present.pop(origin, None)
            raise

    async def density(self, partition: int) -> Density | None:
        """As the view `density` counts, in milliseconds; None before anything of this partition is here.

        Raises:
            ClickHouseUnavailable: the database is away.
            ClickHouseError: it cannot be asked.
        """
        origin = self._origins.get(partition)
        if origin is None:
            return None
        cursor = self._cursors.get(partition)
        promised = 0 if cursor is None else cursor.position
        total = await asyncio.to_thread(log_total, self._clickhouse, origin, promised)
        return None if total is None else Density(total.dense, total.surplus_rows)

    async def close(self) -> None:
        """Nothing to let go of: the database is the caller's."""

    def _make(self, partition: int, genesis: Genesis, records: list[tuple[int, LogRecord]], books: Books) -> _Write:
        """Step 2."""
        origin = genesis.origin
        positions, offsets = self._present[origin]
        named = {record.header.price_book for _, record in records} - {0} - self._noted
        sent = [sent_of(record) for _, record in records]
        carried = [record for _, record in records]
        events, unfit = event_rows(origin, carried, sent, books, positions)
        log_offset, last = records[-1]
        return _Write(
            genesis,
            partition,
            Cursor(genesis.epoch, log_offset, last.digest, last.header.size),
            tuple(book for version in sorted(named) if (book := books(version))),
            events,
            erased_rows(origin, carried),
            [position for position in erased_positions(carried) if position in positions],
            correction_rows(origin, carried),
            record_rows(origin, records, sent, offsets),
            unfit,
        )

    def _commit(self, writes: list[_Write]) -> None:
        """Steps 3 to 7."""
        if named := {book.version: book for write in writes for book in write.books}:  # 3
            put_price_books(self._clickhouse, list(named.values()))
            self._noted |= named.keys()
        unfit_events = [unfit for write in writes for unfit in write.unfit]
        events = [row for write in writes for row in write.events]
        unfit_events += [unfit_event(row, error) for row, error in self._insert_events(events)]  # 4
        if erased := [row for write in writes for row in write.erased]:
            self._clickhouse.insert("usage_erased", (), b"\n".join([*erased, b""]), "JSONEachRow", len(erased))
        for write in writes:
            for table in ("usage_rows", "usage_corrections"):
                delete_positions(self._clickhouse, table, write.genesis.origin, write.left)
        if corrections := [row for write in writes for row in write.corrections]:
            body = b"\n".join([*corrections, b""])
            self._clickhouse.insert("correction_rows", (), body, "JSONEachRow", len(corrections))
        rows = [row for write in writes for row in write.records]
        unfit_records = [  # 5
            unfit_record(row, error) for row, error in _each_that_fits(rows, self._insert_records)
        ]
        self._quarantine(unfit_events, unfit_records)  # 6
        progress = [orjson.dumps(_progress_row(write)) for write in writes]
        self._clickhouse.insert(  # 7
            "sink_progress", _PROGRESS_COLUMNS, b"\n".join([*progress, b""]), "JSONEachRow", len(progress)
        )
        for write in writes:
            self._cursors[write.partition] = write.cursor
            self._forget_present(write.genesis.origin, write.cursor)

    def _forget_present(self, origin: str, cursor: Cursor) -> None:
        positions, offsets = self._present[origin]
        if positions or offsets:
            self._present[origin] = (
                frozenset(position for position in positions if position >= cursor.position),
                frozenset(offset for offset in offsets if offset > cursor.log_offset),
            )

    def _insert_events(self, rows: list[RecordLines]) -> list[tuple[RecordLines, str]]:
        """Insert what can be; the others, each event alone, with the engine's error."""

        def insert(rows: list[RecordLines]) -> None:
            body = b"".join([piece for row in rows for piece in row.pieces])
            self._clickhouse.insert("record_lines", EVENT_COLUMNS, body, EVENT_FORMAT, len(rows))

        unfit = _each_that_fits(rows, insert)
        alone = [event for row, _ in unfit for event in row.apart()]
        return unfit if len(alone) == len(unfit) else _each_that_fits(alone, insert)

    def _insert_records(self, rows: list[bytes]) -> None:
        self._clickhouse.insert("usage_records", (), b"\n".join([*rows, b""]), "JSONEachRow", len(rows))

    def _quarantine(self, events: list[UnfitRow], records: list[UnfitRow]) -> None:
        rows = [
            orjson.dumps(
                {
                    "log": unfit.log,
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
        self._clickhouse.insert("unfit_rows", (), b"\n".join([*rows, b""]), "JSONEachRow", len(rows))
        for unfit in [*events, *records]:
            _log.error("row_quarantined", log=unfit.log, position=unfit.position, error=unfit.error)

    def _find_present(self, partition: int, genesis: Genesis) -> tuple[frozenset[int], frozenset[int]]:
        """Step 1: positions and log offsets that are there above the progress row, left by an unfinished write."""
        note_limits(self._clickhouse, genesis)
        origin = genesis.origin
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


def _each_that_fits(rows: list[_Row], insert: Callable[[list[_Row]], None]) -> list[tuple[_Row, str]]:
    """Insert rows, and return those that can't be, each with the engine's error.

    A refusal is of all rows together. So halves are tried, until each unfit row stands alone and all others are in.
    """
    if not rows:
        return []
    try:
        insert(rows)
    except UnfitRows as error:
        if len(rows) == 1:
            return [(rows[0], str(error))]
        half = len(rows) // 2
        return [unfit for part in (rows[:half], rows[half:]) for unfit in _each_that_fits(part, insert)]
    return []


def _progress_row(write: _Write) -> dict[str, str | int]:
    cursor = write.cursor
    return {
        "log": write.genesis.origin,
        "partition": write.partition,
        "epoch": cursor.epoch,
        "log_offset": cursor.log_offset,
        "digest": cursor.digest,
        "next": cursor.position,
    }
