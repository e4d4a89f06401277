"""What a unit of each meter costs: versioned, effective-dated, exact. It also declares the meters.

```json
{"version": 1, "currency": "USD",
 "meters": [{"name": "input_tokens", "unit": "token"}],
 "prices": [{"meter": "input_tokens", "model": "gpt-*", "amount": "2.50", "per": "1000000"}]}
```
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from meterproof_schemas.errors import InvalidRegistry, first_fault
from meterproof_schemas.event import MeterName, Name
from meterproof_schemas.instant import Instant, parse_instant_us
from meterproof_schemas.keys import matches
from meterproof_schemas.quantity import DECIMAL_PATTERN, DECIMAL_PLACES, EXACT, SCALE, scaled
from meterproof_schemas.strict_json import NotStrictJson, parse_object

_CLOSED: Final = ConfigDict(extra="forbid", frozen=True, strict=True)
Amount = Annotated[str, StringConstraints(strict=True, pattern=DECIMAL_PATTERN.replace("-?", ""))]
PowerOfTen = Annotated[str, StringConstraints(strict=True, pattern=r"^10{0,9}$")]
Currency = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Z]{3}$")]


class Meter(BaseModel):
    """A declared meter: what `data.usage` may name."""

    model_config = _CLOSED
    name: MeterName
    unit: Name
    granularity: Amount = "0.000000000001"
    """The smallest billed step in the meter's unit: a quantity is rounded away from zero to a whole number of steps."""


class UnitPrice(BaseModel):
    """The price of one meter, for the events that it matches. The first price of a book that matches applies."""

    model_config = _CLOSED
    meter: MeterName
    provider: Name = "*"
    model: Name = "*"
    operation: Name = "*"
    effective_from: Instant | None = None
    """First event time at which it applies; null is always."""
    effective_until: Instant | None = None
    """First event time at which it no longer applies; null is never."""
    amount: Amount
    per: PowerOfTen = "1"
    """How many units the amount buys: a power of ten, so that one unit's price is exact."""

    @property
    def unit_price(self) -> Decimal:
        """Price of one unit, exact."""
        return Decimal(self.amount).scaleb(-(len(self.per) - 1), EXACT)


@dataclass(frozen=True, slots=True)
class Rate:
    """A unit price made ready for arithmetic in whole numbers."""

    from_us: int
    until_us: int
    unit_price: int
    """In 10^-21 (`UNIT_PRICE_PLACES`)."""
    granularity: int
    """In 10^-12."""
    whole_price: int
    """Price of one unit in 10^-33, where each whole quantity is a whole number of steps; 0 where it must be rounded."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What events of one provider, model and operation pay."""

    by_meter: Mapping[str, tuple[Rate, ...]]
    """In the book's order; the first one effective at event time applies."""
    simple: dict[str, int]
    """Price of one unit in 10^-12, of the meters where each whole quantity costs so many times that, at any time."""


UNIT_PRICE_PLACES: Final = DECIMAL_PLACES + 9
"""Digits after the point that an amount has, and those that dividing it by what it buys adds."""
LAST_PLACE: Final = 10**UNIT_PRICE_PLACES
"""What a quantity in 10^-12 times a unit price in 10^-21 has below 10^-12."""
_ALWAYS_US: Final = 2**63
_MATCHES_MAX: Final = 10_000
"""Combinations of provider, model and operation that a book remembers: above it, it looks them up again."""


class PriceBook(BaseModel):
    """One version of prices and meters. Immutable once published: a change is a new version."""

    model_config = _CLOSED
    version: Annotated[int, Field(ge=1, le=2**31 - 1)]
    currency: Currency
    meters: Annotated[tuple[Meter, ...], Field(min_length=1, strict=False)]
    prices: Annotated[tuple[UnitPrice, ...], Field(strict=False)]

    @cached_property
    def _rates(self) -> dict[tuple[str, str, str], Rates]:
        """What `rates` remembers; looked up at each event, where a private attribute of the library costs its price."""
        return {}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> "PriceBook":
        """A copy with other fields, which remembers nothing of this book's rates."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("_rates", None)
        return copied

    def rates(self, provider: str, model: str, operation: str) -> Rates:
        """By meter, the rates that match."""
        key = (provider, model, operation)
        rates = self._rates.get(key)
        if rates is None:
            by_meter = {
                meter.name: tuple(
                    _rate(price, meter)
                    for price in self.prices
                    if price.meter == meter.name
                    and matches((price.provider,), provider)
                    and matches((price.model,), model)
                    and matches((price.operation,), operation)
                )
                for meter in self.meters
            }
            simple = {meter: found[0].whole_price // LAST_PLACE for meter, found in by_meter.items() if _simple(found)}
            rates = Rates(by_meter, simple)
            if len(self._rates) < _MATCHES_MAX:
                self._rates[key] = rates
        return rates

    def meter_names(self) -> frozenset[str]:
        """The meters that an event may use."""
        return frozenset(meter.name for meter in self.meters)


def _simple(rates: tuple[Rate, ...]) -> bool:
    if not rates:
        return False
    first = rates[0]
    always = (first.from_us, first.until_us) == (-_ALWAYS_US, _ALWAYS_US)
    return always and first.whole_price > 0 and first.whole_price % LAST_PLACE == 0


def _rate(price: UnitPrice, meter: Meter) -> Rate:
    unit_price = int(price.unit_price.scaleb(UNIT_PRICE_PLACES, EXACT))
    granularity = scaled(meter.granularity)
    return Rate(
        -_ALWAYS_US if price.effective_from is None else parse_instant_us(price.effective_from),
        _ALWAYS_US if price.effective_until is None else parse_instant_us(price.effective_until),
        unit_price,
        granularity,
        0 if SCALE % granularity else unit_price * SCALE,
    )


def load_price_book(path: Path) -> PriceBook:
    """Read and parse a price book file.

    Raises:
        InvalidRegistry: naming the file, the entry and the fault.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    try:
        return parse_price_book(content)
    except InvalidRegistry as error:
        message = f"{path}: {error}"
        raise InvalidRegistry(message) from None


def parse_price_book(content: bytes) -> PriceBook:
    """Parse a price book file or topic record.

    Raises:
        InvalidRegistry: naming the entry and the fault.
    """
    try:
        book = PriceBook.model_validate(parse_object(content, one_line=False))
    except NotStrictJson as error:
        message = f"price book: {error}"
        raise InvalidRegistry(message) from None
    except ValidationError as error:
        message = f"price book: {first_fault(error)}"
        raise InvalidRegistry(message) from None
    names = [meter.name for meter in book.meters]
    if len(set(names)) != len(names):
        message = "price book: a meter is declared twice"
        raise InvalidRegistry(message)
    for meter in book.meters:
        if not Decimal(meter.granularity):
            message = f"price book: meter {meter.name}: granularity is 0"
            raise InvalidRegistry(message)
    for number, price in enumerate(book.prices):
        if price.meter not in names:
            message = f"price book: prices.{number}: meter {price.meter!r} is not declared"
            raise InvalidRegistry(message)
        if -int(price.unit_price.as_tuple().exponent) > DECIMAL_PLACES:
            message = f"price book: prices.{number}: one unit's price has more than {DECIMAL_PLACES} decimal places"
            raise InvalidRegistry(message)
    return book


def encode_price_book(book: PriceBook) -> bytes:
    """The book as one line of JSON: the value of its record on `usage.price-books`."""
    return orjson.dumps(book.model_dump(exclude_none=True))


DEFAULT_METERS: Final = (
    Meter(name="requests", unit="request", granularity="1"),
    Meter(name="bytes", unit="byte", granularity="1"),
    Meter(name="seconds", unit="second"),
    Meter(name="input_tokens", unit="token", granularity="1"),
    Meter(name="cache_read_tokens", unit="token", granularity="1"),
    Meter(name="cache_write_tokens", unit="token", granularity="1"),
    Meter(name="output_tokens", unit="token", granularity="1"),
    Meter(name="reasoning_tokens", unit="token", granularity="1"),
)
"""Token classes do not overlap: input without cached, output without reasoning; adapters convert what providers say."""
