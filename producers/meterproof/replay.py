"""Turn a trace of requests, one per row, into usage events by a documented, deterministic rule (pure)."""

import csv
import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from meterproof.errors import MeterError
from meterproof_schemas.event import EVENT_TYPE, encode_event
from meterproof_schemas.instant import format_instant_us
from meterproof_schemas.quantity import DECIMAL_PLACES, ROUNDED

Format = Literal["azure-llm", "csv", "jsonl"]

AGENTS: Final = 16
"""Simulated agents of a trace that names no caller: row n belongs to `agent-<n mod 16>`."""
CUSTOMERS: Final = 4
"""Agent a belongs to `customer-<a mod 4>`."""
MODELS: Final = ("gpt-4o", "claude-sonnet", "llama-70b")
"""Agent a calls model a mod 3, of providers in the same order."""
PROVIDERS: Final = ("openai", "anthropic", "self-hosted")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS_PER_SECOND: Final = 1_000_000
_YEAR_1_S: Final = int((datetime(1, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())
_YEAR_10000_S: Final = int((datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH).total_seconds()) + 86_400
_DIGITS_BEFORE_POINT_MAX: Final = 19
"""Of the largest integer of the contract; more are refused before anything is computed with them."""
_SMALLEST_STEP: Final = Decimal(1).scaleb(-DECIMAL_PLACES)


class InvalidTrace(MeterError):
    """A trace file has a row that the mapping cannot read; the text names the row, the column and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a trace: its time and the fields of its event."""

    number: int
    time_us: int
    event_id: str | None
    agent: str
    customer: str
    usage: Mapping[str, int | str]
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """How the columns of a CSV or JSONL file become an event.

    `columns` maps a field to a column, `constants` a field to a value. Fields: `time`, `id`, `agent`, `customer`,
    `usage.<meter>`, and any field of `data` such as `model` or `tags.team`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)


def azure_llm_rows(lines: Iterable[str]) -> Iterator[Row]:
    """Rows of an Azure LLM inference trace (columns TIMESTAMP, ContextTokens, GeneratedTokens), which names no caller.

    Row n (from 0) belongs to `agent-<n mod 16>` of `customer-<agent mod 4>`, calling model and provider `agent mod 3`;
    ContextTokens become `input_tokens`, GeneratedTokens `output_tokens`, operation is `completion`.
    """
    reader = csv.DictReader(lines)
    if not {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= set(reader.fieldnames or ()):
        message = (
            "not an Azure LLM inference trace: needs the columns TIMESTAMP, ContextTokens and GeneratedTokens; for "
            "other files use --format csv with --map"
        )
        raise InvalidTrace(message)
    for number, row in enumerate(reader):
        agent = number % AGENTS
        yield Row(
            number=number,
            time_us=_instant_us(row["TIMESTAMP"], number, "TIMESTAMP"),
            event_id=None,
            agent=f"agent-{agent:02}",
            customer=f"customer-{agent % CUSTOMERS}",
            usage={
                "input_tokens": _quantity(row["ContextTokens"], number, "ContextTokens"),
                "output_tokens": _quantity(row["GeneratedTokens"], number, "GeneratedTokens"),
            },
            fields={
                "operation": "completion",
                "surface": "llm",
                "status": "ok",
                "model": MODELS[agent % len(MODELS)],
                "provider": PROVIDERS[agent % len(PROVIDERS)],
            },
        )


def mapped_rows(documents: Iterable[object], mapping: ColumnMapping) -> Iterator[Row]:
    """Rows of any table by a column mapping.

    Raises:
        InvalidTrace: a mapped column is missing or holds what its field cannot be.
    """
    for number, document in enumerate(documents):
        if not isinstance(document, Mapping):
            message = f"row {number}: not a JSON object"
            raise InvalidTrace(message)
        if None in document:  # where Python's reader of tables puts what is left over
            message = f"row {number}: more values than there are columns; a comma within a value needs quotes"
            raise InvalidTrace(message)
        values: dict[str, Any] = dict(mapping.constants)
        for name, column in mapping.columns.items():
            if column not in document:
                message = (
                    f"row {number}: no column {column!r} (mapped to {name}); columns are {', '.join(document)[:200]}"
                )
                raise InvalidTrace(message)
            value = document[column]
            if isinstance(value, (list, Mapping)):
                kind = "a list" if isinstance(value, list) else "an object"
                message = f"row {number}: {column} is {kind}, not a text or number (mapped to {name})"
                raise InvalidTrace(message)
            if value not in {"", None}:
                values[name] = value
        for needed in ("time", "agent", "customer"):
            if needed not in values:
                message = f"row {number}: no value for {needed}; say --map {needed}=COLUMN or --set {needed}=VALUE"
                raise InvalidTrace(message)
        usage = {
            name.removeprefix("usage."): _quantity(value, number, name)
            for name, value in values.items()
            if name.startswith("usage.")
        }
        if not usage:
            message = f"row {number}: no usage; map at least one meter with --map usage.METER=COLUMN"
            raise InvalidTrace(message)
        fields: dict[str, Any] = {}
        for name, value in values.items():
            if name in {"time", "agent", "customer", "id"} or name.startswith("usage."):
                continue
            outer, _, inner = name.partition(".")
            if outer in fields and isinstance(fields[outer], dict) != bool(inner):
                message = f"row {number}: {outer} has a value of its own, so {outer}.… has no place"
                raise InvalidTrace(message)
            if inner:
                fields.setdefault(outer, {})[inner] = str(value)
            else:
                fields[name] = _integer(value, number, name) if name in _INTEGER_FIELDS else str(value)
        yield Row(
            number=number,
            time_us=_instant_us(values["time"], number, "time"),
            event_id=None if "id" not in values else str(values["id"]),
            agent=str(values["agent"]),
            customer=str(values["customer"]),
            usage=usage,
            fields=fields,
        )


_INTEGER_FIELDS: Final = frozenset({"status_code", "request_bytes", "response_bytes"})


def read_rows(path: Path, trace_format: Format, mapping: ColumnMapping) -> list[Row]:
    """All rows of a trace file.

    Raises:
        InvalidTrace: a row or column cannot be read.
        OSError: the file cannot be read.
    """
    if trace_format == "jsonl":
        lines = path.read_bytes().splitlines()
        return list(mapped_rows((_document(line, number) for number, line in enumerate(lines)), mapping))
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if trace_format == "azure-llm":
                return list(azure_llm_rows(file))
            return list(mapped_rows(csv.DictReader(file), mapping))
    except UnicodeDecodeError as error:
        message = f"{path}: not UTF-8 ({error.reason}); save it as UTF-8"
        raise InvalidTrace(message) from None
    except csv.Error as error:
        message = f"{path}: not a table of comma-separated values: {error}"
        raise InvalidTrace(message) from None


def event_lines(rows: Iterable[Row], *, source: str, run: str, shift_us: int) -> Iterator[bytes]:
    """One event line per row: times shifted, ids `<run>-<row>` where the trace has none, salt derived from the id.

    The same arguments give the same bytes, so replaying under one `run` twice counts once.

    Raises:
        InvalidTrace: rows lie further apart than the calendar reaches.
    """
    for row in rows:
        event_id = row.event_id or f"{run}-{row.number}"
        try:
            instant = format_instant_us(row.time_us + shift_us)
        except OverflowError:
            message = f"row {row.number}: its time, shifted so that the last row is now, is before year 1"
            raise InvalidTrace(message) from None
        yield encode_event(
            {
                "specversion": "1.0",
                "id": event_id,
                "source": source,
                "type": EVENT_TYPE,
                "time": instant,
                "subject": row.agent,
                "data": {
                    "customer": row.customer,
                    "usage": row.usage,
                    **row.fields,
                    "salt": hashlib.sha256(f"{run}/{event_id}".encode()).hexdigest()[:32],
                },
            }
        )


def with_duplicates(lines: list[bytes], share: Decimal, seed: int) -> list[bytes]:
    """The lines with exactly `share` of them (rounded down) repeated byte for byte later on, by a seeded draw."""
    draw = random.Random(seed)  # noqa: S311 - replayable simulation, not a secret
    count = int(len(lines) * share)
    inserts: dict[int, list[bytes]] = {}
    for number in draw.sample(range(len(lines)), count):
        inserts.setdefault(draw.randrange(number, len(lines)), []).append(lines[number])
    repeated: list[bytes] = []
    for number, line in enumerate(lines):
        repeated.append(line)
        repeated.extend(inserts.get(number, ()))
    return repeated


def _document(line: bytes, number: int) -> object:
    """A line's JSON, with every digit of its numbers."""
    try:
        return json.loads(line, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        message = f"row {number}: not JSON: {error}"
        raise InvalidTrace(message) from None


def _no_constant(name: str) -> NoReturn:
    message = f"{name} is no number"
    raise ValueError(message)


def _integer(value: object, number: int, column: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        message = f"row {number}: {column} is {str(value)[:40]!r}, not an integer"
        raise InvalidTrace(message) from None


def _quantity(value: object, number: int, column: str) -> int | str:
    """An integer or decimal as the contract spells it."""
    text = str(value).strip()
    try:
        exact = Decimal(text)
    except InvalidOperation:
        message = f"row {number}: {column} is {text[:40]!r}, not a number"
        raise InvalidTrace(message) from None
    if not exact.is_finite():
        message = f"row {number}: {column} is {text[:40]!r}, not a finite number"
        raise InvalidTrace(message)
    if exact.adjusted() >= _DIGITS_BEFORE_POINT_MAX or exact != exact.quantize(_SMALLEST_STEP, context=ROUNDED):
        message = (
            f"row {number}: {column} is {text[:40]!r}, no quantity: at most {_DIGITS_BEFORE_POINT_MAX} digits before "
            f"the point and {DECIMAL_PLACES} behind it"
        )
        raise InvalidTrace(message)
    return int(exact) if exact == exact.to_integral_value() else format(exact, "f")


def _instant_us(value: object, number: int, column: str) -> int:
    """Microseconds since 1970 of an ISO 8601 time (UTC where it names no zone) or of seconds since 1970."""
    text = str(value).strip()
    try:
        exact = Decimal(text)
    except InvalidOperation:
        pass
    else:
        if exact.is_finite():
            if not _YEAR_1_S <= exact < _YEAR_10000_S:
                message = f"row {number}: {column} is {text[:40]!r}, not within the years 0001 to 9999"
                raise InvalidTrace(message)
            return int(exact * _MICROSECONDS_PER_SECOND)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        message = f"row {number}: {column} is {text[:40]!r}, neither ISO 8601 nor seconds since 1970"
        raise InvalidTrace(message) from None
    return ((instant if instant.tzinfo else instant.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)
