"""Log records as ClickHouse takes them in: event lines unparsed behind what only the record and the price book know."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from meterproof_schemas.fast_event import read_event
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import DECIMAL_PLACES
from meterproof_schemas.rating import price
from meterproof_schemas.reasons import DUPLICATE

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
"""Columns of `usage_in`, in the order of the rows."""
_SEPARATOR: Final = "\x1f"
"""Joins names in one column; no name can contain it."""
_COST_MAX: Final = 10 ** (38 - DECIMAL_PLACES)
"""Money that `Decimal(38, 12)` cannot hold."""

Books = Callable[[int], PriceBook | None]
"""The price book of a version; None for version 0, which is none."""


class CostTooLarge(Exception):
    """An event costs more than a column can hold: 26 digits before the point."""


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
) -> tuple[bytes, int]:
    """The accepted events of these records as TSVRaw rows of `usage_in`, and how many they are.

    TSVRaw knows no escapes: a field ends at a tab, a row at LF. Neither can stand in a line or a name of the contract.

    Args:
        origin: of the log.
        records: accepted by the log, in order.
        sent: by record, what its batch says of itself.
        books: the price book by version.
        present: positions that the destination has already; they are left out.

    Raises:
        CostTooLarge: naming the event and the price book.

    """
    rows: list[bytes] = []
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
        for position, line in enumerate(record.lines, header.first):
            if position in present:
                continue
            event = read_event(line)
            if book is None:
                cost, unpriced = "0", _SEPARATOR.join(event.data.usage)
            else:
                rated = price(event, book)
                if abs(rated.amount) >= _COST_MAX:
                    raise CostTooLarge(
                        f"event {position} of {origin} costs {rated.amount} by price book {book.version}, more than "
                        "Decimal(38, 12) can hold; publish a corrected price book and restore the log from before it"
                    )
                cost, unpriced = format(rated.amount, "f"), _SEPARATOR.join(rated.unpriced)
            rows.append(f"{origin}\t{position}{shared}{event.time_us}\t{cost}\t{unpriced}\t".encode() + line)
    return b"\n".join([*rows, b""]), len(rows)


def record_rows(
    origin: str, records: Sequence[tuple[int, LogRecord]], sent: Sequence[Sent], present: frozenset[int]
) -> tuple[bytes, int]:
    """The records themselves as JSONEachRow rows of `usage_records`, and how many they are.

    Args:
        origin: of the log.
        records: accepted by the log, in order, each with its offset.
        sent: by record, what its batch says of itself.
        present: offsets that the destination has already; they are left out.

    """
    rows = [
        orjson.dumps(_record_row(origin, log_offset, record, batch), option=orjson.OPT_APPEND_NEWLINE)
        for (log_offset, record), batch in zip(records, sent, strict=True)
        if log_offset not in present
    ]
    return b"".join(rows), len(rows)


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
