"""`price` is exact: the same as a naive computation in fractions, to the last of its twelve places."""

from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_schemas.errors import InvalidRegistry
from meterproof_schemas.event import Event, parse_event
from meterproof_schemas.fast_event import read_event
from meterproof_schemas.instant import format_instant_us, parse_instant_us
from meterproof_schemas.price_book import (
    DEFAULT_METERS,
    Meter,
    PriceBook,
    UnitPrice,
    encode_price_book,
    load_price_book,
    parse_price_book,
)
from meterproof_schemas.rating import price
from tests.unit.schemas.documents import valid_document

METERS = ("requests", "seconds", "tokens")
EDGES_US = tuple(parse_instant_us(f"2026-0{month}-01T00:00:00.000Z") for month in (1, 2, 3))
AMOUNTS = st.from_regex(r"[0-9]{1,18}(\.[0-9]{1,6})?", fullmatch=True)
GRANULARITIES = ("1", "1000", "0.001", "3", "0.7", "0.000000000001", "60", "999999999999999999.999999999999")
PATTERNS = ("*", "gpt-*", "gpt-4", "other", "g*")


def naive(event: Event, book: PriceBook) -> tuple[Fraction, tuple[str, ...]]:
    """The rule again, as it is written: first matching price per meter, whole steps away from zero, one rounding."""
    total, unpriced = Fraction(0), []
    for name, quantity in event.data.usage.items():
        found: UnitPrice | None = None
        for candidate in book.prices:
            texts = (event.data.provider, event.data.model, event.data.operation)
            patterns = (candidate.provider, candidate.model, candidate.operation)
            begins = candidate.effective_from is None or parse_instant_us(candidate.effective_from) <= event.time_us
            lasts = candidate.effective_until is None or event.time_us < parse_instant_us(candidate.effective_until)
            if candidate.meter == name and begins and lasts and all(map(_matches, patterns, texts)):
                found = candidate
                break
        if found is None:
            unpriced.append(name)
            continue
        (step,) = [Fraction(meter.granularity) for meter in book.meters if meter.name == name]
        steps = Fraction(quantity) / step
        whole = ceil(steps) if steps > 0 else floor(steps)
        total += whole * step * Fraction(found.amount) / int(found.per)
    scaled = total * 10**12
    return Fraction(round(scaled), 10**12), tuple(unpriced)  # Python rounds fractions half to even


def _matches(pattern: str, text: str | None) -> bool:
    return (text or "").startswith(pattern[:-1]) if pattern.endswith("*") else (text or "") == pattern


PRICES = st.builds(
    UnitPrice,
    meter=st.sampled_from(METERS),
    provider=st.sampled_from(("*", "openai")),
    model=st.sampled_from(PATTERNS),
    operation=st.sampled_from(("*", "chat")),
    effective_from=st.one_of(st.none(), st.sampled_from([format_instant_us(edge) for edge in EDGES_US])),
    effective_until=st.one_of(st.none(), st.sampled_from([format_instant_us(edge) for edge in EDGES_US])),
    amount=AMOUNTS,
    per=st.sampled_from(("1", "10", "1000", "1000000")),
)
BOOKS = st.builds(
    lambda granularities, prices: PriceBook(
        version=1,
        currency="USD",
        meters=tuple(
            Meter(name=name, unit="u", granularity=step) for name, step in zip(METERS, granularities, strict=True)
        ),
        prices=tuple(prices),
    ),
    st.lists(st.sampled_from(GRANULARITIES), min_size=3, max_size=3),
    st.lists(PRICES, max_size=6),
)
QUANTITIES = st.one_of(
    st.integers(0, 2**63 - 1), st.integers(0, 100), st.from_regex(r"[0-9]{1,18}(\.[0-9]{1,12})?", fullmatch=True)
)


@st.composite
def events(draw: st.DrawFn) -> bytes:
    usage = draw(st.dictionaries(st.sampled_from([*METERS, "undeclared"]), QUANTITIES, min_size=1))
    data: dict[str, object] = {"usage": usage}
    for field, values in (
        ("provider", ("openai", "x")),
        ("model", ("gpt-4", "gpt-4o", "other")),
        ("operation", ("chat",)),
    ):
        if (value := draw(st.sampled_from((None, *values)))) is not None:
            data[field] = value
    if draw(st.booleans()):
        data["corrects"] = {"id": "e-0", "kind": "replace"}
        data["usage"] = {name: -value if isinstance(value, int) else f"-{value}" for name, value in usage.items()}
    time_us = draw(st.sampled_from(EDGES_US)) + draw(st.sampled_from((-1, 0, 1)))
    return orjson.dumps(valid_document(**data) | {"time": format_instant_us(time_us)})


@settings(max_examples=300)
@given(events(), BOOKS)
def test_price_is_the_naive_sum_in_fractions(line: bytes, book: PriceBook) -> None:
    event = read_event(line)
    result = price(event, book)
    assert (Fraction(result.amount), result.unpriced) == naive(event, book)
    assert price(parse_event(line), parse_price_book(encode_price_book(book))) == result
    assert result.currency == "USD"


def book_of(*prices: UnitPrice, granularity: str = "0.000000000001") -> PriceBook:
    return PriceBook(
        version=1, currency="USD", meters=(Meter(name="requests", unit="r", granularity=granularity),), prices=prices
    )


def amount_of(
    quantity: int | str, book: PriceBook, time: str = "2026-01-31T23:59:59.999999Z", **data: object
) -> Decimal:
    document = valid_document(usage={"requests": quantity}, **data) | {"time": time}
    return price(read_event(orjson.dumps(document)), book).amount


def test_rounding_is_half_to_even_once_at_the_end() -> None:
    half = book_of(UnitPrice(meter="requests", amount="0.0000000001"))
    assert amount_of("0.005", half) == Decimal(0)
    assert amount_of("0.015", half) == Decimal("0.000000000002")
    assert amount_of("0.015000000001", half) == Decimal("0.000000000002")
    assert amount_of("0.025000000001", half) == Decimal("0.000000000003")
    assert amount_of("-0.015", half, corrects={"id": "e", "kind": "replace"}) == Decimal("-0.000000000002")


def test_largest_quantity_times_largest_price_is_exact() -> None:
    book = book_of(UnitPrice(meter="requests", amount="999999999999999999.999999999999"))
    exact = Fraction("999999999999999999.999999999999") * (2**63 - 1)
    assert Fraction(amount_of(2**63 - 1, book)) == exact


def test_quantities_are_billed_in_whole_steps_away_from_zero() -> None:
    book = book_of(UnitPrice(meter="requests", amount="1"), granularity="60")
    assert [amount_of(quantity, book) for quantity in (0, 1, 59, 60, 61, "60.000000000001")] == [
        0,
        60,
        60,
        60,
        120,
        120,
    ]
    assert amount_of(-1, book, corrects={"id": "e", "kind": "replace"}) == -60


def test_effective_dates_are_half_open_at_event_time() -> None:
    until = UnitPrice(meter="requests", amount="1", effective_until="2026-02-01T00:00:00.000Z")
    then = UnitPrice(meter="requests", amount="2", effective_from="2026-02-01T00:00:00.000Z")
    for book in (book_of(until, then), book_of(then, until)):
        assert amount_of(1, book, "2026-01-31T23:59:59.999999999Z") == 1
        assert amount_of(1, book, "2026-02-01T00:00:00.000Z") == 2
    assert price(read_event(orjson.dumps(valid_document(usage={"requests": 1}))), book_of(then)).unpriced == (
        "requests",
    )


def test_the_first_price_that_matches_applies() -> None:
    special = UnitPrice(meter="requests", amount="1", model="gpt-4*")
    general = UnitPrice(meter="requests", amount="2")
    assert amount_of(1, book_of(special, general), model="gpt-4o") == 1
    assert amount_of(1, book_of(general, special), model="gpt-4o") == 2
    assert amount_of(1, book_of(special, general), model="gpt-3") == 2
    assert amount_of(1, book_of(special, general)) == 2


def test_more_combinations_than_are_remembered_cost_time_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterproof_schemas.price_book._MATCHES_MAX", 2)
    book = book_of(UnitPrice(meter="requests", amount="1", model="m*"))
    for number in range(5):
        assert amount_of(1, book, model=f"m{number}") == 1
        assert amount_of(1, book, model=f"n{number}") == 0


BOOK = {
    "version": 1,
    "currency": "USD",
    "meters": [{"name": "requests", "unit": "r"}],
    "prices": [{"meter": "requests", "amount": "1"}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "version"),
        ({"version": 1.0}, "version"),
        ({"currency": "usd"}, "currency"),
        ({"meters": []}, "meters"),
        ({"x": 1}, "x"),
        ({"meters": [{"name": "requests", "unit": "r"}] * 2}, "declared twice"),
        ({"meters": [{"name": "requests", "unit": "r", "granularity": "0.0"}]}, "granularity is 0"),
        ({"prices": [{"meter": "goats", "amount": "1"}]}, "not declared"),
        ({"prices": [{"meter": "requests", "amount": 1}]}, "amount"),
        ({"prices": [{"meter": "requests", "amount": "-1"}]}, "amount"),
        ({"prices": [{"meter": "requests", "amount": "1e3"}]}, "amount"),
        ({"prices": [{"meter": "requests", "amount": "1", "per": "3"}]}, "per"),
        ({"prices": [{"meter": "requests", "amount": "0.0000001", "per": "1000000"}]}, "12 decimal places"),
        (
            {"prices": [{"meter": "requests", "amount": "1", "effective_from": "2026-02-30T00:00:00.000Z"}]},
            "effective_from",
        ),
        ({"prices": [{"meter": "requests", "amount": "1", "effective_from": "2026-02-01"}]}, "effective_from"),
    ],
)
def test_a_faulty_book_is_refused_and_the_fault_named(change: dict[str, object], message: str) -> None:
    assert parse_price_book(orjson.dumps(BOOK)).version == 1
    with pytest.raises(InvalidRegistry, match=message):
        parse_price_book(orjson.dumps(BOOK | change))


def test_a_faulty_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_bytes(orjson.dumps(BOOK))
    assert load_price_book(file) == parse_price_book(orjson.dumps(BOOK))
    file.write_bytes(b"[]")
    with pytest.raises(InvalidRegistry, match=r"prices\.json: price book: not a JSON object"):
        load_price_book(file)


def test_default_meters_are_a_valid_book() -> None:
    book = PriceBook(version=1, currency="USD", meters=DEFAULT_METERS, prices=())
    assert parse_price_book(encode_price_book(book)) == book
    assert "input_tokens" in book.meter_names()
