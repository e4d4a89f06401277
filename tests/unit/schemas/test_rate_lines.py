"""`rate_lines` is `price` over the events of the same lines, whatever a line spells out besides."""

from fractions import Fraction

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.event import parse_event
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.rating import RatedLines, price, rate_lines
from tests.unit.schemas.documents import valid_document
from tests.unit.schemas.test_rating import BOOKS, EDGES_US, events


@settings(max_examples=150)
@given(st.lists(events(), max_size=4), BOOKS)
def test_every_line_costs_what_its_event_costs(lines: list[bytes], book: PriceBook) -> None:
    expected = RatedLines([], [], [])
    for line in lines:
        event = parse_event(line)
        rated = price(event, book)
        expected.times_us.append(event.time_us)
        expected.costs.append(int(Fraction(rated.amount) * 10**12))
        expected.unpriced.append(rated.unpriced)
    joined = b"\n".join(lines)
    assert rate_lines(joined, len(lines), book) == expected
    if lines:
        assert rate_lines(joined + b"\n", len(lines), book) == expected


def test_without_a_price_book_every_meter_is_without_a_price() -> None:
    line = orjson.dumps(valid_document(usage={"requests": 1, "seconds": "0.5"}))
    event = parse_event(line)
    assert rate_lines(line, 1, None) == RatedLines([event.time_us], [0], [("requests", "seconds")])
    assert rate_lines(b"", 0, None) == RatedLines([], [], [])


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
    assert rate_lines(line, 1, None).times_us == [EDGES_US[0]]


@pytest.mark.parametrize("line", [b"", b"{}", b'{"time":"yesterday","data":{"usage":{}}}', b"{}\n{}"])
def test_what_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidEvent):
        rate_lines(line, 1, None)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_lines_is_refused(count: int) -> None:
    line = orjson.dumps(valid_document())
    with pytest.raises(ValueError, match=f"{count} lines were announced, and 2 are there"):
        rate_lines(line + b"\n" + line, count, None)


def test_a_line_must_not_be_empty() -> None:
    line = orjson.dumps(valid_document())
    with pytest.raises(InvalidEvent):
        rate_lines(line + b"\n\n" + line, 3, None)
