"""Make ClickHouse again from the audit folder: the same rows by the same sink, read from files instead of Kafka."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meterproof_schemas.chain import Cursor
from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_schemas.price_book import PriceBook
from meterproof_sinks.audit_folder import log_folders, read_log_name, records
from meterproof_sinks.audit_segment import TornAudit
from meterproof_sinks.batch_bounds import CLICKHOUSE_BOUNDS, Batch
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.clickhouse_sink import ClickHouseSink, ReadBooks
from meterproof_sinks.erasure import LEDGER_FILE, restore_erasures
from meterproof_sinks.given_up import beginning_of
from meterproof_sinks.migrate import migrate
from meterproof_sinks.rollups import Rollups

OnProgress = Callable[[int], None]
"""Called with the events that were written since the last call."""


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
    2. per log: ask the rows how far they go; the audit folder must have that very record
    3. write what follows, in batches, as the sink does
    4. roll-ups

    Raises:
        NotTheSame: the rows are of another log than the audit folder.
        AuditError: the audit folder is damaged.
        UnknownPriceBook: a record names a price book that was not given.
        ClickHouseError: the database refused.
    """
    rebuilt = Rebuilt()
    migrate(clickhouse)  # 1
    restore_erasures(clickhouse, audit.parent / LEDGER_FILE)
    for folder in log_folders(audit):
        await _rebuild_log(clickhouse, folder, read_books, on_progress, rebuilt)
    rebuilt.days = len(Rollups(clickhouse).refresh().built)  # 4
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


async def _rebuild_log(
    clickhouse: ClickHouse, folder: Path, read_books: ReadBooks, on_progress: OnProgress, rebuilt: Rebuilt
) -> None:
    name = read_log_name(folder)
    sink = ClickHouseSink(clickhouse, read_books)
    cursor = await sink.cursor(name.partition)  # 2
    found = cursor is None
    rebuilt.there[name.origin] = 0 if cursor is None else cursor.position
    rebuilt.events[name.origin] = 0
    beginning = beginning_of(folder)
    refuse_given_up(folder, 0 if cursor is None else cursor.position)
    batch, genesis = Batch(CLICKHOUSE_BOUNDS), None if beginning is None else beginning.genesis

    async def write(of: Genesis) -> None:
        events = batch.rows
        await sink.write(name.partition, of, batch.take())
        rebuilt.events[name.origin] += events
        on_progress(events)

    try:
        for log_offset, record in records(folder):
            genesis = genesis or record.header.genesis
            if genesis is None:
                raise NotTheSame(f"{folder} does not begin with the log's first record")
            if not found and cursor is not None:
                found = _is_named(cursor, log_offset, record, genesis)
                continue
            batch.add(log_offset, record, 0.0)  # 3
            if batch.full:
                await write(genesis)
    except TornAudit:
        rebuilt.unfinished.append(name.origin)
    if not found:
        raise NotTheSame(
            f"the rows of {name.origin} go further than {folder}; nothing was changed. Let the audit sink catch up, "
            "or rebuild from nothing with --replace"
        )
    if batch.records and genesis is not None:
        await write(genesis)


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
