"""Give up single events, or minutes, after their time. Hours and days, the audit folder and every proof stay."""

from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final

from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.rollups import Rollups

RAW_DAYS_MIN: Final = 62
"""Events are kept at least that long: a month is given up whole, and late events must have come in."""


class NotRolledUp(ClickHouseError):
    """The roll-ups do not hold what would be given up."""


@dataclass(slots=True)
class Retired:
    """What was given up."""

    months: list[int] = field(default_factory=list)
    """Of single events, as YYYYMM."""
    events: int = 0
    """Single events in them."""
    minute_days: list[date] = field(default_factory=list)
    """Days of the roll-up by minute."""


def retire(clickhouse: ClickHouse, today: date, *, raw_days: int | None, minute_days: int | None) -> Retired:
    """Give up what is older; None keeps it for ever. Repeating it after a crash finishes what is left.

    Per month of single events:

    1. bring the roll-ups up to date; stop unless events and spend of the month are in them, by day
    2. note in `usage_retired`, per log, what the month held, so that logs stay dense
    3. drop the month

    Raises:
        NotRolledUp: the roll-ups and the events differ; `meterproof reconcile` says where.
        ClickHouseError: the database refused.
        ValueError: fewer days than `RAW_DAYS_MIN`.
    """
    retired = Retired()
    if raw_days is not None:
        if raw_days < RAW_DAYS_MIN:
            message = f"events are kept {RAW_DAYS_MIN} days at least, not {raw_days}"
            raise ValueError(message)
        Rollups(clickhouse).refresh()
        before = today - timedelta(days=raw_days)
        for (month,) in clickhouse.rows(
            "SELECT DISTINCT toUInt32(partition) FROM system.parts WHERE active AND database = currentDatabase() "
            "AND table = 'usage_rows' AND toUInt32(partition) < {month:UInt32} ORDER BY 1",
            {"month": before.year * 100 + before.month},
        ):
            retired.events += _retire_month(clickhouse, month)
            retired.months.append(month)
    if minute_days is not None:
        for (day,) in clickhouse.rows(
            "SELECT DISTINCT toDate(start) AS day FROM usage_minutes WHERE day < {day:Date} ORDER BY day",
            {"day": today - timedelta(days=minute_days)},
        ):
            clickhouse.command(f"ALTER TABLE usage_minutes DROP PARTITION '{day.isoformat()}'")
            retired.minute_days.append(day)
    return retired


def _retire_month(clickhouse: ClickHouse, month: int) -> int:
    given = {"month": month}
    if different := clickhouse.rows(_DIFFERENT, given):  # 1
        raise NotRolledUp(
            f"the roll-up by day and the events differ on {len(different)} days of {month}, first {different[0][0]}; "
            "nothing of it was given up. Run `meterproof reconcile --repair`"
        )
    clickhouse.command(_NOTE, given)  # 2
    ((events,),) = clickhouse.rows("SELECT sum(events) FROM usage_retired FINAL WHERE month = {month:UInt32}", given)
    clickhouse.command(f"ALTER TABLE usage_rows DROP PARTITION {month}")  # 3
    return int(events)


_DIFFERENT: Final = """
SELECT day FROM (
  SELECT toDate(event_time) AS day, toInt64(count()) AS held, sum(cost) AS spent FROM usage_final
  WHERE toYYYYMM(event_time) = {month:UInt32} GROUP BY day
  UNION ALL
  SELECT toDate(start), -toInt64(sum(events)), -sum(cost) FROM usage_by_day
  WHERE toYYYYMM(start) = {month:UInt32} GROUP BY toDate(start)
) GROUP BY day HAVING sum(held) != 0 OR sum(spent) != 0 ORDER BY day
"""
_NOTE: Final = """
INSERT INTO usage_retired (log, month, events, last_position, position_sum, cost)
SELECT log, {month:UInt32}, count(), max(position), sum(position), sum(cost) FROM usage_final
WHERE toYYYYMM(event_time) = {month:UInt32} GROUP BY log
"""
