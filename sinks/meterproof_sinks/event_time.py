"""Hours, days and months of event time, all UTC, as tables name them."""

from datetime import UTC, date, datetime, timedelta
from typing import Final

_HOUR_US: Final = 3_600_000_000
_HOUR: Final = timedelta(hours=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def hour_of(time_us: int) -> int:
    """The number since 1970 of the hour of a moment in microseconds since then."""
    return time_us // _HOUR_US


def start_of(hour: int) -> datetime:
    """When an hour, by its number since 1970, begins."""
    return _EPOCH + hour * _HOUR


def day_of(hour: int) -> date:
    """The day of an hour, by its number since 1970."""
    return start_of(hour).date()


def month_of(day: date) -> int:
    """The month of a day, as 202611."""
    return day.year * 100 + day.month
