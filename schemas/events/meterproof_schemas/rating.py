"""`price(event, book)`: the one function that turns usage into money, used by budgets, sinks and verifiers alike.

`rate_lines` is the same function over the accepted lines of a log record, which it reads no further than it must.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeVar, cast

import msgspec
from msgspec import Struct

from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.event import Event, RatedView
from meterproof_schemas.fast_event import read_events
from meterproof_schemas.instant import parse_instants_us
from meterproof_schemas.price_book import LAST_PLACE, PriceBook, Rates
from meterproof_schemas.quantity import DECIMAL_PLACES, EXACT, scaled

_HALF: Final = LAST_PLACE // 2


_Line = TypeVar("_Line", bound=RatedView)


@dataclass(frozen=True, slots=True)
class Price:
    """What one event costs: an exact sum over its meters, rounded once, half to even, to 12 decimal places."""

    amount: Decimal
    currency: str
    unpriced: tuple[str, ...]
    """Meters that no price of the book matches: counted, at no charge, and shown."""


def price(event: Event, book: PriceBook) -> Price:
    """Price one event by one book, exactly. Effective dates are judged by event time."""
    data = event.data
    rates = book.rates(data.provider or "", data.model or "", data.operation or "")
    cost, unpriced = _cost_of(data.usage, event.time_us, rates)
    return Price(Decimal(cost).scaleb(-DECIMAL_PLACES, EXACT), book.currency, unpriced)


@dataclass(frozen=True, slots=True)
class RatedLines:
    """What accepted lines cost, in one list per question: each is as long as there are lines."""

    times_us: list[int]
    """Event times, in microseconds since 1970."""
    costs: list[int]
    """In 10^-12; 0 without a price book."""
    unpriced: list[tuple[str, ...]]
    """The meters without a price."""


def rate_lines(lines: bytes, count: int, book: PriceBook | None) -> RatedLines:
    """Price lines that a log has accepted: as `price` does the events of these lines.

    The sequencer has held each line against all rules, so only the fields that count are read.

    Args:
        lines: joined by LF, which may also stand behind the last one.
        count: how many lines these are.
        book: the price book in force.

    Raises:
        InvalidEvent: one of them is no event.
        ValueError: it is another number of lines.

    """
    events, times_us = read_lines(lines, count, _decoder)
    costs, unpriced = rate_events(events, times_us, book)
    return RatedLines(times_us, costs, unpriced)


def read_lines(lines: bytes, count: int, decoder: "msgspec.json.Decoder[_Line]") -> tuple[Sequence[_Line], list[int]]:
    """Accepted lines, read no further than a decoder's type, and their times in microseconds.

    Args:
        lines: joined by LF, which may also stand behind the last one.
        count: how many lines these are.
        decoder: of a struct with `time`, all of whose fields an `Event` has.

    Raises:
        InvalidEvent: one of them is no event.
        ValueError: it is another number of lines.

    """
    try:
        events = decoder.decode_lines(lines)
        times_us = parse_instants_us([event.time for event in events])
    except ValueError:
        events, times_us = cast("tuple[list[_Line], list[int]]", _by_the_rule(lines))
    if len(events) != count:  # an empty line
        events, times_us = cast("tuple[list[_Line], list[int]]", _by_the_rule(lines))
    if len(events) != count:
        message = f"{count} lines were announced, and {len(events)} are there"
        raise ValueError(message)
    return events, times_us


def rate_events(
    events: Sequence[RatedView], times_us: Sequence[int], book: PriceBook | None
) -> tuple[list[int], list[tuple[str, ...]]]:
    """What events cost, in 10^-12, and their meters without a price: see `RatedLines`."""
    if book is None:
        return [0] * len(events), [tuple(event.data.usage) for event in events]
    known: dict[tuple[str | None, str | None, str | None], Rates] = {}
    costs: list[int] = []
    unpriced: list[tuple[str, ...]] = []
    for event, time_us in zip(events, times_us, strict=True):
        data = event.data
        named = (data.provider, data.model, data.operation)
        rates = known.get(named)
        if rates is None:
            rates = known[named] = book.rates(data.provider or "", data.model or "", data.operation or "")
        cost = 0
        missing: tuple[str, ...] = ()
        simple = rates.simple
        for meter, quantity in data.usage.items():
            if type(quantity) is not int or meter not in simple:
                cost, missing = _cost_of(data.usage, time_us, rates)
                break
            cost += quantity * simple[meter]
        costs.append(cost)
        unpriced.append(missing)
    return costs, unpriced


def _cost_of(usage: Mapping[str, int | str], time_us: int, rates: Rates) -> tuple[int, tuple[str, ...]]:
    """The sum in 10^-12, and the meters without a price."""
    total = 0  # in 10^-33, so exact
    unpriced: tuple[str, ...] = ()
    for meter, quantity in usage.items():
        for rate in rates.by_meter.get(meter, ()):
            if rate.from_us <= time_us < rate.until_us:
                if rate.whole_price and type(quantity) is int:
                    total += quantity * rate.whole_price
                else:
                    total += _billed(quantity, rate.granularity) * rate.unit_price
                break
        else:
            unpriced += (meter,)
    cost, rest = divmod(total, LAST_PLACE)
    # The rest is never negative: half to even goes up, or stays.
    if rest > _HALF or (rest == _HALF and cost & 1):
        cost += 1
    return cost, unpriced


def _billed(quantity: int | str, granularity: int) -> int:
    """A quantity in 10^-12, in whole steps away from zero."""
    billed = scaled(quantity)
    rest = billed % granularity
    if not rest:
        return billed
    return billed - rest if billed < 0 else billed - rest + granularity


class _RatedData(Struct, frozen=True, gc=False):
    usage: dict[str, int | str]
    provider: str | None = None
    model: str | None = None
    operation: str | None = None


class _Rated(Struct, frozen=True, gc=False):
    """What of an event its price depends on."""

    time: str
    data: _RatedData


_decoder: Final = msgspec.json.Decoder(_Rated)


def _by_the_rule(lines: bytes) -> tuple[list[Event], list[int]]:
    events = []
    for event in read_events(lines.removesuffix(b"\n").split(b"\n")):
        if isinstance(event, InvalidEvent):
            raise event
        events.append(event)
    return events, [event.time_us for event in events]
