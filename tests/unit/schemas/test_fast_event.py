"""`read_event` and `read_events` give what `parse_event` gives, for every line whatever."""

import json
import random
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meterproof_schemas import fast_event
from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.event import METERS_MAX, TAGS_MAX, UsageEvent, parse_event
from meterproof_schemas.fast_event import read_event, read_events
from meterproof_schemas.limits import LINE_BYTES_MAX, NAME_BYTES_MAX
from meterproof_schemas.quantity import INTEGER_MAX
from tests.unit.schemas.documents import (
    damaged,
    odd_events,
    respelled,
    valid_document,
    valid_line,
)


def values_of(event: Any) -> Any:
    """All fields of an event as `parse_event` knows them, whichever of the two classes it is."""
    if isinstance(event, UsageEvent):
        return (
            {"time_us": event.time_us}
            | {name: getattr(event, name) for name in _known(event) if name != "data"}
            | {"data": {name: _plain(getattr(event.data, name)) for name in type(event.data).model_fields}}
        )
    return {name: getattr(event, name) for name in event.__struct_fields__ if name != "data"} | {
        "data": {name: _plain(getattr(event.data, name)) for name in event.data.__struct_fields__}
    }


def _known(event: UsageEvent) -> list[str]:
    return list(type(event).model_fields)


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    return (
        {name: getattr(value, name) for name in type(value).model_fields}
        if hasattr(value, "model_fields_set")
        else value
    )


def outcome(reader: Any, line: bytes) -> Any:
    try:
        return values_of(reader(line))
    except InvalidEvent as error:
        return (error.reason, error.detail)


def assert_same(lines: list[bytes]) -> None:
    expected = [outcome(parse_event, line) for line in lines]
    assert [outcome(read_event, line) for line in lines] == expected
    together = [
        (event.reason, event.detail) if isinstance(event, InvalidEvent) else values_of(event)
        for event in read_events(lines)
    ]
    assert together == expected


@pytest.fixture
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(line: bytes) -> UsageEvent:
        pytest.fail(f"the fast path gave up on {line!r}")

    monkeypatch.setattr(fast_event, "parse_event", refuse)


FULL_DATA: dict[str, Any] = {
    "operation": "chat",
    "surface": "llm",
    "status": "ok",
    "status_code": 200,
    "provider": "openai",
    "model": "gpt-4o-mini",
    "latency": {"total_us": 5, "first_token_us": 2},
    "request_bytes": 3,
    "response_bytes": 4,
    "session": "s",
    "user": "u",
    "run": "r",
    "parent": "p",
    "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    "cost": {"amount": "0.25", "currency": "USD"},
    "tags": {"team": "x"},
    "governance": {"residency": "eu"},
    "request_signature": "x",
    "receipt": "y",
    "salt": "0123456789abcdef" * 2,
}
FULL = valid_line(**FULL_DATA)


@pytest.mark.usefixtures("no_fallback")
def test_the_fast_path_takes_what_meter_writes() -> None:
    assert not isinstance(read_event(FULL), UsageEvent)
    assert read_event(valid_line()).data.usage == {"requests": 1, "input_tokens": 1234, "output_tokens": "5.25"}
    assert len(read_events([FULL, valid_line()] * 50)) == 100


@pytest.mark.usefixtures("no_fallback")
def test_the_fast_path_takes_any_order_of_names_and_unknown_fields() -> None:
    document = valid_document(x_unknown={"a": [1, 2.5, None, True]}, operation="o")
    backwards = dict(reversed(document.items())) | {"data": dict(reversed(document["data"].items()))}
    assert read_event(orjson.dumps(backwards)).time_us == parse_event(orjson.dumps(document)).time_us


def test_full_event_has_the_same_values() -> None:
    assert_same([FULL])


def test_two_events_on_one_line_are_not_two_lines() -> None:
    line = valid_line()
    assert_same([line + b"\n" + line, line])
    assert_same([line + b"\n" + line, b""])
    assert_same([line + b"\n", line])
    assert_same([line + line, line])


def test_a_short_line_does_not_pay_for_a_long_one() -> None:
    assert_same([b'{"specversion":"1.0",' + valid_line()[1:], valid_line()])
    assert_same([valid_line()[:-2] + b",}}", valid_line()])


def test_no_line_can_set_the_field_that_is_set_afterwards() -> None:
    line = b'{"\x7f":5,' + valid_line()[1:]
    assert_same([line])


def test_size_limit_is_the_same_alone_and_in_a_batch() -> None:
    room = LINE_BYTES_MAX - len(valid_line(x_pad=""))
    assert_same([valid_line(x_pad="a" * room), valid_line()])
    assert_same([valid_line(x_pad="a" * (room + 1)), valid_line()])


def test_a_line_of_known_fields_alone_stays_below_the_limit() -> None:
    name = "n" * NAME_BYTES_MAX
    largest = valid_document(
        **dict.fromkeys(("customer", "operation", "provider", "model", "session", "user", "run", "parent"), name),
        usage={f"{number:a>64}": f"-{'9' * 18}.{'9' * 12}" for number in range(METERS_MAX)},
        corrects={"id": name, "kind": "replace"},
        surface="agent",
        status="payment_required",
        status_code=999,
        latency=dict.fromkeys(("total_us", "queue_us", "upstream_us", "first_token_us"), INTEGER_MAX),
        request_bytes=INTEGER_MAX,
        response_bytes=INTEGER_MAX,
        traceparent=FULL_DATA["traceparent"],
        cost={"amount": f"-{'9' * 18}.{'9' * 12}", "currency": "USD"},
        tags={f"{number:t>256}": name for number in range(TAGS_MAX)},
        governance=dict.fromkeys(("residency", "purpose", "consent"), name),
        request_signature="s" * 4096,
        receipt="r" * 4096,
        salt="0" * 32,
    ) | {"id": name, "source": name, "subject": name, "time": "2026-01-31T23:59:59.123456789Z"}
    line = orjson.dumps(largest)
    assert {field for field, value in values_of(parse_event(line))["data"].items() if value is None} == set()
    assert len(line) < LINE_BYTES_MAX


@pytest.mark.parametrize("depth", [13, 14, 15, 16, 17])
def test_depth_is_bounded_also_where_nothing_is_known(depth: int) -> None:
    nested: Any = 0
    for number in range(depth):
        nested = [nested] if number % 2 else {"a": nested}
    assert_same([valid_line(x_unknown=nested), valid_line()])


def test_meter_names_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    known: set[str] = set()
    monkeypatch.setattr(fast_event, "_meter_names", known)
    monkeypatch.setattr(fast_event, "_METER_NAMES_MAX", 3)
    assert_same([valid_line(usage={f"m{number}": 1}) for number in range(10)])
    assert len(known) == 3


@settings(max_examples=150)
@given(st.lists(odd_events(), min_size=1, max_size=3), st.integers(0, 2**32))
@example([valid_document(status_code=200.0)], 0)
@example([valid_document(usage={"requests": 1.0})], 0)
@example([valid_document(usage={"requests": True})], 0)
@example([valid_document(tags={"": "x"})], 0)
@example([valid_document(tags={"x" * 257: "x"})], 0)
@example([valid_document(corrects={"id": "x", "kind": "void"}, usage={"requests": -1})], 0)
@example([valid_document(corrects=None)], 0)
def test_same_verdict_and_values_for_documents(documents: list[dict[str, Any]], seed: int) -> None:
    rng = random.Random(seed)
    assert_same([respelled(document, rng) for document in documents])
    assert_same([json.dumps(document, separators=(",", ":")).encode() for document in documents])


@settings(max_examples=600)
@given(st.lists(st.integers(0, 2**32), min_size=1, max_size=3), st.booleans())
def test_same_verdict_and_values_for_damaged_lines(seeds: list[int], full: bool) -> None:
    line = FULL if full else valid_line(salt="0123456789abcdef" * 2)
    assert_same([damaged(line, random.Random(seed)) for seed in seeds] + [line])


@pytest.mark.parametrize(
    "number",
    [
        *("1.0", "1e3", "1E0", "-0", "-0.0", "1e400", "01", "-1", "true", "null", "NaN", "Infinity", "1.5"),
        *("18446744073709551616", "9223372036854775807", "9223372036854775808", "-9223372036854775808"),
    ],
)
def test_every_spelling_of_a_number(number: str) -> None:
    spelled = number.encode()
    for name in (b"requests", b"a"):
        assert_same([valid_line(usage={name.decode(): 1}).replace(b'":1}', b'":' + spelled + b"}")])
    assert_same([valid_line(status_code=1).replace(b'"status_code":1', b'"status_code":' + spelled)])
    assert_same([valid_line(x=1).replace(b'"x":1', b'"x":' + spelled)])


def test_every_repeated_member_of_a_full_line_is_refused_by_both() -> None:
    document = orjson.loads(FULL)
    nested = [
        (),
        ("data",),
        ("data", "usage"),
        ("data", "tags"),
        ("data", "latency"),
        ("data", "cost"),
        ("data", "governance"),
    ]
    for path in nested:
        inner: Any = document
        for name in path:
            inner = inner[name]
        for name, value in inner.items():
            member = orjson.dumps({name: value})[1:-1]
            line = FULL.replace(member, member + b"," + member, 1)
            assert len(line) > len(FULL)
            assert outcome(read_event, line)[0] == "malformed_event"
            assert_same([line, FULL])
