"""Events of an audit folder in the formats that other programs read; every number as the event spells it, exactly."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import IO, Any, Final

import orjson

from meterproof_sinks.audit_events import KeptEvent
from meterproof_sinks.erased import entry_of_kept

_PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "time": ("time",),
    "id": ("id",),
    "source": ("source",),
    "agent": ("subject",),
    **{
        name: ("data", name)
        for name in (
            *("customer", "operation", "surface", "status", "status_code", "provider", "model", "usage"),
            *("session", "user", "run", "parent", "traceparent", "tags", "request_bytes", "response_bytes"),
        )
    },
    **{name: ("data", "latency", name) for name in ("total_us", "queue_us", "upstream_us", "first_token_us")},
    "stated_cost": ("data", "cost", "amount"),
    "stated_currency": ("data", "cost", "currency"),
    **{name: ("data", "governance", name) for name in ("residency", "purpose", "consent")},
    "corrects_id": ("data", "corrects", "id"),
    "corrects_kind": ("data", "corrects", "kind"),
}
NUMBERS: Final = (
    *("status_code", "total_us", "queue_us", "upstream_us", "first_token_us"),
    *("request_bytes", "response_bytes"),
)
COLUMNS: Final = ("log", "position", "entry", "erased", "correction", *_PATHS)
"""Of CSV and Parquet. `entry` is the SHA-256 of the line, which the log's tree holds; `erased` says whether it is all
that is left; `correction` says what a correction does; `usage` and `tags` are maps."""


class ExportFormat(StrEnum):
    """What an export is written as."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


class NoParquet(Exception):
    """The library that writes Parquet is not installed."""


def write_events(events: Iterable[KeptEvent], into: IO[bytes], form: ExportFormat) -> int:
    """Write events; how many.

    JSONL has an object per event, in which the event's line stands byte for byte. CSV and Parquet have the columns of
    `COLUMNS`; in CSV, maps are JSON objects, and every quantity in them is a string; in Parquet, quantities and money
    are Decimal(38, 12) and times are microseconds in UTC.

    Raises:
        NoParquet: Parquet is asked for and pyarrow is not there.
    """
    written = 0

    def counted() -> Iterator[KeptEvent]:
        nonlocal written
        for event in events:
            written += 1
            yield event

    _WRITERS[form](counted(), into)
    return written


def _write_jsonl(events: Iterable[KeptEvent], into: IO[bytes]) -> None:
    for event in events:
        into.write(event.as_json() + b"\n")


def _write_csv(events: Iterable[KeptEvent], into: IO[bytes]) -> None:
    text = io.StringIO(newline="")
    rows = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    rows.writeheader()
    for event in events:
        row = columns_of(event)
        for name in ("usage", "tags"):
            if name in row:
                row[name] = orjson.dumps({key: str(value) for key, value in row[name].items()}).decode()
        row["erased"] = "true" if row["erased"] else "false"
        rows.writerow(row)
        into.write(text.getvalue().encode())
        text.seek(0)
        text.truncate()
    into.write(text.getvalue().encode())


def _write_parquet(events: Iterable[KeptEvent], into: IO[bytes]) -> None:
    try:
        from meterproof_sinks.event_parquet import write_parquet  # noqa: PLC0415 - only who asks for Parquet needs it
    except ImportError as error:
        raise NoParquet("Parquet needs pyarrow: install meterproof-sinks[parquet], or use --format csv") from error
    write_parquet(map(columns_of, events), into)


def columns_of(event: KeptEvent) -> dict[str, Any]:
    """The columns of an event that it has; quantities and money as the integers or strings of its line."""
    row: dict[str, Any] = {
        "log": event.log,
        "position": event.position,
        "entry": entry_of_kept(event.line).hex(),
        "erased": event.erased is not None,
    }
    if event.effect is not None:
        row["correction"] = event.effect.value
    if row["erased"]:
        return row
    event_fields = orjson.loads(event.line)
    for column, path in _PATHS.items():
        value = event_fields
        for name in path:
            value = None if value is None else value.get(name)
        if value is not None:
            row[column] = value
    return row


_WRITERS: Final[Mapping[ExportFormat, Callable[[Iterable[KeptEvent], IO[bytes]], None]]] = {
    ExportFormat.JSONL: _write_jsonl,
    ExportFormat.CSV: _write_csv,
    ExportFormat.PARQUET: _write_parquet,
}
