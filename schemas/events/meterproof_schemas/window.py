"""Event-time windows: minute, hour, day, month, in UTC or a named zone (pure)."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

WindowKind = Literal["minute", "hour", "day", "month"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIXED_US = {"minute": 60_000_000, "hour": 3_600_000_000}


def window_start_us(time_us: int, kind: WindowKind, zone: ZoneInfo) -> int:
    """Start of the window that holds an event time, in microseconds since 1970 UTC.

    Minutes and hours are cut in UTC (zones in use are offset by whole minutes, and an hour stays an hour when clocks
    change); days and months begin at local midnight of the zone.
    """
    fixed_us = _FIXED_US.get(kind)
    if fixed_us is not None:
        return time_us - time_us % fixed_us
    return _local_start_us(time_us // _FIXED_US["minute"], kind, zone)


@lru_cache(maxsize=65536)
def _local_start_us(minute: int, kind: WindowKind, zone: ZoneInfo) -> int:
    """Start of the day or month that holds a minute: midnights of all zones lie on whole minutes since 1972."""
    local = (_EPOCH + timedelta(minutes=minute)).astimezone(zone)
    start = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if kind == "month":
        start = start.replace(day=1)
    return (start.astimezone(UTC) - _EPOCH) // _MICROSECOND


def window_end_us(start_us: int, kind: WindowKind, zone: ZoneInfo) -> int:
    """First instant after the window that begins at `start_us`."""
    fixed_us = _FIXED_US.get(kind)
    if fixed_us is not None:
        return start_us + fixed_us
    local = (_EPOCH + timedelta(microseconds=start_us)).astimezone(zone)
    if kind == "day":
        later = local + timedelta(days=1)
    else:
        later = local.replace(year=local.year + local.month // 12, month=local.month % 12 + 1)
    later = later.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return (later.astimezone(UTC) - _EPOCH) // _MICROSECOND
