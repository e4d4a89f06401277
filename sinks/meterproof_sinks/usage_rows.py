"""Log records as ClickHouse takes them in: event lines unparsed behind what only the record and the price book know."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import SCALE
from meterproof_schemas.rating import rate_lines
from meterproof_schemas.reasons import DUPLICATE
from meterproof_sinks.erased import ERASED_BEGIN, erased_entry

EVENT_COLUMNS: Final = (
    "log",
    "position",
    "append_ms",
    "price_book",
    "currency",
    "producer",
    "instance",
    "sequence",
    "key_ids",
    "event_us",
    "cost",
    "unpriced",
    "line",
)
"""Columns of `usage_lines`, in the order of the rows."""
_SEPARATOR: Final = "\x1f"
"""Joins names in one column; no name can contain it."""
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


def event_rows(
    origin: str, records: Sequence[LogRecord], sent: Sequence[Sent], books: Books, present: frozenset[int]
) -> tuple[list[bytes], list[UnfitRow]]:
    """The accepted events of these records as TSVRaw rows of `EVENT_COLUMNS`, and those that cost more than one holds.

    Events that were erased (in an audit folder; never on the topic) have no row here.
    TSVRaw knows no escapes: a field ends at a tab, a row at LF. Neither can stand in a line or a name of the contract.

    Args:
        origin: of the log.
        records: accepted by the log, in order.
        sent: by record, what its batch says of itself.
        books: the price book by version.
        present: positions that the destination has already; they are left out.

    """
    rows: list[bytes] = []
    unfit: list[UnfitRow] = []
    for record, batch in zip(records, sent, strict=True):
        if not record.lines:
            continue
        header = record.header
        book = books(header.price_book)
        currency = "" if book is None else book.currency
        # Everything that is the same for all events of the record is spelled once.
        shared = (
            f"\t{header.append_ms}\t{header.price_book}\t{currency}\t{batch.producer}\t{batch.instance}"
            f"\t{batch.sequence}\t{_SEPARATOR.join(batch.key_ids)}\t"
        )
        positions: Sequence[int] = range(header.first, header.size)
        lines = record.lines
        if present or ERASED_BEGIN in record.value:  # rarely
            positions = [
                position
                for position, line in zip(positions, lines, strict=True)
                if position not in present and erased_entry(line) is None
            ]
            lines = [lines[position - header.first] for position in positions]
        for position, line, (time_us, cost, unpriced) in zip(positions, lines, rate_lines(lines, book), strict=True):
            if not -_COST_MAX < cost < _COST_MAX:
                error = (
                    f"it costs {_amount(cost)} by price book {header.price_book}, more than Decimal(38, 12) can hold; "
                    "publish a corrected price book, and rebuild this database from the audit folder"
                )
                unfit.append(UnfitRow(origin, position, line, error))
                continue
            names = _SEPARATOR.join(unpriced) if unpriced else ""
            rows.append(f"{origin}\t{position}{shared}{time_us}\t{_amount(cost)}\t{names}\t".encode() + line)
    return rows, unfit


def _amount(cost: int) -> str:
    """So many 10^-12, with the point and all places."""
    if cost < 0:
        return f"-{_amount(-cost)}"
    whole, places = divmod(cost, SCALE)
    return f"{whole}.{places:012d}"


def erased_rows(origin: str, records: Sequence[LogRecord]) -> list[bytes]:
    """The erased events of these records as JSONEachRow rows of `usage_erased`."""
    return [
        orjson.dumps({"log": origin, "position": position, "entry": entry.hex(), "request": ""})
        for record in records
        for position, line in enumerate(record.lines, record.header.first)
        if (entry := erased_entry(line)) is not None
    ]


def unfit_event(row: bytes, error: str) -> UnfitRow:
    """A row of `EVENT_COLUMNS` that was refused."""
    log, position, *_, line = row.split(b"\t", len(EVENT_COLUMNS) - 1)
    return UnfitRow(log.decode(), int(position), line, error)


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
