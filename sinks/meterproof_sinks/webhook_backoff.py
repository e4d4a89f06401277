"""When a message that was not delivered is sent again."""

from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

RETRY_AFTER_MAX_MS: Final = 24 * 3600 * 1000
"""A receiver that asks for more than a day gets a day."""
_DATE_LENGTH_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between the attempts at one message: doubled from the first to the longest, less a random half.

    With the defaults the last of 20 attempts comes after one to two days.
    """

    attempts_max: int = 20
    first_ms: int = 5_000
    longest_ms: int = 6 * 3600 * 1000

    def pause_ms(self, attempts: int, draw: float) -> int:
        """How long to wait after so many failed attempts (from 1).

        Args:
            attempts: how many have failed.
            draw: random, from 0 to below 1: several that failed together do not come back together.

        """
        full_ms = min(self.first_ms << min(attempts - 1, 40), self.longest_ms)
        return full_ms - int(full_ms * draw / 2)


def retry_after_ms(value: str | None, now_ms: int) -> int | None:
    """What `Retry-After` (RFC 9110, section 10.2.3) asks for, from now: seconds or a date; None if nothing readable."""
    if value is None or len(value) > _DATE_LENGTH_MAX:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(int(text) * 1000, RETRY_AFTER_MAX_MS)
    try:
        date = parsedate_to_datetime(text)
        at_ms = int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()) * 1000
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(at_ms - now_ms, 0), RETRY_AFTER_MAX_MS)
