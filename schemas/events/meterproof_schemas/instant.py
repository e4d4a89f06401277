"""Instants of the contract: RFC 3339 in UTC on the wire, whole microseconds since 1970 inside."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final

from pydantic import AfterValidator, StringConstraints

TIME_PATTERN: Final = (
    r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{3,9}Z$"
)
"""All that a pattern can say: which days a month has is left to the calendar. No leap second, no 24:00."""

_SECOND: Final = re.compile(TIME_PATTERN[1 : TIME_PATTERN.index(r"\.")])
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SECONDS_LENGTH: Final = len("2026-01-01T00:00:00")
_THOUSANDS: Final = {f"{number:03}": number * 1_000 for number in range(1_000)}
_THOUSANDS_BEFORE_Z: Final = {f"{number:03}Z": number * 1_000 for number in range(1_000)}
_ONES_BEFORE_Z: Final = {f"{number:03}Z": number for number in range(1_000)}
_POINT_AND_THOUSANDS: Final = {f".{text}": us for text, us in _THOUSANDS.items()}
_POINT_AND_THOUSANDS_BEFORE_Z: Final = {f".{text}": us for text, us in _THOUSANDS_BEFORE_Z.items()}
_MICROSECONDS_LENGTH: Final = len("2026-01-01T00:00:00.000000Z")
_seconds_us: Final[dict[str, int]] = {}
"""Seconds that were read before: events of one batch share most of theirs."""
_SECONDS_MAX: Final = 4096


@lru_cache(maxsize=4096)
def _second_us(text: str) -> int:
    if _SECOND.fullmatch(text) is None:
        message = f"{text!r} is not a date and time like 2026-01-31T23:59:59"
        raise ValueError(message)
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


def parse_instant_us(text: str) -> int:
    """Microseconds since 1970-01-01 UTC of `YYYY-MM-DDTHH:MM:SS.fffZ` (3 to 9 fraction digits, cut below microseconds).

    Raises:
        ValueError: another spelling, another zone than `Z`, or a date that does not exist.
    """
    # Milliseconds and microseconds, as nearly everybody writes, are looked up: half the price of reading digits.
    thousands = _THOUSANDS_BEFORE_Z.get(text[_SECONDS_LENGTH + 1 :])
    if thousands is not None and text[_SECONDS_LENGTH] == ".":
        return _second_us(text[:_SECONDS_LENGTH]) + thousands
    ones = _ONES_BEFORE_Z.get(text[_SECONDS_LENGTH + 4 :])
    if ones is not None and text[_SECONDS_LENGTH] == ".":
        thousands = _THOUSANDS.get(text[_SECONDS_LENGTH + 1 : _SECONDS_LENGTH + 4])
        if thousands is not None:
            return _second_us(text[:_SECONDS_LENGTH]) + thousands + ones
    fraction = text[_SECONDS_LENGTH + 1 : -1]
    digits = len(fraction)
    if not (
        3 <= digits <= 9 and text[_SECONDS_LENGTH] == "." and text[-1] == "Z" and fraction.isdigit() and text.isascii()
    ):
        message = f"{text[:40]!r} is not RFC 3339 in UTC with milliseconds or finer, like 2026-01-31T23:59:59.000Z"
        raise ValueError(message)
    return _second_us(text[:_SECONDS_LENGTH]) + int(fraction[:6].ljust(6, "0"))


def parse_instants_us(texts: Sequence[str]) -> list[int]:
    """`parse_instant_us` of each text, at a third of its price for texts that are all spelled alike.

    Raises:
        ValueError: `parse_instant_us` raises it for one of them.
    """
    try:
        return _alike_us(texts)
    except KeyError:
        pass
    try:
        _remember_seconds({text[:_SECONDS_LENGTH] for text in texts})
        return _alike_us(texts)
    except KeyError:
        return [parse_instant_us(text) for text in texts]


def _alike_us(texts: Sequence[str]) -> list[int]:
    """Instants that all have milliseconds, or all have microseconds, in seconds that are known; else `KeyError`."""
    seconds = _seconds_us
    if texts and len(texts[0]) == _MICROSECONDS_LENGTH:
        thousands, ones = _POINT_AND_THOUSANDS, _ONES_BEFORE_Z
        return [seconds[text[:19]] + thousands[text[19:23]] + ones[text[23:]] for text in texts]
    thousands = _POINT_AND_THOUSANDS_BEFORE_Z
    return [seconds[text[:19]] + thousands[text[19:]] for text in texts]


def _remember_seconds(texts: Iterable[str]) -> None:
    found = {text: _second_us(text) for text in texts}
    if len(_seconds_us) + len(found) > _SECONDS_MAX:
        _seconds_us.clear()
    _seconds_us.update(found)


def _existing(text: str) -> str:
    parse_instant_us(text)
    return text


Instant = Annotated[str, StringConstraints(strict=True, pattern=TIME_PATTERN), AfterValidator(_existing)]
"""An instant in a model: its text, checked against pattern and calendar."""


def format_instant_us(instant_us: int) -> str:
    """The instant as RFC 3339 in UTC with six fraction digits.

    Raises:
        OverflowError: it is outside the years 1 to 9999.
    """
    return (_EPOCH + timedelta(microseconds=instant_us)).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def format_instant_ms(instant_ms: int) -> str:
    """The instant as RFC 3339 in UTC with three fraction digits."""
    return format_instant_us(instant_ms * 1000)[:-4] + "Z"
