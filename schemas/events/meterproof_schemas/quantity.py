"""Quantities and money: integers and decimals, never floats, never exponents."""

from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from typing import Annotated, Final

from pydantic import Field, StringConstraints

INTEGER_MAX: Final = 2**63 - 1
DECIMAL_PATTERN: Final = r"^-?[0-9]{1,18}(\.[0-9]{1,12})?$"
DECIMAL_PLACES: Final = 12
"""Digits after the point that a quantity and an amount can have."""

SCALE: Final = 10**DECIMAL_PLACES
"""How many of the last places make one."""

Quantity = (
    Annotated[int, Field(strict=True, ge=-INTEGER_MAX, le=INTEGER_MAX)]
    | Annotated[str, StringConstraints(strict=True, pattern=DECIMAL_PATTERN)]
)
"""An integer within ±(2^63-1), or a string of at most 18 digits, a point and at most 12 digits."""

EXACT: Final = Context(prec=120, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])
"""Products and sums of quantities and prices fit; a result that would not is an error, not a rounding."""

ROUNDED: Final = Context(prec=120)
"""For the one rounding that a rule states."""


def decimal_of(quantity: int | str) -> Decimal:
    """The exact value of a validated quantity."""
    return Decimal(quantity)


def scaled(value: int | str) -> int:
    """The exact value of a validated quantity or amount as a whole number of 10^-12: what one of its last places is."""
    if type(value) is int:
        return value * SCALE
    whole, _, places = value.partition(".")  # type: ignore[union-attr]  # the other type is a string
    return int(whole + places.ljust(DECIMAL_PLACES, "0"))


def scaled_decimal(value: Decimal) -> int:
    """An exact decimal as a whole number of 10^-12.

    Raises:
        decimal.Inexact: it has digits below that.
    """
    return int(value.scaleb(DECIMAL_PLACES, EXACT).to_integral_exact(context=EXACT))


def plain_scaled(value: int) -> str:
    """A whole number of 10^-12 as `plain` writes that decimal."""
    whole, places = divmod(abs(value), SCALE)
    text = f"{whole}.{places:012}".rstrip("0") if places else str(whole)
    return f"-{text}" if value < 0 else text


def plain(value: Decimal) -> str:
    """An exact decimal in plain notation without trailing zeros: `0`, `12`, `0.0000025`."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text
