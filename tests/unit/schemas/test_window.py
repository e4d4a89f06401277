"""Windows cover all of time once: every instant lies in exactly one, in every zone."""

from datetime import UTC, datetime, timedelta
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_schemas.instant import format_instant_us, parse_instant_us
from meterproof_schemas.window import WindowKind, window_end_us, window_start_us

ZONES = [
    ZoneInfo(name)
    for name in (
        *("UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/Havana", "Asia/Kolkata"),
        *("Australia/Lord_Howe", "Pacific/Apia", "Asia/Gaza", "Africa/Cairo", "Asia/Beirut", "Atlantic/Azores"),
    )
]
KINDS: tuple[WindowKind, ...] = get_args(WindowKind)
HOUR_US = 3_600_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS = st.datetimes(min_value=datetime(1975, 1, 1), max_value=datetime(2037, 1, 1))  # noqa: DTZ001 - read as UTC


def us(moment: datetime) -> int:
    return (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


@settings(max_examples=400)
@given(MOMENTS, st.sampled_from(KINDS), st.sampled_from(ZONES))
def test_every_instant_lies_in_one_window_and_windows_touch(moment: datetime, kind: WindowKind, zone: ZoneInfo) -> None:
    instant_us = us(moment)
    start_us = window_start_us(instant_us, kind, zone)
    end_us = window_end_us(start_us, kind, zone)
    assert start_us <= instant_us < end_us
    assert window_start_us(start_us, kind, zone) == start_us
    assert window_start_us(end_us - 1, kind, zone) == start_us
    assert window_start_us(end_us, kind, zone) == end_us


@settings(max_examples=200)
@given(MOMENTS, st.sampled_from(ZONES))
def test_a_day_is_one_local_date_and_a_month_one_local_month(moment: datetime, zone: ZoneInfo) -> None:
    instant_us = us(moment)

    def local(at_us: int) -> datetime:
        return (EPOCH + timedelta(microseconds=at_us)).astimezone(zone)

    day = window_start_us(instant_us, "day", zone)
    assert local(day).date() == local(instant_us).date()
    assert local(window_end_us(day, "day", zone)).date() > local(instant_us).date()
    month = window_start_us(instant_us, "month", zone)
    assert (local(month).year, local(month).month) == (local(instant_us).year, local(instant_us).month)


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_days_follow_one_another_over_every_change_of_clocks(zone: ZoneInfo) -> None:
    start_us = window_start_us(us(datetime(2005, 1, 1)), "day", zone)  # noqa: DTZ001 - read as UTC
    last_us = us(datetime(2026, 1, 1))  # noqa: DTZ001 - read as UTC
    while start_us < last_us:
        end_us = window_end_us(start_us, "day", zone)
        assert 22 * HOUR_US <= end_us - start_us <= 26 * HOUR_US
        assert window_start_us(end_us - 1, "day", zone) == start_us
        assert window_start_us(end_us, "day", zone) == end_us
        start_us = end_us


@pytest.mark.parametrize(
    ("instant", "kind", "zone", "start", "end"),
    [
        ("2026-01-31T23:59:59.999999Z", "minute", "UTC", "2026-01-31T23:59:00.000000Z", "2026-02-01T00:00:00.000000Z"),
        ("2026-01-31T23:59:59.999999Z", "month", "UTC", "2026-01-01T00:00:00.000000Z", "2026-02-01T00:00:00.000000Z"),
        ("2026-12-31T23:59:59.999999Z", "month", "UTC", "2026-12-01T00:00:00.000000Z", "2027-01-01T00:00:00.000000Z"),
        (
            "2026-12-31T23:30:00.000000Z",
            "day",
            "Europe/Berlin",
            "2026-12-31T23:00:00.000000Z",
            "2027-01-01T23:00:00.000000Z",
        ),
        # 23 and 25 hours where the clocks change.
        (
            "2026-03-29T12:00:00.000000Z",
            "day",
            "Europe/Berlin",
            "2026-03-28T23:00:00.000000Z",
            "2026-03-29T22:00:00.000000Z",
        ),
        (
            "2026-10-25T12:00:00.000000Z",
            "day",
            "Europe/Berlin",
            "2026-10-24T22:00:00.000000Z",
            "2026-10-25T23:00:00.000000Z",
        ),
        # Midnight did not exist: the day began at 01:00.
        (
            "2018-11-04T12:00:00.000000Z",
            "day",
            "America/Sao_Paulo",
            "2018-11-04T03:00:00.000000Z",
            "2018-11-05T02:00:00.000000Z",
        ),
        # Midnight came twice: the day began with the first.
        (
            "2026-11-01T12:00:00.000000Z",
            "day",
            "America/Havana",
            "2026-11-01T04:00:00.000000Z",
            "2026-11-02T05:00:00.000000Z",
        ),
        (
            "2026-01-01T00:29:00.000000Z",
            "hour",
            "Asia/Kolkata",
            "2026-01-01T00:00:00.000000Z",
            "2026-01-01T01:00:00.000000Z",
        ),
        ("1969-12-31T23:59:59.999999Z", "hour", "UTC", "1969-12-31T23:00:00.000000Z", "1970-01-01T00:00:00.000000Z"),
    ],
)
def test_known_windows(instant: str, kind: WindowKind, zone: str, start: str, end: str) -> None:
    start_us = window_start_us(parse_instant_us(instant), kind, ZoneInfo(zone))
    assert format_instant_us(start_us) == start
    assert format_instant_us(window_end_us(start_us, kind, ZoneInfo(zone))) == end
