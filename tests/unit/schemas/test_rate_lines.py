"""`rate_lines` is `price` over the events of the same lines, whatever a line spells out besides."""

from fractions import Fraction

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.event import parse_event
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.rating import price, rate_lines
from tests.unit.schemas.documents import valid_document
from tests.unit.schemas.test_rating import BOOKS, EDGES_US, events


@settings(max_examples=150)
@given(st.lists(events(), max_size=4), BOOKS)
def test_every_line_costs_what_its_event_costs(lines: list[bytes], book: PriceBook) -> None:
    found = rate_lines(lines, book)
    expected = []
    for line in lines:
        event = parse_event(line)
        rated = price(event, book)
        expected.append((event.time_us, int(Fraction(rated.amount) * 10**12), rated.unpriced))
    assert found == expected


def test_without_a_price_book_every_meter_is_without_a_price() -> None:
    line = orjson.dumps(valid_document(usage={"requests": 1, "seconds": "0.5"}))
    event = parse_event(line)
    assert rate_lines([line], None) == [(event.time_us, 0, ("requests", "seconds"))]
    assert rate_lines([], None) == []


@pytest.mark.parametrize(
    "spelling",
    [
        b'{"data":{"usage":{"requests":7},"model":"gpt-\\u0034","customer":"c"},%s}',
        b'{ "data" : {"usage" : {"requests":7}, "provider":null, "customer":"c", "unknown":[1.5,{}]},%s}',
    ],
    ids=["escapes", "spaces, nulls and unknown fields"],
)
def test_a_line_may_be_spelled_in_any_way_that_a_log_accepts(spelling: bytes) -> None:
    document = valid_document(usage={"requests": 7}) | {"time": "2026-01-01T00:00:00.000Z"}
    del document["data"]
    line = spelling % orjson.dumps(document)[1:-1]
    parse_event(line)
    assert [time_us for time_us, _, _ in rate_lines([line], None)] == [EDGES_US[0]]


@pytest.mark.parametrize("line", [b"", b"{}", b'{"time":"yesterday","data":{"usage":{}}}', b"{}\n{}"])
def test_what_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidEvent):
        rate_lines([line], None)
