"""Event lines that need no special look, column by column: natively where that could be built, else in Python.

What it does stands in `python_plain_lines`, which is its definition. `_plain_lines.c` takes lines in the commonest
spelling alone (compact, no unknown field, no null) and costs a quarter of it; all others are left to the definition. It
is there if a C compiler was when this package was installed.
"""

from collections.abc import Callable
from typing import Final

from meterproof_schemas import python_plain_lines
from meterproof_schemas.python_plain_lines import PlainLines, speaker_of

PricesOf = Callable[[str, str, str], dict[str, int]]
"""By provider, model and operation, each empty where an event has none: the price of a unit of each meter in 10^-12."""

try:
    from meterproof_schemas import _plain_lines
except ImportError:
    read_plain_lines = python_plain_lines.read_plain_lines
    _prices_natively = False
else:
    _prices_natively = hasattr(_plain_lines, "price_plain_lines")

    def read_plain_lines(text: bytes, start: int, /) -> PlainLines | None:
        """As in `python_plain_lines`."""
        found = _plain_lines.read_plain_lines(text, start)
        return python_plain_lines.read_plain_lines(text, start) if found is None else PlainLines._make(found)


PRICES_NATIVELY: Final = _prices_natively
"""Whether `price_plain_lines` ever does anything: it needs a compiler that knows integers of 128 bits."""


def price_plain_lines(text: bytes, start: int, count: int, prices_of: PricesOf, /) -> tuple[bytes, bytes] | None:
    """When so many events happened and what they cost: the sums of whole quantities, each times a price.

    Args:
        text: ends with these lines, joined by LF, which may also stand behind the last one.
        start: where they begin.
        count: how many there are.
        prices_of: the prices that apply; a meter that is not among them needs a closer look.

    Returns:
        Microseconds since 1970 in 8 bytes each, and 10^-12 in 16 bytes each, little-endian and signed; no cost has more
        than 38 digits. None says nothing about any line: one of them is spelled in another way, or takes more than
        that, or the native part is not there.

    """
    return _plain_lines.price_plain_lines(text, start, count, prices_of) if PRICES_NATIVELY else None


__all__ = ["PRICES_NATIVELY", "PlainLines", "PricesOf", "price_plain_lines", "read_plain_lines", "speaker_of"]
