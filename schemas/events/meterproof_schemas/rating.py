"""`price(event, book)`: the one function that turns usage into money, used by budgets, sinks and verifiers alike."""

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_UP, Decimal
from typing import Final

from meterproof_schemas.event import Event
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import DECIMAL_PLACES, EXACT, ROUNDED, decimal_of

_PLACES: Final = Decimal(1).scaleb(-DECIMAL_PLACES)


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
    time_us = event.time_us
    amount = Decimal(0)
    unpriced = []
    for meter, quantity in data.usage.items():
        for rate in rates.get(meter, ()):
            if rate.from_us <= time_us < rate.until_us:
                billed = decimal_of(quantity)
                if not (rate.whole and type(quantity) is int) and EXACT.remainder(billed, rate.granularity):
                    steps = ROUNDED.divide(billed, rate.granularity).to_integral_value(ROUND_UP)
                    billed = EXACT.multiply(steps, rate.granularity)
                amount = EXACT.add(amount, EXACT.multiply(billed, rate.unit_price))
                break
        else:
            unpriced.append(meter)
    return Price(amount.quantize(_PLACES, ROUND_HALF_EVEN, ROUNDED), book.currency, tuple(unpriced))
