"""`count_lines`: what `counted` says of the accepted lines of a log record, in whole numbers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import Struct

from meterproof_schemas.correction import counted
from meterproof_schemas.effect import Effect
from meterproof_schemas.event import WhoView, parse_event
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import scaled, scaled_decimal
from meterproof_schemas.rating import rate_events, read_lines


@dataclass(frozen=True, slots=True)
class CountedLines:
    """What accepted lines count for, in one list per question: each is as long as there are lines."""

    who: Sequence[WhoView]
    """Whom each counts for."""
    times_us: list[int]
    """Event times, in microseconds since 1970."""
    events: list[int]
    """1; of a correction -1, or 0."""
    spends: list[int]
    """In 10^-12; 0 without a price book."""
    usages: list[Mapping[str, int]]
    """By meter, in 10^-12, of the meters that were asked for; no list at all where none was."""


def count_lines(
    lines: Sequence[bytes],
    first: int,
    effects: Mapping[int, Effect],
    book: PriceBook | None,
    meters: Collection[str] = (),
) -> CountedLines:
    """Take lines that a log has accepted for what they count for: as `counted` does each of their events.

    The sequencer has held each line against all rules, so only the fields that count are read.

    Args:
        lines: each without LF.
        first: position of the first one.
        effects: what accepted corrections do, by position.
        book: the price book in force.
        meters: those of which quantities are wanted.

    Raises:
        InvalidEvent: one of the lines is no event, or a correction with an effect carries none.

    """
    read, times_us = read_lines(b"\n".join(lines), len(lines), _decoder)
    spends, _ = rate_events(read, times_us, book)
    events = [1] * len(lines)
    usages: list[Mapping[str, int]] = []
    if meters:
        for event in read:
            usage = event.data.usage
            usages.append({meter: scaled(quantity) for meter, quantity in usage.items() if meter in meters})
    for position, effect in effects.items():
        number = position - first
        if not 0 <= number < len(lines):
            continue
        does = counted(parse_event(lines[number]), effect, book)
        events[number], spends[number] = does.events, scaled_decimal(does.spend)
        if meters:
            usages[number] = {
                meter: scaled_decimal(quantity) for meter, quantity in does.usage.items() if meter in meters
            }
    return CountedLines(read, times_us, events, spends, usages)


class _Data(Struct, frozen=True, gc=False):
    customer: str
    usage: dict[str, int | str]
    provider: str | None = None
    model: str | None = None
    operation: str | None = None
    session: str | None = None
    user: str | None = None
    tags: dict[str, str] | None = None


class _Line(Struct, frozen=True, gc=False):
    """What of an event its price and its budgets depend on."""

    source: str
    time: str
    subject: str
    data: _Data


_decoder: Final = msgspec.json.Decoder(_Line)
