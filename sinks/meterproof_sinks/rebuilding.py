"""Make ClickHouse again from the audit folder: the same rows by the same sink, read from files instead of Kafka."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from meterproof_schemas.chain import Cursor
from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_schemas.price_book import PriceBook
from meterproof_sinks.audit_folder import LogName, log_folders, read_log_name, read_records, records, segments_of
from meterproof_sinks.audit_segment import StoredRecord, TornAudit
from meterproof_sinks.batch_bounds import CLICKHOUSE_BOUNDS, Batch
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.clickhouse_sink import ClickHouseSink, ReadBooks
from meterproof_sinks.erasure import LEDGER_FILE, restore_erasures
from meterproof_sinks.given_up import beginning_of
from meterproof_sinks.migrate import migrate
from meterproof_sinks.rollups import Rollups

OnProgress = Callable[[int], None]
"""Called with the events that were written since the last call."""
_LOGS_AT_ONCE: Final = 2
"""The rows of one go in while those of the other are read; the engine takes in each log's with a core of its own."""
_THERE: Final = "SELECT partition, log, max(next) FROM sink_progress GROUP BY partition, log"


class NotTheSame(ClickHouseError):
    """The database's rows are not of the audit folder's log."""


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild did."""

    events: dict[str, int] = field(default_factory=dict)
    """Written, by log."""
    there: dict[str, int] = field(default_factory=dict)
    """Events that the database had already, by log."""
    unfinished: list[str] = field(default_factory=list)
    """Logs whose last record was not whole in the audit folder; the sink carries it from Kafka."""
    days: int = 0
    """Of roll-ups that were built."""


async def rebuild(
    clickhouse: ClickHouse, audit: Path, read_books: ReadBooks, on_progress: OnProgress = lambda _: None
) -> Rebuilt:
    """Write what the database lacks of the logs in an audit folder; a rebuild that was cut off goes on where it ended.

    1. tables; and what was erased on request, by the ledger beside the audit folder
    2. note how far each log goes in the folder, so that no total claims before it is in that it is (`complete_up_to`)
    3. per log, two at a time: ask the rows how far they go; the audit folder must have that very record
    4. write what follows, in batches, as the sink does
    5. roll-ups

    What fails for one log ends the other after the write that it is in.

    Raises:
        NotTheSame: the rows are of another log than the audit folder.
        AuditError: the audit folder is damaged.
        UnknownPriceBook: a record names a price book that was not given.
        ClickHouseError: the database refused.
    """
    rebuilt = Rebuilt()
    migrate(clickhouse)  # 1
    restore_erasures(clickhouse, audit.parent / LEDGER_FILE)
    by_partition = _logs_by_partition(audit)
    await asyncio.to_thread(_note_ends, clickhouse, by_partition)  # 2
    await _carry(clickhouse, by_partition, read_books, on_progress, rebuilt)
    rebuilt.days = len(Rollups(clickhouse).refresh().built)  # 5
    return rebuilt


def refuse_given_up(folder: Path, rows: int = 0) -> None:
    """Return if a log's folder has every line behind the first so many.

    Raises:
        NotTheSame: some were given up.
        DamagedAudit: it is not said clearly what was given up.
        OSError: a file cannot be read.
    """
    beginning = beginning_of(folder)
    if beginning is not None and rows < beginning.end.size:
        raise NotTheSame(
            f"{folder}: the lines of positions below {beginning.end.size} were given up, so their rows cannot be made "
            "again. Rebuild from a copy that has them (`meterproof audit fetch`), or keep the rows that are there"
        )


@dataclass(frozen=True, slots=True)
class _Write:
    """What is written at once."""

    genesis: Genesis
    records: list[tuple[int, LogRecord]]
    events: int


class _Lane:
    """Carries logs one after another, over a connection of its own; lives as long as one rebuild.

    A lane that fails has the others end after the write that each is in.
    """

    def __init__(
        self, clickhouse: ClickHouse, read_books: ReadBooks, on_progress: OnProgress, rebuilt: Rebuilt
    ) -> None:
        self._sink = ClickHouseSink(clickhouse, read_books)
        self._on_progress = on_progress
        self._rebuilt = rebuilt

    async def carry(self, waiting: Iterator[list[tuple[Path, LogName]]], failed: asyncio.Event) -> None:
        """Steps 3 and 4 for the logs of the next partitions that wait, until none does."""
        try:
            for logs in waiting:
                for folder, name in logs:
                    await self._carry_log(folder, name, failed)
        except BaseException:
            failed.set()
            raise

    async def _carry_log(self, folder: Path, name: LogName, failed: asyncio.Event) -> None:
        cursor = await self._sink.cursor(name.partition)  # 3
        self._rebuilt.there[name.origin] = 0 if cursor is None else cursor.position
        writes = _writes(folder, name, cursor)
        try:
            while not failed.is_set() and await self._carry_next(name, writes):  # 4
                pass
        except TornAudit:
            self._rebuilt.unfinished.append(name.origin)

    async def _carry_next(self, name: LogName, writes: Iterator[_Write]) -> bool:
        """Whether there was one. It is let go of before the next one is read."""
        write = await asyncio.to_thread(next, writes, None)
        if write is None:
            return False
        await self._sink.write(name.partition, write.genesis, write.records)
        self._rebuilt.events[name.origin] += write.events
        self._on_progress(write.events)
        return True


_Logs = Mapping[int, list[tuple[Path, LogName]]]
"""By partition: the folder of each log."""


def _logs_by_partition(audit: Path) -> _Logs:
    by_partition: defaultdict[int, list[tuple[Path, LogName]]] = defaultdict(list)
    for folder in log_folders(audit):
        name = read_log_name(folder)
        by_partition[name.partition].append((folder, name))
    return by_partition


def _note_ends(clickhouse: ClickHouse, by_partition: _Logs) -> None:
    """Step 2, of the one log of each partition that the database has or will have: another would be waited for ever.

    So would one of which too much was given up.
    """
    there: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for partition, log, position in clickhouse.rows(_THERE):
        there[partition][log] = position
    ends = []
    for partition, logs in by_partition.items():
        for folder, name in logs:
            if there[partition] and name.origin not in there[partition]:
                continue
            beginning, end = beginning_of(folder), _end_of(folder)
            if end is not None:
                if beginning is None or there[partition].get(name.origin, 0) >= beginning.end.size:
                    ends.append({"log": name.origin, "log_offset": end.log_offset, "size": end.position + end.events})
                break
    if ends:
        body = b"".join(orjson.dumps(end, option=orjson.OPT_APPEND_NEWLINE) for end in ends)
        clickhouse.insert("folder_ends", (), body, "JSONEachRow", len(ends))


def _end_of(folder: Path) -> StoredRecord | None:
    """The last whole record of a log; of its newest segments no more is read than it takes to find one."""
    end = None
    for segment in reversed(segments_of(folder)):
        with suppress(TornAudit):
            for stored in read_records(folder, segment.first):
                end = stored
        if end is not None:
            break
    return end


async def _carry(
    clickhouse: ClickHouse, by_partition: _Logs, read_books: ReadBooks, on_progress: OnProgress, rebuilt: Rebuilt
) -> None:
    """Steps 3 and 4. Logs of one partition wait for one another: a database holds one of them, the others are told."""
    for logs in by_partition.values():
        for _, name in logs:
            rebuilt.events[name.origin] = rebuilt.there[name.origin] = 0
    waiting, failed = iter(by_partition.values()), asyncio.Event()
    with ExitStack() as connections:
        lanes = [
            _Lane(connections.enter_context(closing(clickhouse.another())), read_books, on_progress, rebuilt)
            for _ in range(_LOGS_AT_ONCE)
        ]
        # Each ends by itself, so that none is cut off amid its steps.
        for outcome in await asyncio.gather(*(lane.carry(waiting, failed) for lane in lanes), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
    rebuilt.unfinished.sort()


def _writes(folder: Path, name: LogName, cursor: Cursor | None) -> Iterator[_Write]:
    """What a log's folder has behind the record that the rows end with.

    Raises:
        NotTheSame: it does not have that very record.
        TornAudit: after all whole records, if the tail is torn.
        AuditError: it is damaged.
    """
    beginning = beginning_of(folder)
    refuse_given_up(folder, 0 if cursor is None else cursor.position)
    genesis = None if beginning is None else beginning.genesis
    batch, torn = Batch(CLICKHOUSE_BOUNDS.share_of(_LOGS_AT_ONCE)), None
    try:
        for log_offset, record in records(folder):
            genesis = genesis or record.header.genesis
            if genesis is None:
                raise NotTheSame(f"{folder} does not begin with the log's first record")
            if cursor is not None:
                cursor = None if _is_named(cursor, log_offset, record, genesis) else cursor
                continue
            batch.add(log_offset, record, 0.0)
            if batch.full:
                yield _taken(genesis, batch)
    except TornAudit as error:
        torn = error
    if cursor is not None:
        raise NotTheSame(
            f"the rows of {name.origin} go further than {folder}; nothing was changed. Let the audit sink catch up, "
            "or rebuild from nothing with --replace"
        )
    if batch.records and genesis is not None:
        yield _taken(genesis, batch)
    if torn is not None:
        raise torn


def _taken(genesis: Genesis, batch: Batch) -> _Write:
    events = batch.rows
    return _Write(genesis, batch.take(), events)


def _is_named(cursor: Cursor, log_offset: int, record: LogRecord, genesis: Genesis) -> bool:
    """Whether this is the record that the rows end with.

    Raises:
        NotTheSame: it stands at its place and is another one.
    """
    if log_offset < cursor.log_offset:
        return False
    if (log_offset, record.digest, genesis.epoch) != (cursor.log_offset, cursor.digest, cursor.epoch):
        raise NotTheSame(
            f"the rows end with record {cursor.digest[:16]}… at log offset {cursor.log_offset}, which the audit folder "
            "does not have; rebuild from nothing with --replace, or use another --database"
        )
    return True


def given_books(books: Mapping[int, PriceBook]) -> ReadBooks:
    """Price books from files, as a sink reads them."""

    async def read() -> Mapping[int, PriceBook]:
        return books

    return read
