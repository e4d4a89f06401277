"""What the native part says of lines' costs is what `rate_lines` says; what it leaves out, it leaves out as a whole."""

import random
from struct import unpack

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_schemas.event import METERS_MAX
from meterproof_schemas.plain_lines import PRICES_NATIVELY, price_plain_lines
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.rating import rate_lines
from tests.unit.schemas.documents import damaged, valid_document, valid_line
from tests.unit.schemas.test_rating import BOOKS, events

pytestmark = pytest.mark.skipif(not PRICES_NATIVELY, reason="built without a C compiler that knows 128 bits")
HEAD = b"a header\n"


def priced(lines: list[bytes], prices: dict[str, int], *, end: bytes = b"") -> list[tuple[int, int]] | None:
    """(time, cost) by line, where every event pays the same prices."""
    return unpacked(price_plain_lines(HEAD + b"\n".join(lines) + end, len(HEAD), len(lines), lambda *_: prices))


def unpacked(found: tuple[bytes, bytes] | None) -> list[tuple[int, int]] | None:
    if found is None:
        return None
    times, costs = found
    count = len(times) // 8
    assert (len(times), len(costs)) == (8 * count, 16 * count)
    each = [int.from_bytes(costs[16 * i : 16 * i + 16], "little", signed=True) for i in range(count)]
    return list(zip(unpack(f"<{count}q", times), each, strict=True))


@settings(max_examples=200)
@given(st.lists(events(), max_size=5), BOOKS, st.booleans())
def test_plain_lines_cost_what_they_cost_line_by_line(lines: list[bytes], book: PriceBook, ended: bool) -> None:
    text = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    found = unpacked(price_plain_lines(text, 0, len(lines), lambda *named: book.rates(*named).simple))
    if found is not None:
        rated = rate_lines(text, len(lines), book)
        assert found == list(zip(rated.times_us, rated.costs, strict=True))
        assert not any(rated.unpriced)


def test_each_line_is_priced_by_who_provides_what() -> None:
    named = [
        {},
        {"provider": "p"},
        {"model": "m"},
        {"operation": "o"},
        {"provider": "p", "model": "m", "operation": "o"},
    ]
    named += [{"model": f"m{number}"} for number in range(40)]
    named *= 2
    documents = [valid_document(usage={"requests": 10, "seconds": 3}, **one) for one in named]
    asked = []

    def prices_of(provider: str, model: str, operation: str) -> dict[str, int]:
        asked.append((provider, model, operation))
        return {"requests": 100 * len(provider + model + operation), "seconds": 7}

    lines = [orjson.dumps(document) for document in documents]
    found = unpacked(price_plain_lines(b"\n".join(lines), 0, len(lines), prices_of))
    assert found is not None
    expected = ["".join(one.get(key, "") for key in ("provider", "model", "operation")) for one in named]
    assert [cost for _, cost in found] == [1_000 * len(name) + 21 for name in expected]
    assert set(asked) == {tuple(one.get(key, "") for key in ("provider", "model", "operation")) for one in named}


def test_an_event_may_use_as_many_meters_as_it_may() -> None:
    usage = {f"m{number}": number for number in range(METERS_MAX)}
    found = priced([orjson.dumps(valid_document(usage=usage))], dict.fromkeys(usage, 2**62))
    assert found is not None
    assert found[0][1] == sum(range(METERS_MAX)) * 2**62


@pytest.mark.parametrize(
    ("usage", "prices"),
    [
        ({"requests": "1"}, {"requests": 5}),
        ({"requests": "0.5"}, {"requests": 5}),
        ({"requests": 1, "seconds": 1}, {"requests": 5}),
        ({"requests": 1}, {"requests": 2**63}),
        ({"a": 2**63 - 1, "b": 2**63 - 1}, {"a": 2**63 - 1, "b": 2**63 - 1}),
        ({f"m{number}": 2**63 - 1 for number in range(METERS_MAX)}, {f"m{n}": 2**63 - 1 for n in range(METERS_MAX)}),
    ],
    ids=["text", "fraction", "no price", "long price", "more than 38 digits", "more than 128 bits"],
)
def test_what_takes_more_than_adding_up_is_left_out(usage: dict[str, int | str], prices: dict[str, int]) -> None:
    line = orjson.dumps(valid_document(usage=usage))
    assert (
        priced([valid_line(), line, valid_line()], {"requests": 1, "input_tokens": 1, "output_tokens": 1} | prices)
        is None
    )


def test_the_number_of_lines_must_be_right() -> None:
    line = orjson.dumps(valid_document(usage={"requests": 1}))
    prices = {"requests": 5}
    expected = priced([line], prices)
    assert expected is not None
    assert priced([], prices) == []
    assert priced([line, line], prices) == priced([line, line], prices, end=b"\n") == expected * 2
    assert priced([line, b"", line], prices) is None
    assert priced([line, line], prices, end=b"\n\n") is None
    text = line + b"\n" + line
    for start, count in ((0, 1), (0, 3), (len(line) + 1, 2), (len(text), 1), (len(text) + 1, 0), (-1, 2), (0, -1)):
        assert price_plain_lines(text, start, count, lambda *_: prices) is None


def test_an_error_of_the_prices_comes_out() -> None:
    def fail(*_: str) -> dict[str, int]:
        message = "no such book"
        raise LookupError(message)

    with pytest.raises(LookupError, match="no such book"):
        price_plain_lines(valid_line(), 0, 1, fail)


@settings(max_examples=300)
@given(st.randoms(use_true_random=False))
def test_damaged_lines_are_left_out_or_mean_the_same(rng: random.Random) -> None:
    line = damaged(valid_line(), rng)
    found = priced([line], {"requests": 5, "input_tokens": 3, "output_tokens": 2})
    if found is not None:
        assert [time for time, _ in found] == rate_lines(line, 1, None).times_us
