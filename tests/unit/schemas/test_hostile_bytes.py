"""Whatever bytes come, a decoder returns or raises its own error; nothing else ever escapes it."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import meterproof_schemas
from meterproof_schemas.batch import decode_batch
from meterproof_schemas.budget import decode_alert, decode_budget_state, parse_budgets
from meterproof_schemas.checkpoint_record import decode_checkpoint_record
from meterproof_schemas.errors import ContractError, InvalidBatch, InvalidEvent, InvalidRecord, InvalidRegistry
from meterproof_schemas.event import parse_event
from meterproof_schemas.fast_event import read_event
from meterproof_schemas.fold import LogState
from meterproof_schemas.keys import parse_registry
from meterproof_schemas.log_record import decode_record, frontier_of
from meterproof_schemas.price_book import parse_price_book
from meterproof_schemas.rejection import decode_rejection
from tests.unit.schemas.documents import damaged, valid_line

GOLDEN = Path(meterproof_schemas.__file__).parent / "golden"
LOG = orjson.loads((GOLDEN / "log/expected.json").read_bytes())
RECORDS = [(GOLDEN / "log" / name).read_bytes() for name in LOG["records"]]
_BUDGETS = (
    b'{"version":1,"budgets":[{"name":"daily","scope":"agent","subject":"*","window":"day","limit":"25",'
    b'"currency":"USD","thresholds":["50","100"]}]}'
)
_SUM = orjson.dumps(
    {
        "v": 1,
        "log": "meter.example.com/x/p0",
        "scope": "agent",
        "subject": "a",
        "window": "day",
        "zone": "UTC",
        "start": "2026-01-31T00:00:00.000000Z",
        "position": 7,
        "events": 7,
        "spend": "1.5",
        "currency": "USD",
        "definition": "0" * 64,
    }
)


def _record_and_frontier(value: bytes) -> None:
    frontier_of(decode_record(value).header)


DECODERS: list[tuple[Callable[[bytes], Any], type[ContractError], list[bytes]]] = [
    (parse_event, InvalidEvent, [valid_line()]),
    (read_event, InvalidEvent, [valid_line()]),
    (decode_batch, InvalidBatch, [(GOLDEN / "batches/valid/two-signatures.batch").read_bytes()]),
    (_record_and_frontier, InvalidRecord, RECORDS),
    (decode_rejection, InvalidRecord, [(GOLDEN / "log/line.rejection").read_bytes()]),
    (
        decode_checkpoint_record,
        InvalidRecord,
        [(GOLDEN / f"log/{name}.record").read_bytes() for name in ("checkpoint", "checkpoint-with-records")],
    ),
    (parse_registry, InvalidRegistry, [(GOLDEN / "batches/registry.json").read_bytes()]),
    (parse_price_book, InvalidRegistry, [(GOLDEN / "log/price-book.json").read_bytes()]),
    (parse_budgets, InvalidRegistry, [_BUDGETS]),
    (decode_budget_state, InvalidRecord, [_SUM]),
    (decode_alert, InvalidRecord, [b"{}"]),
]
EACH = pytest.mark.parametrize(
    ("decode", "error", "samples"), DECODERS, ids=lambda value: getattr(value, "__name__", "")
)


@EACH
@settings(max_examples=100)
@given(st.one_of(st.binary(max_size=60), st.text(alphabet='{}[]":,\\u0e1-.\n\ttrfanls', max_size=60).map(str.encode)))
def test_any_bytes(
    decode: Callable[[bytes], Any], error: type[ContractError], samples: list[bytes], value: bytes
) -> None:
    with pytest.raises(error):
        decode(value)


@EACH
@settings(max_examples=100)
@given(st.integers(0, 2**32))
def test_damaged_messages(
    decode: Callable[[bytes], Any], error: type[ContractError], samples: list[bytes], seed: int
) -> None:
    rng = random.Random(seed)
    value = damaged(rng.choice(samples), rng)
    with contextlib.suppress(error):
        decode(value)


@EACH
@pytest.mark.parametrize(
    "value", [b"[" * 100_000, b'{"a":' * 100_000, b"{" + b'"a":1,' * 100_000, b"\0" * 1000, b"9" * 100_000]
)
def test_deep_and_long_messages(
    decode: Callable[[bytes], Any], error: type[ContractError], samples: list[bytes], value: bytes
) -> None:
    with pytest.raises(error):
        decode(value)
    with pytest.raises(error):
        decode(value + b"\n" + samples[0])


@pytest.mark.parametrize(
    "decode", [decode_record, decode_rejection, decode_checkpoint_record, decode_budget_state, decode_alert]
)
def test_a_record_without_a_value_is_refused(decode: Callable[[bytes | None], Any]) -> None:
    with pytest.raises(InvalidRecord):
        decode(None)


@settings(max_examples=200)
@given(st.integers(0, 2**32))
def test_a_reader_meets_damaged_records_and_stops_or_goes_on(seed: int) -> None:
    rng = random.Random(seed)
    state = LogState()
    for offset, value in enumerate(RECORDS):
        for shown in (damaged(value, rng), value):
            try:
                state.offer(offset, shown)
            except ContractError:
                return
    assert state.position <= LOG["fold"]["position"]


def test_refusals_quote_no_values() -> None:
    """A value may be a secret, and refusals are kept and shown."""
    secret = "sk-SECRET"
    for change in (
        {"salt": secret},
        {"surface": secret},
        {"usage": {"requests": secret}},
        {"customer": [secret]},
        {"cost": {"amount": secret, "currency": secret}},
        {"corrects": {"id": "e", "kind": secret}},
    ):
        with pytest.raises(InvalidEvent) as refusal:
            parse_event(valid_line(**change))
        assert "SECRET" not in str(refusal.value)
        assert next(iter(change)) in refusal.value.detail


@EACH
@pytest.mark.parametrize(
    "value", [b"sk-SECRET", b'"sk-SECRET"', b'{"v":"sk-SECRET","version":"sk-SECRET"}', b'{"v":1}']
)
def test_no_error_quotes_what_it_is_about(
    decode: Callable[[bytes], Any], error: type[ContractError], samples: list[bytes], value: bytes
) -> None:
    for content in (value, value + b"\nsk-SECRET", value + b"\n"):
        with pytest.raises(error) as refused:
            decode(content)
        assert "SECRET" not in str(refused.value)
        assert "pydantic" not in str(refused.value)


def test_a_flood_of_text_makes_no_flood_of_detail() -> None:
    for line in (
        valid_line(usage={"X" * 60_000: 1}),
        valid_line(tags={"x" * 60_000: "y"}),
        b'{"' + b"n" * 30_000 + b'":1,"' + b"n" * 30_000 + b'":2}',
        valid_line().replace(b"2026", b"2" * 60_000),
    ):
        with pytest.raises(InvalidEvent) as refusal:
            parse_event(line)
        assert len(refusal.value.detail) < 500
