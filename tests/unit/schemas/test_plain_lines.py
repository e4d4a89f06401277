"""The native reader of plain lines does what its definition does, for every line whatever."""

import random
import sys
from array import array
from calendar import monthrange
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import meterproof_schemas
from meterproof_schemas import plain_lines, python_plain_lines
from meterproof_schemas.event import METERS_MAX, TAGS_MAX, identity_of
from meterproof_schemas.instant import parse_instant_us
from meterproof_schemas.limits import NAME_BYTES_MAX
from meterproof_schemas.plain_lines import PlainLines, speaker_of
from tests.native_part import native_part
from tests.unit.schemas.documents import damaged, odd_events, respelled, valid_document, valid_line
from tests.unit.schemas.test_fast_event import FULL, FULL_DATA

GOLDEN = Path(meterproof_schemas.__file__).parent / "golden"


@pytest.fixture(scope="module")
def native() -> ModuleType:
    return native_part("meterproof_schemas._plain_lines")


HEAD = b"a header\n"
"""What may stand before the lines in their text."""


def text_of(lines: list[bytes]) -> bytes:
    return HEAD + b"".join([line + b"\n" for line in lines])


def natively(native: ModuleType, lines: list[bytes]) -> PlainLines | None:
    found = native.read_plain_lines(text_of(lines), len(HEAD))
    return None if found is None else PlainLines(*found)


def assert_same(native: ModuleType, lines: list[bytes]) -> PlainLines | None:
    """Both readers make the same of each line, and of all of them, but for more meters than the native one holds."""
    for some in ([line] for line in lines):
        assert_same_text(native, text_of(some))
    return assert_same_text(native, text_of(lines))


def assert_same_text(native: ModuleType, text: bytes) -> PlainLines | None:
    expected = python_plain_lines.read_plain_lines(text, len(HEAD))
    too_many = expected is not None and len(expected.meters) > METERS_MAX
    assert native.read_plain_lines(text, len(HEAD)) == (None if too_many else expected)
    assert plain_lines.read_plain_lines(text, len(HEAD)) == expected
    return expected


def assert_taken(native: ModuleType, line: bytes) -> PlainLines:
    assert natively(native, [line]) is not None
    columns = assert_same(native, [line])
    assert columns is not None
    return columns


def test_columns_are_what_the_lines_say(native: ModuleType) -> None:
    other = valid_document(customer="other", usage={"seconds": "0.5"}) | {"id": "other", "subject": "agent"}
    other["time"] = "1969-12-31T23:59:59.999999999Z"
    document = valid_document()
    lines = [valid_line(), orjson.dumps(other)]
    columns = assert_same(native, lines)
    assert columns is not None
    text = text_of(lines)
    ends = array("q", columns.ends)
    assert [text[end - 5 : end] for end in ends] == [line[-4:] + b"\n" for line in lines]
    assert columns.speakers == [
        speaker_of(document["source"], document["subject"], document["data"]["customer"]),
        speaker_of(document["source"], "agent", "other"),
    ]
    assert columns.identities == (
        identity_of(document["source"], document["id"]) + identity_of(document["source"], "other")
    )
    assert columns.earliest_us == -1
    assert columns.latest_us == parse_instant_us(document["time"])
    assert columns.meters == document["data"]["usage"].keys() | {"seconds"}


def test_no_lines_and_unended_ones_are_not_plain(native: ModuleType) -> None:
    assert assert_same(native, []) is None
    assert assert_same_text(native, text_of([FULL])[:-1]) is None
    assert assert_same_text(native, text_of([FULL]) + b"\n") is None
    for start in (-1, len(FULL), len(FULL) + 1, 1 << 62):
        assert native.read_plain_lines(FULL, start) is None


def test_each_field_alone_and_all_in_any_order(native: ModuleType) -> None:
    for name, value in FULL_DATA.items():
        assert_taken(native, valid_line(**{name: value}))
    drawn = random.Random(1)
    for _ in range(50):
        document = orjson.loads(FULL)
        for path in ((), ("data",), ("data", "usage"), ("data", "latency"), ("data", "cost")):
            inner = document
            for name in path:
                inner = inner[name]
            members = list(inner.items())
            drawn.shuffle(members)
            inner.clear()
            inner.update(members)
        assert_taken(native, orjson.dumps(document))


def test_bytes_taken_away_doubled_or_put_in_anywhere(native: ModuleType) -> None:
    drawn = random.Random(3)
    for at in range(len(FULL)):
        for line in (FULL[:at], FULL[at:], FULL[:at] + FULL[at + 1 :], FULL[:at] + FULL[at : at + 1] + FULL[at:]):
            assert_same(native, [line])
        for byte in drawn.sample(b' \t\r\n\0",:{}[]\\\x7f\x80-+.e0a', 3):
            assert_same(native, [FULL[:at] + bytes([byte]) + FULL[at:]])
            assert_same(native, [FULL[:at] + bytes([byte]) + FULL[at + 1 :]])


def test_golden_lines(native: ModuleType) -> None:
    index = orjson.loads((GOLDEN / "events/index.json").read_bytes())
    minimal = (GOLDEN / "events/valid/minimal.json").read_bytes()
    for name in (*index["valid"], *index["hostile"]):
        line = (GOLDEN / "events" / name).read_bytes()
        assert_same(native, [minimal, line])
    assert_taken(native, minimal)


@pytest.mark.parametrize("field", ["id", "source", "subject", "customer", "operation"])
def test_lengths_of_names(native: ModuleType, field: str) -> None:
    for size in (0, 1, NAME_BYTES_MAX - 1, NAME_BYTES_MAX, NAME_BYTES_MAX + 1):
        document = valid_document()
        (document if field in document else document["data"])[field] = "n" * size
        assert (assert_same(native, [orjson.dumps(document)]) is not None) == (1 <= size <= NAME_BYTES_MAX)


def test_numbers_of_meters_and_tags(native: ModuleType) -> None:
    for count in (0, 1, METERS_MAX, METERS_MAX + 1):
        usage = {f"{number:m>64}": number for number in range(count)}
        assert (assert_same(native, [valid_line(usage=usage)]) is not None) == (1 <= count <= METERS_MAX)
    for count in (0, 1, TAGS_MAX, TAGS_MAX + 1):
        tags = {f"{number:t>256}": "x" for number in range(count)}
        assert (assert_same(native, [valid_line(tags=tags)]) is not None) == (count <= TAGS_MAX)


def test_more_different_meters_than_the_native_reader_remembers(native: ModuleType) -> None:
    lines = [valid_line(usage={f"meter_{number}": 1}) for number in range(METERS_MAX + 1)]
    columns = assert_same(native, lines)
    assert columns is not None
    assert len(columns.meters) == METERS_MAX + 1
    assert natively(native, lines) is None


@pytest.mark.parametrize("size", [4095, 4096, 4097])
def test_lengths_of_texts(native: ModuleType, size: int) -> None:
    for name in ("receipt", "request_signature"):
        assert_same(native, [valid_line(**{name: "t" * size})])


@pytest.mark.parametrize(
    "spelled",
    [
        *("0", "-0", "00", "01", "1", "-1", "+1", "1.", "1.0", ".5", "1e3", "", "-", '"', '""', '"-"', '"."', "true"),
        *("9223372036854775807", "-9223372036854775807", "9223372036854775808", "-9223372036854775808"),
        *("9999999999999999999", "18446744073709551616", "10000000000000000000000"),
        *('"0"', '"-0"', '"-1"', '"1."', '".5"', '"00.50"', '"1.5 "', '"1e3"', '"9"', '"1.2.3"'),
        *(f'"{"9" * whole}.{"9" * places}"' for whole in (18, 19) for places in (12, 13)),
        *("999", "1000", "null", "[]", "{}", "[1]", '{"a":1}'),
    ],
)
def test_every_spelling_of_a_number(native: ModuleType, spelled: str) -> None:
    for name, value in (("usage", {"m": 1}), ("cost", {"amount": 1, "currency": "EUR"}), ("latency", {"total_us": 1})):
        inner = orjson.dumps({name: value})[1:-1]
        assert_same(native, [valid_line(**{name: value}).replace(inner, inner.replace(b"1", spelled.encode()))])
    for name in ("status_code", "request_bytes"):
        line = valid_line(**{name: 1}).replace(f'"{name}":1'.encode(), f'"{name}":{spelled}'.encode())
        assert_same(native, [line])


def test_every_day_that_exists_and_none_that_does_not(native: ModuleType) -> None:
    head, tail = valid_line().split(valid_document()["time"].encode())
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for year in (1, 4, 99, 100, 400, 1900, 1969, 1970, 2000, 2023, 2024, 2100, 9999):
        for month in range(1, 13):
            lines = [head + f"{year:04}-{month:02}-{day:02}T12:34:56.789Z".encode() + tail for day in range(1, 32)]
            last = monthrange(year, month)[1]
            columns = natively(native, lines[:last])
            assert columns is not None
            moment = datetime(year, month, 1, 12, 34, 56, 789_000, tzinfo=UTC)
            first_us = (moment - epoch) // timedelta(microseconds=1)
            assert (columns.earliest_us, columns.latest_us) == (first_us, first_us + 86_400_000_000 * (last - 1))
            for day, line in enumerate(lines[:last]):
                alone = natively(native, [line])
                assert alone is not None
                assert alone.earliest_us == first_us + 86_400_000_000 * day
            for line in lines[last:]:
                assert assert_same(native, [line]) is None


@pytest.mark.parametrize(
    "text",
    [
        *("2026-01-31T23:59:59.12Z", "2026-01-31T23:59:59.123Z", "2026-01-31T23:59:59.1234567890Z"),
        *("2026-01-31T23:59:59.1234567Z", "2026-01-31T23:59:59.12345Z", "2026-01-31T24:00:00.000Z"),
        *("2026-01-31T23:60:00.000Z", "2026-01-31T23:59:60.000Z", "0000-01-01T00:00:00.000Z"),
        *("2026-00-01T00:00:00.000Z", "2026-13-01T00:00:00.000Z", "2026-01-00T00:00:00.000Z"),
        *("2026-01-31t23:59:59.123Z", "2026-01-31T23:59:59.123z", "2026-01-31T23:59:59,123Z"),
        *("2026-01-31 23:59:59.123Z", "+026-01-31T23:59:59.123Z", "2026-01-31T23:59:59.1_3Z"),
        *("2026-W05-6T23:59:59.123Z", "", "Z"),
    ],
)
def test_every_spelling_of_an_instant(native: ModuleType, text: str) -> None:
    assert_same(native, [orjson.dumps(valid_document() | {"time": text}), valid_line()])


def test_identities_of_every_length(native: ModuleType) -> None:
    drawn = random.Random(2)
    sizes = [1, 2, 62, 63, 64, 65, 126, 127, 128, 129, 254, 255, 256]
    named = [("s" * first, "".join(drawn.choices("0123456789abc", k=last))) for first in sizes for last in sizes]
    lines = [orjson.dumps(valid_document() | {"source": source, "id": name}) for source, name in named]
    columns = natively(native, lines)
    assert columns is not None
    assert columns.identities == b"".join([identity_of(*names) for names in named])


@pytest.mark.parametrize("lines", range(1, 35))
def test_identities_of_any_number_of_lines(native: ModuleType, lines: int) -> None:
    """They are made several at a time, where all of these are short."""
    drawn = random.Random(lines)
    for longest in (20, 125, NAME_BYTES_MAX):
        named = [("s" * drawn.randint(1, 3), "i" * drawn.randint(1, longest)) for _ in range(lines)]
        columns = natively(native, [orjson.dumps(valid_document() | {"source": s, "id": i}) for s, i in named])
        assert columns is not None
        assert columns.identities == b"".join([identity_of(*names) for names in named])


def test_speakers_of_more_lines_than_are_remembered(native: ModuleType) -> None:
    document, drawn = valid_document(), random.Random(5)
    named = [("s" * drawn.randint(1, 9), f"agent{number}" * drawn.randint(1, 3)) for number in range(3_000)]
    for again in (named, named[::-1], named[:3]):
        columns = natively(native, [orjson.dumps(document | {"source": s, "subject": a}) for s, a in again])
        assert columns is not None
        assert columns.speakers == [speaker_of(s, a, document["data"]["customer"]) for s, a in again]


@pytest.mark.parametrize("names", [("a", "bc", "d"), ("ab", "c", "d"), ("a", "b", "cd"), ("abc", "d", "e")])
def test_speakers_alike_but_for_where_a_name_ends(native: ModuleType, names: tuple[str, str, str]) -> None:
    for source, agent, customer in (("abc", "de", "f"), names):
        document = valid_document(customer=customer) | {"source": source, "subject": agent}
        columns = natively(native, [orjson.dumps(document)])
        assert columns is not None
        assert columns.speakers == [speaker_of(source, agent, customer)]


@settings(max_examples=60)
@given(st.lists(odd_events(), min_size=1, max_size=3), st.integers(0, 2**32))
def test_same_columns_for_documents(native: ModuleType, documents: list[dict[str, Any]], seed: int) -> None:
    drawn = random.Random(seed)
    assert_same(native, [respelled(document, drawn) for document in documents])


@settings(max_examples=200)
@given(st.lists(st.integers(0, 2**32), min_size=1, max_size=3), st.booleans())
def test_same_columns_for_damaged_lines(native: ModuleType, seeds: list[int], full: bool) -> None:
    line = FULL if full else valid_line(salt="0123456789abcdef" * 2)
    assert_same(native, [damaged(line, random.Random(seed)) for seed in seeds] + [line])


def test_the_native_reader_refuses_what_is_no_text(native: ModuleType) -> None:
    for wrong in ((), (FULL,), (FULL, 0, 0), (FULL.decode(), 0), (bytearray(FULL), 0), ([FULL], 0), (FULL, "0")):
        with pytest.raises(TypeError):
            native.read_plain_lines(*wrong)
    with pytest.raises(OverflowError):
        native.read_plain_lines(FULL, 1 << 64)


def test_the_native_reader_lets_go_of_what_it_took(native: ModuleType) -> None:
    text = text_of([FULL] * 3)
    before = sys.getrefcount(text)
    columns = native.read_plain_lines(text, len(HEAD))
    assert [sys.getrefcount(column) for column in columns[:3]] == [4] * 3
    speakers = sys.getrefcount(columns[1][0])
    for _ in range(100):
        native.read_plain_lines(text, len(HEAD))
        native.read_plain_lines(text + b"{}", len(HEAD))
        native.read_plain_lines(text + b"{}\n", len(HEAD))
    assert sys.getrefcount(text) == before
    speakers_then = sys.getrefcount(columns[1][0])
    assert speakers_then == speakers
