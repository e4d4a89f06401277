"""Rows as text, column by column: as Python reads them from the log, and as ClickHouse holds them.

Both spell a row alike if and only if each of its columns says what the log says, so how it was read and priced, and
whatever was changed by hand since, are compared at once. Neither shares code with the other: here the line is read by
msgspec, there it was taken apart by the engine. Columns are joined by the unit separator (0x1F), what one of them lists
by the record separator (0x1E); no name can contain either. Money and quantities are whole numbers of 10^-12.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import scaled
from meterproof_schemas.rating import rate_events, read_lines
from meterproof_schemas.reasons import DUPLICATE
from meterproof_sinks.usage_rows import sent_of

SEPARATOR: Final = "\x1f"
_WITHIN: Final = "\x1e"
_TOKENS: Final = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


class _Latency(Struct, frozen=True, gc=False):
    total_us: int | None = None
    queue_us: int | None = None
    upstream_us: int | None = None
    first_token_us: int | None = None


class _StatedCost(Struct, frozen=True, gc=False):
    amount: int | str
    currency: str


class _Governance(Struct, frozen=True, gc=False):
    residency: str | None = None
    purpose: str | None = None
    consent: str | None = None


class _Corrects(Struct, frozen=True, gc=False):
    id: str
    kind: str


class _Data(Struct, frozen=True, gc=False):
    customer: str
    usage: dict[str, int | str]
    corrects: _Corrects | None = None
    operation: str | None = None
    surface: str | None = None
    status: str | None = None
    status_code: int | None = None
    provider: str | None = None
    model: str | None = None
    latency: _Latency | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    session: str | None = None
    user: str | None = None
    run: str | None = None
    parent: str | None = None
    traceparent: str | None = None
    cost: _StatedCost | None = None
    tags: dict[str, str] | None = None
    governance: _Governance | None = None
    request_signature: str | None = None
    receipt: str | None = None
    salt: str | None = None


class _Line(Struct, frozen=True, gc=False):
    """What of an accepted line has a column; unknown fields have none.

    Its types are all that is asked of it: an accepted line has passed the rules, and `read_events`, which holds it
    against them once more, takes two to five times as long.
    """

    id: str
    source: str
    subject: str
    time: str
    data: _Data


_decoder: Final = msgspec.json.Decoder(_Line)
_NO_LATENCY: Final = _Latency()
_NO_GOVERNANCE: Final = _Governance()


class EventText(Struct, frozen=True, gc=False):
    """An accepted event as its row should be."""

    time_us: int
    usage: Mapping[str, int]
    """Quantity by meter, in 10^-12."""
    cost: int
    """In 10^-12; 0 where its price book is not known."""
    text: str


def event_texts(
    record: LogRecord, kept: Sequence[tuple[int, bytes]], books: Mapping[int, PriceBook]
) -> Iterator[EventText]:
    """What the rows of a record's accepted events should say.

    Args:
        record: accepted by the log.
        kept: its lines that are neither erased nor left out, each with its position.
        books: price books by version. An event whose book is missing is spelled without what that says: cost, currency
            and meters without a price; so does `text_sql` if it is told the version.

    Raises:
        InvalidEvent: a line is no event.
    """
    header = record.header
    version = header.price_book
    book = books.get(version)
    priced = book is not None or version == 0
    sent = sent_of(record)
    of_batch = SEPARATOR.join(
        (str(header.append_ms), str(version), sent.producer, sent.instance, str(sent.sequence), _list(sent.key_ids))
    )
    currency = "" if book is None else book.currency
    lines, times_us = read_lines(b"\n".join([line for _, line in kept]), len(kept), _decoder)
    costs, unpriced = rate_events(lines, times_us, book)
    for (position, _), line, time_us, cost, missing in zip(kept, lines, times_us, costs, unpriced, strict=True):
        data = line.data
        usage = {meter: scaled(quantity) for meter, quantity in data.usage.items()}
        latency = data.latency or _NO_LATENCY
        governance = data.governance or _NO_GOVERNANCE
        stated, corrects, tags = data.cost, data.corrects, data.tags
        columns = (
            str(position),
            str(time_us),
            line.id,
            line.source,
            line.subject,
            data.customer,
            data.operation or "",
            data.surface or "",
            data.status or "",
            _number(data.status_code),
            data.provider or "",
            data.model or "",
            _number(latency.total_us),
            _number(latency.queue_us),
            _number(latency.upstream_us),
            _number(latency.first_token_us),
            _number(data.request_bytes),
            _number(data.response_bytes),
            data.session or "",
            data.user or "",
            data.run or "",
            data.parent or "",
            data.traceparent or "",
            _WITHIN.join([f"{meter}={quantity}" for meter, quantity in usage.items()]),
            str(cost) if priced else "",
            currency if priced else "",
            _list(missing) if priced else "",
            "" if stated is None else str(scaled(stated.amount)),
            "" if stated is None else stated.currency,
            "" if not tags else _WITHIN.join([f"{name}={value}" for name, value in tags.items()]),
            governance.residency or "",
            governance.purpose or "",
            governance.consent or "",
            "" if corrects is None else corrects.id,
            "" if corrects is None else corrects.kind,
            data.request_signature or "",
            data.receipt or "",
            data.salt or "",
            str(sum([usage.get(meter, 0) for meter in _TOKENS])),
            str(sum(usage.values())),
            of_batch,
        )
        yield EventText(time_us, usage, cost if priced else 0, SEPARATOR.join(columns))


def record_text(log_offset: int, record: LogRecord) -> str:
    """What the row of a log record should say."""
    header, sent = record.header, sent_of(record)
    verdicts = Counter(verdict for _, verdict, _ in header.not_accepted)
    duplicates = verdicts.pop(DUPLICATE, 0)
    source = header.source
    columns = (
        log_offset,
        record.digest,
        header.kind,
        header.reason or "",
        0 if source is None else source.offset,
        0 if source is None else source.count,
        header.append_ms,
        header.clock_ms,
        header.first,
        header.size,
        header.root,
        sent.count,
        header.accepted,
        duplicates,
        _WITHIN.join(sorted(f"{reason}={lines}" for reason, lines in verdicts.items())),
        sent.producer,
        sent.instance,
        sent.sequence,
        sent.sent_at,
        _list(sent.key_ids),
        header.registry,
        header.price_book,
        header.writer,
        header.generation,
    )
    return SEPARATOR.join(map(str, columns))


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _list(names: Sequence[str]) -> str:
    return _WITHIN.join(names)


_ANY_BOOK: Final = "NOT has({unknown:Array(UInt32)}, price_book)"
EVENT_COLUMNS: Final[Mapping[str, str]] = {
    "position": "toString(position)",
    "event_time": "toString(toUnixTimestamp64Micro(event_time))",
    **{name: name for name in ("id", "source", "agent", "customer", "operation", "surface", "status")},
    "status_code": "ifNull(toString(status_code), '')",
    "provider": "provider",
    "model": "model",
    **{
        name: f"ifNull(toString({name}), '')"
        for name in ("latency_us", "queue_us", "upstream_us", "first_token_us", "request_bytes", "response_bytes")
    },
    **{name: name for name in ("session", "user_id", "run_id", "parent_id", "traceparent")},
    "usage": "arrayStringConcat(arrayMap((meter, quantity) -> "
    "concat(meter, '=', toString(reinterpretAsInt128(quantity))), mapKeys(usage), mapValues(usage)), '\\x1E')",
    "cost": f"if({_ANY_BOOK}, toString(reinterpretAsInt128(cost)), '')",
    "currency": f"if({_ANY_BOOK}, currency, '')",
    "unpriced": f"if({_ANY_BOOK}, arrayStringConcat(unpriced, '\\x1E'), '')",
    "stated_cost": "if(isNull(stated_cost), '', toString(reinterpretAsInt128(assumeNotNull(stated_cost))))",
    "stated_currency": "stated_currency",
    "tags": "arrayStringConcat(arrayMap((name, value) -> concat(name, '=', value), mapKeys(tags), mapValues(tags)), "
    "'\\x1E')",
    **{
        name: name
        for name in (
            "residency",
            "purpose",
            "consent",
            "corrects_id",
            "corrects_kind",
            "request_signature",
            "receipt",
        )
    },
    "salt": "lower(hex(salt))",
    "tokens": "toString(reinterpretAsInt128(tokens))",
    "units": "toString(reinterpretAsInt128(units))",
    "append_time": "toString(toUnixTimestamp64Milli(append_time))",
    "price_book": "toString(price_book)",
    "producer": "producer",
    "instance": "instance",
    "sequence": "toString(sequence)",
    "key_ids": "arrayStringConcat(key_ids, '\\x1E')",
}
"""Columns of `usage_final` in the order of an event's text, each with how the engine spells it."""
RECORD_COLUMNS: Final[Mapping[str, str]] = {
    "log_offset": "toString(log_offset)",
    "digest": "digest",
    "kind": "kind",
    "reason": "reason",
    "source_offset": "toString(source_offset)",
    "source_count": "toString(source_count)",
    "append_time": "toString(toUnixTimestamp64Milli(append_time))",
    "clock_time": "toString(toUnixTimestamp64Milli(clock_time))",
    "first": "toString(first)",
    "size": "toString(size)",
    "root": "root",
    "lines": "toString(lines)",
    "accepted": "toString(accepted)",
    "duplicates": "toString(duplicates)",
    "refusals": "arrayStringConcat(arraySort(arrayMap((reason, lines) -> concat(reason, '=', toString(lines)), "
    "mapKeys(refusals), mapValues(refusals))), '\\x1E')",
    "producer": "producer",
    "instance": "instance",
    "sequence": "toString(sequence)",
    "sent_at": "sent_at",
    "key_ids": "arrayStringConcat(key_ids, '\\x1E')",
    "registry": "registry",
    "price_book": "toString(price_book)",
    "writer": "writer",
    "generation": "toString(generation)",
}
"""Columns of `records_final` in the order of a record's text, each with how the engine spells it."""


def text_sql(columns: Mapping[str, str]) -> str:
    """A row's text as an expression; that of an event has a parameter, `unknown`: versions of price books not known."""
    return "concat(" + ", '\\x1F', ".join(columns.values()) + ")"
