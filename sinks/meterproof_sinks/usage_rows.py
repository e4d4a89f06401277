"""Log records as ClickHouse takes them in: event lines unparsed beside what only the record and the price book know."""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from struct import pack
from typing import Any, Final, Self

import orjson

from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.plain_lines import price_plain_lines
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import SCALE
from meterproof_schemas.rating import RatedLines, rate_lines
from meterproof_schemas.reasons import DUPLICATE
from meterproof_sinks.erased import ERASED_BEGIN, erased_entry

EVENT_COLUMNS: Final = (
    "log",
    "append_ms",
    "price_book",
    "currency",
    "producer",
    "instance",
    "sequence",
    "key_ids",
    "positions",
    "events_us",
    "costs",
    "unpriced",
    "lines",
)
"""Columns of `record_lines`, in the order in which `RecordLines` spells them."""
EVENT_FORMAT: Final = "RowBinary"
"""Of ClickHouse's formats the one that `RecordLines` is spelled in."""
_COST_MAX: Final = 10**38
"""Money that `Decimal(38, 12)` cannot hold, in 10^-12."""

Books = Callable[[int], PriceBook | None]
"""The price book of a version; None for version 0, which is none."""


@dataclass(frozen=True, slots=True)
class UnfitRow:
    """A row that no table can hold, and why; it goes to `quarantine`, so that all others can go where they belong."""

    log: str
    position: int
    """Of the event in its log; of a log record, its offset."""
    row: bytes
    """Of an event, its line; of a log record, the row as it was spelled."""
    error: str


@dataclass(frozen=True, slots=True)
class Sent:
    """What the batch says of itself that a record answers for; empty where no known key vouches for it."""

    producer: str = ""
    instance: str = ""
    sequence: int = 0
    key_ids: tuple[str, ...] = ()
    count: int = 0
    sent_at: str = ""


def sent_of(record: LogRecord) -> Sent:
    """The batch of a record. The sequencer has validated both lines; they are only read here."""
    if record.carried is None:
        return Sent()
    header = orjson.loads(record.carried[0])
    return Sent(
        header["producer"],
        header["instance"],
        header["sequence"],
        tuple(signature["key_id"] for signature in orjson.loads(record.carried[1])["signatures"]),
        header["count"],
        header["sent_at"],
    )


@dataclass(frozen=True, slots=True)
class Priced:
    """When events happened and what they cost, as `EVENT_FORMAT` spells numbers."""

    times: bytes
    """In microseconds since 1970, 8 bytes each."""
    costs: bytes
    """In 10^-12, 16 bytes each."""
    unpriced: list[tuple[str, ...]] | None
    """By event, the meters without a price; None where no event has any."""

    @classmethod
    def of(cls, rated: RatedLines) -> Self:
        """Each cost has 38 digits at most."""
        return cls(
            pack(f"<{len(rated.times_us)}q", *rated.times_us),
            b"".join([cost.to_bytes(16, "little", signed=True) for cost in rated.costs]),
            rated.unpriced if any(rated.unpriced) else None,
        )

    def alone(self, index: int) -> "Priced":
        """One of the events."""
        unpriced = None if self.unpriced is None else [self.unpriced[index]]
        return Priced(self.times[8 * index : 8 * index + 8], self.costs[16 * index : 16 * index + 16], unpriced)


@dataclass(frozen=True, slots=True)
class RecordLines:
    """Accepted events of one log record as one row of `record_lines`."""

    log: str
    shared: bytes
    """What is the same for all of them, spelled."""
    positions: Sequence[int]
    priced: Priced
    lines: bytes | memoryview
    """Joined by LF; best a part of the record's value, which is copied first into what is sent."""

    def __len__(self) -> int:
        """How many events."""
        return len(self.positions)

    @property
    def pieces(self) -> "list[bytes | memoryview]":
        """The row in `EVENT_FORMAT`, to be joined."""
        count = len(self.positions)
        length = _length(count)
        unpriced = self.priced.unpriced
        return [
            self.shared,
            length,
            pack(f"<{count}Q", *self.positions),
            length,
            self.priced.times,
            length,
            self.priced.costs,
            length,
            bytes(count) if unpriced is None else b"".join(map(_texts, unpriced)),
            _length(len(self.lines)),
            self.lines,
        ]

    def apart(self) -> "list[RecordLines]":
        """Each event as a row of its own."""
        return [
            RecordLines(self.log, self.shared, [position], self.priced.alone(index), line)
            for index, (position, line) in enumerate(zip(self.positions, bytes(self.lines).split(b"\n"), strict=True))
        ]


def event_rows(
    origin: str, records: Sequence[LogRecord], sent: Sequence[Sent], books: Books, present: frozenset[int]
) -> tuple[list[RecordLines], list[UnfitRow]]:
    """The accepted events of these records, and those that cost more than a row holds.

    Events that were erased (in an audit folder; never on the topic) have no row here.

    Args:
        origin: of the log.
        records: accepted by the log, in order.
        sent: by record, what its batch says of itself.
        books: the price book by version.
        present: positions that the destination has already; they are left out.

    """
    rows: list[RecordLines] = []
    unfit: list[UnfitRow] = []
    for record, batch in zip(records, sent, strict=True):
        header = record.header
        book = books(header.price_book)
        positions, lines, priced, too_dear = _wanted(origin, record, present, book)
        unfit += too_dear
        if positions:
            shared = b"".join(
                [
                    _text(origin),
                    pack("<qI", header.append_ms, header.price_book),
                    _text("" if book is None else book.currency),
                    _text(batch.producer),
                    _text(batch.instance),
                    pack("<Q", batch.sequence),
                    _texts(batch.key_ids),
                ]
            )
            rows.append(RecordLines(origin, shared, positions, priced, lines))
    return rows, unfit


def _wanted(
    origin: str, record: LogRecord, present: frozenset[int], book: PriceBook | None
) -> tuple[Sequence[int], bytes | memoryview, Priced, list[UnfitRow]]:
    """Positions of the accepted events that go into a row, their lines joined, what they cost, and those that cannot.

    Events that are erased or present are left out.
    """
    header, begin = record.header, record.lines_begin
    positions: Sequence[int] = range(header.first, header.size)
    if not present:
        if book is not None:
            found = price_plain_lines(record.value, begin, len(positions), lambda *named: book.rates(*named).simple)
            if found is not None:
                return positions, memoryview(record.value)[begin:-1], Priced(*found, None), []
        # An erased line is no event; looking for one in every record would cost as much as spelling its rows.
        with contextlib.suppress(InvalidEvent):
            text = record.value[begin:-1]
            return _fit(origin, positions, text, rate_lines(text, len(positions), book), header.price_book)
    wanted = [
        (position, line)
        for position, line in zip(positions, record.lines, strict=True)
        if position not in present and erased_entry(line) is None
    ]
    text = b"\n".join([line for _, line in wanted])
    rated = rate_lines(text, len(wanted), book)
    return _fit(origin, [position for position, _ in wanted], text, rated, header.price_book)


def _fit(
    origin: str, positions: Sequence[int], lines: bytes, rated: RatedLines, price_book: int
) -> tuple[Sequence[int], bytes, Priced, list[UnfitRow]]:
    """Without those that cost more than a row holds, which are rare."""
    fits = [-_COST_MAX < cost < _COST_MAX for cost in rated.costs]
    if all(fits):
        return positions, lines, Priced.of(rated), []
    split = lines.split(b"\n")
    unfit = [
        UnfitRow(origin, position, line, _too_dear(cost, price_book))
        for position, line, cost, fit in zip(positions, split, rated.costs, fits, strict=True)
        if not fit
    ]
    rated = RatedLines(
        list(compress(rated.times_us, fits)), list(compress(rated.costs, fits)), list(compress(rated.unpriced, fits))
    )
    return list(compress(positions, fits)), b"\n".join(compress(split, fits)), Priced.of(rated), unfit


def _too_dear(cost: int, price_book: int) -> str:
    return (
        f"it costs {_amount(cost)} by price book {price_book}, more than Decimal(38, 12) can hold; "
        "publish a corrected price book, and rebuild this database from the audit folder"
    )


def _length(count: int) -> bytes:
    """A length in RowBinary: LEB128, seven bits in a byte, the lowest first."""
    spelled = bytearray()
    while count > 0x7F:
        spelled.append(count & 0x7F | 0x80)
        count >>= 7
    spelled.append(count)
    return bytes(spelled)


def _text(text: str) -> bytes:
    raw = text.encode()
    return _length(len(raw)) + raw


def _texts(texts: Sequence[str]) -> bytes:
    return _length(len(texts)) + b"".join(map(_text, texts))


def _amount(cost: int) -> str:
    """So many 10^-12, with the point and all places."""
    if cost < 0:
        return f"-{_amount(-cost)}"
    whole, places = divmod(cost, SCALE)
    return f"{whole}.{places:012d}"


def erased_positions(records: Sequence[LogRecord]) -> dict[int, bytes]:
    """The erased events of these records (in an audit folder; never on the topic): entries by position."""
    return {
        position: entry
        for record in records
        if ERASED_BEGIN in record.value
        for position, line in enumerate(record.lines, record.header.first)
        if line.startswith(ERASED_BEGIN) and (entry := erased_entry(line)) is not None
    }


def erased_rows(origin: str, records: Sequence[LogRecord]) -> list[bytes]:
    """The erased events of these records as JSONEachRow rows of `usage_erased`."""
    return [
        orjson.dumps({"log": origin, "position": position, "entry": entry.hex(), "request": ""})
        for position, entry in erased_positions(records).items()
    ]


def unfit_event(row: RecordLines, error: str) -> UnfitRow:
    """A row of one event that was refused."""
    return UnfitRow(row.log, row.positions[0], bytes(row.lines), error)


def unfit_record(row: bytes, error: str) -> UnfitRow:
    """A row of `usage_records` that was refused."""
    stated = orjson.loads(row)
    return UnfitRow(stated["log"], stated["log_offset"], row, error)


def record_rows(
    origin: str, records: Sequence[tuple[int, LogRecord]], sent: Sequence[Sent], present: frozenset[int]
) -> list[bytes]:
    """The records themselves as JSONEachRow rows of `usage_records`.

    Args:
        origin: of the log.
        records: accepted by the log, in order, each with its offset.
        sent: by record, what its batch says of itself.
        present: offsets that the destination has already; they are left out.

    """
    return [
        orjson.dumps(_record_row(origin, log_offset, record, batch))
        for (log_offset, record), batch in zip(records, sent, strict=True)
        if log_offset not in present
    ]


def _record_row(origin: str, log_offset: int, record: LogRecord, batch: Sent) -> dict[str, Any]:
    header = record.header
    verdicts = Counter(verdict for _, verdict, _ in header.not_accepted)
    duplicates = verdicts.pop(DUPLICATE, 0)
    return {
        "log": origin,
        "log_offset": log_offset,
        "digest": record.digest,
        "kind": header.kind,
        "reason": header.reason or "",
        "source_offset": 0 if header.source is None else header.source.offset,
        "source_count": 0 if header.source is None else header.source.count,
        "append_time": _instant(header.append_ms),
        "clock_time": _instant(header.clock_ms),
        "first": header.first,
        "size": header.size,
        "root": header.root,
        "lines": batch.count,
        "accepted": header.accepted,
        "duplicates": duplicates,
        "refusals": verdicts,
        "producer": batch.producer,
        "instance": batch.instance,
        "sequence": batch.sequence,
        "sent_at": batch.sent_at,
        "key_ids": batch.key_ids,
        "registry": header.registry,
        "price_book": header.price_book,
        "writer": header.writer,
        "generation": header.generation,
    }


def _instant(instant_ms: int) -> str:
    """An instant as every version of ClickHouse reads it."""
    return format_instant_ms(instant_ms)[:-1].replace("T", " ")
