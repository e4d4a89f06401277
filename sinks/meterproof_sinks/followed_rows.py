"""Alerts, signed checkpoints and price books as ClickHouse takes them in: one row for each record of their topics."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from meterproof.kafka.reader import Record
from meterproof_proofs.checkpoint import Checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.note import SignedNote
from meterproof_schemas.budget import decode_alert
from meterproof_schemas.checkpoint_record import decode_checkpoint_record, genesis_key
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.instant import format_instant_ms, parse_instant_us
from meterproof_schemas.price_book import PriceBook, encode_price_book, parse_price_book

_GENESIS_SUFFIX: Final = genesis_key("")


def alert_row(partition: int, record: Record) -> dict[str, Any]:
    """A record of `usage.alerts` as a row of `usage_alerts`.

    Raises:
        InvalidRecord: not an alert of this version.
    """
    alert = decode_alert(record.value)
    return {
        "budget": alert.budget,
        "scope": alert.scope,
        "subject": alert.subject,
        "period": alert.window,
        "zone": alert.zone,
        "start": column_time(alert.start),
        "threshold": alert.threshold,
        "allowed": alert.limit,
        "spend": alert.spend,
        "currency": alert.currency or "",
        "meters": list(alert.meters or ()),
        "log": alert.log,
        "position": alert.position,
        "event_time": column_time(alert.event_time),
        "append_time": column_time(format_instant_ms(alert.append_ms)),
        "topic_partition": partition,
        "topic_offset": record.offset,
        "recorded_at": column_time(format_instant_ms(record.timestamp_ms)),
    }


def checkpoint_row(_: int, record: Record) -> dict[str, Any] | None:
    """A record of `usage.checkpoints` as a row of `usage_checkpoints`; None for a genesis.

    The signature is not verified: whoever wants to rely on it has the note, and `meterproof verify`.

    Raises:
        InvalidRecord: not a checkpoint of this version, or its header and its note speak of different trees.
    """
    if (record.key or b"").endswith(_GENESIS_SUFFIX):
        return None
    found = decode_checkpoint_record(record.value)
    header, records = found.header, found.header.records
    signed = _checkpoint_of(found.note)
    if (signed.origin, signed.size) != (header.origin, header.size):
        message = f"checkpoint record: the header is of {header.origin} {header.size}, the note of {signed.origin}"
        raise InvalidRecord(f"{message} {signed.size}")
    return {
        "log": header.origin,
        "size": header.size,
        "root": signed.root.hex(),
        "log_offset": header.log_offset,
        "digest": header.digest,
        "clock_time": column_time(format_instant_ms(header.clock_ms)),
        "records_size": 0 if records is None else records.size,
        "records_root": "" if records is None else _checkpoint_of(records.note.encode()).root.hex(),
        "note": found.note.decode(),
        "recorded_at": column_time(format_instant_ms(record.timestamp_ms)),
    }


def price_book_row(book: PriceBook) -> dict[str, Any]:
    """A price book as a row of `price_books`."""
    content = encode_price_book(book)
    return {
        "version": book.version,
        "currency": book.currency,
        "prices": len(book.prices),
        "digest": hashlib.sha256(content).hexdigest(),
        "content": content.decode(),
    }


def published_price_book_row(_: int, record: Record) -> dict[str, Any]:
    """A record of `usage.price-books` as a row of `price_books`.

    Raises:
        InvalidRegistry: not a price book.
    """
    return price_book_row(parse_price_book(record.value or b""))


@dataclass(frozen=True, slots=True)
class ErasedName:
    """Whom an erasure was about, as far as its record tells: enough to know the name when it comes."""

    kind: str
    """`agent` or `customer`."""
    salt: bytes
    name_digest: str
    requested_ms: int


def is_erased(row: dict[str, Any], erasures: Sequence[ErasedName]) -> bool:
    """Whether an alert is of somebody who was erased after it was raised; a later one is of somebody who came back."""
    return any(
        row["scope"] == erasure.kind
        and parse_instant_us(row["recorded_at"].replace(" ", "T") + "Z") // 1000 <= erasure.requested_ms
        and hashlib.sha256(erasure.salt + row["subject"].encode()).hexdigest() == erasure.name_digest
        for erasure in erasures
    )


def column_time(instant: str) -> str:
    """An instant of the contract as every version of ClickHouse reads it."""
    return instant[:-1].replace("T", " ")


def _checkpoint_of(note: bytes) -> Checkpoint:
    try:
        return Checkpoint.parse(SignedNote.parse(note).text)
    except ProofError as error:
        raise InvalidRecord(f"checkpoint record: {error}") from None
