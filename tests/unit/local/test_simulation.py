"""The demo's clock."""

from datetime import UTC, datetime

from meterproof_local.simulation import of_one_day


def test_a_demo_over_midnight_is_of_one_day() -> None:
    times = [datetime(2026, 12, 31, 23, 59, second, tzinfo=UTC) for second in (57, 58, 59)]
    after = [datetime(2027, 1, 1, 0, 0, second, tzinfo=UTC) for second in (0, 30)]
    told = iter([*times, *after])
    clock = of_one_day(lambda: next(told))
    assert [clock() for _ in range(4)] == [*times[1:], *[datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)] * 2]
