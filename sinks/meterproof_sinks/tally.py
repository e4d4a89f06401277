"""What a stage holds of a log, hour by hour, so that stages can be compared: computed from lines, or by ClickHouse."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final

from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import DECIMAL_PLACES, EXACT, scaled_decimal
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.correction_rows import CorrectionRow, corrections_of
from meterproof_sinks.erased import ERASED_BEGIN, entry_of_kept, erased_entry
from meterproof_sinks.event_time import hour_of
from meterproof_sinks.log_bounds import BOUND, parameters_of
from meterproof_sinks.row_texts import EVENT_COLUMNS, RECORD_COLUMNS, event_texts, record_text, text_sql

STRETCH: Final = 4096
"""Positions, or log offsets, of which one fingerprint of rows is kept: so far a difference is told apart."""
_PIECE: Final = 256 * STRETCH
"""So many positions, or log offsets, are asked for at once."""
_WORD: Final = 1 << 64


@dataclass(slots=True)
class Totals:
    """Of the events of one log in one hour of event time."""

    events: int = 0
    fingerprint: int = 0
    """Sum of the first 8 bytes of each entry, little-endian, modulo 2^64: the same for the same set of lines."""
    usage: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Quantity by meter, in 10^-12; meters that add up to zero mean nothing."""
    cost: int = 0
    """Spend in 10^-12, of events whose price book is known."""
    rows: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    """By stretch of positions: the same sum, of the SHA-256 of each row's text, so of every column."""

    def used(self) -> dict[str, Decimal]:
        """Quantity by meter without zeros."""
        return {meter: money(quantity) for meter, quantity in sorted(self.usage.items()) if quantity}


@dataclass(slots=True)
class Tally:
    """What one stage holds of one log, up to a position."""

    position: int = 0
    """Entries that it covers."""
    log_offset: int = -1
    """Of the last record."""
    hours: defaultdict[int, Totals] = field(default_factory=lambda: defaultdict(Totals))
    """By hours since 1970 UTC."""
    erased: dict[int, bytes] = field(default_factory=dict)
    """Entries that were erased, by position."""
    corrections: defaultdict[int, set[CorrectionRow]] = field(default_factory=lambda: defaultdict(set))
    """What is said of accepted corrections, by position; one thing of each, where all is well."""
    records: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    """By stretch of log offsets: the fingerprint of the rows of records."""
    unknown_books: set[int] = field(default_factory=set)
    """Versions of price books that events were priced by and that are not known here."""

    @property
    def events(self) -> int:
        """In all hours."""
        return sum(totals.events for totals in self.hours.values())

    def add(
        self,
        log_offset: int,
        record: LogRecord,
        books: Mapping[int, PriceBook],
        skip: AbstractSet[int] = frozenset(),
    ) -> None:
        """Add an accepted record and its events, but for those at the positions of `skip`.

        Raises:
            InvalidEvent: a line is no event.
        """
        header = record.header
        kept: list[tuple[int, bytes]] = []
        may_be_erased = ERASED_BEGIN in record.value
        for position, line in enumerate(record.lines, header.first):
            if may_be_erased and erased_entry(line) is not None:
                self.erased[position] = entry_of_kept(line)
            elif position not in skip:
                kept.append((position, line))
        if header.price_book and header.price_book not in books and kept:
            self.unknown_books.add(header.price_book)
        for (position, line), event in zip(kept, event_texts(record, kept, books), strict=True):
            totals = self.hours[hour_of(event.time_us)]
            totals.events += 1
            totals.fingerprint = (totals.fingerprint + int.from_bytes(sha256(line).digest()[:8], "little")) % _WORD
            totals.cost += event.cost
            for meter, quantity in event.usage.items():
                totals.usage[meter] += quantity
            stretch = position // STRETCH
            totals.rows[stretch] = (totals.rows[stretch] + _word_of(event.text)) % _WORD
        for position, row in corrections_of(record).items():
            if position not in skip:
                self.corrections[position].add(row)
        stretch = log_offset // STRETCH
        self.records[stretch] = (self.records[stretch] + _word_of(record_text(log_offset, record))) % _WORD
        self.position, self.log_offset = header.size, log_offset


def money(amount: int) -> Decimal:
    """So many 10^-12."""
    return Decimal(amount).scaleb(-DECIMAL_PLACES, EXACT)


def _word_of(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "little")


def tally_clickhouse(
    clickhouse: ClickHouse,
    bounds: Mapping[str, int],
    offsets: Mapping[str, int],
    unknown_books: AbstractSet[int],
) -> dict[str, Tally]:
    """What the rows of a ClickHouse say, by log, of the events below each log's bound.

    Args:
        clickhouse: stays the caller's.
        bounds: positions by log.
        offsets: by log, of the last record that counts.
        unknown_books: versions of price books; what rows say that follows from one of these counts for nothing.

    Raises:
        ClickHouseError: it cannot be asked.
    """
    tallies = {log: Tally(bound, offsets[log]) for log, bound in bounds.items()}
    parameters = {"unknown": sorted(unknown_books), "stretch": STRETCH}
    for piece in _pieces(bounds):
        for hour, stretch, events, fingerprint, usage, cost, rows in clickhouse.rows(_HOURS, parameters | piece):
            totals = tallies[piece["log"]].hours[hour]
            totals.events += events
            totals.fingerprint = (totals.fingerprint + fingerprint) % _WORD
            totals.cost += scaled_decimal(cost)
            totals.rows[stretch] = rows
            for meter, quantity in usage.items():
                totals.usage[meter] += scaled_decimal(quantity)
    for log, position, entry in clickhouse.rows(_ERASED, parameters_of(bounds)):
        tallies[log].erased[position] = bytes.fromhex(entry)
    for log, position, *row in clickhouse.rows(_CORRECTIONS, parameters_of(bounds)):
        tallies[log].corrections[position].add(CorrectionRow(*row))
    for piece in _pieces({log: log_offset + 1 for log, log_offset in offsets.items()}):
        for stretch, rows in clickhouse.rows(_RECORDS, {"stretch": STRETCH} | piece):
            tallies[piece["log"]].records[stretch] = rows
    return tallies


def _pieces(bounds: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Each log up to its bound in pieces, so that no question takes longer than a connection waits, or reads do."""
    for log, bound in bounds.items():
        for first in range(0, bound, _PIECE):
            yield {"log": log, "first": first, "after": min(first + _PIECE, bound)}


_HOURS: Final = f"""
SELECT toUInt32(intDiv(toUnixTimestamp64Micro(event_time), 3600000000)) AS hour,
       intDiv(position, {{stretch:UInt64}}) AS stretch, count(), sum(reinterpretAsUInt64(substring(entry, 1, 8))),
       sumMap(usage), sumIf(cost, NOT has({{unknown:Array(UInt32)}}, price_book)),
       sum(reinterpretAsUInt64(substring(SHA256({text_sql(EVENT_COLUMNS)}), 1, 8)))
FROM usage_final
WHERE log = {{log:String}} AND position >= {{first:UInt64}} AND position < {{after:UInt64}} GROUP BY hour, stretch
"""  # noqa: S608 - nothing of it comes from outside
_ERASED: Final = f"SELECT log, position, entry FROM usage_erased FINAL WHERE position < {BOUND}"  # noqa: S608 - as above
_CORRECTIONS: Final = (
    "SELECT DISTINCT log, position, kind, effect, event_us, target FROM usage_corrections "  # noqa: S608 - as above
    f"WHERE position < {BOUND} AND (log, position) NOT IN (SELECT log, position FROM usage_erased)"
)
"""Of one that was erased nothing counts any more."""
_RECORDS: Final = f"""
SELECT intDiv(log_offset, {{stretch:UInt64}}) AS stretch,
       sum(reinterpretAsUInt64(substring(SHA256({text_sql(RECORD_COLUMNS)}), 1, 8)))
FROM records_final
WHERE log = {{log:String}} AND log_offset >= {{first:UInt64}} AND log_offset < {{after:UInt64}} GROUP BY stretch
"""  # noqa: S608 - as above
