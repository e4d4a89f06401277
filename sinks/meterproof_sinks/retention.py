"""Give up single events, or minutes, after their time. Hours and days, the audit folder and every proof stay.

A legal hold keeps each month, and each day of minutes, that has a row which it covers. There is one list of holds for
both stores, `legal_holds`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final

from meterproof_sinks.begun_before import wait_for_inserts
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.event_time import month_of
from meterproof_sinks.legal_holds import Hold
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
    held: dict[str, str] = field(default_factory=dict)
    """What is old enough and was kept, as YYYYMM or YYYY-MM-DD: the hold that forbids it."""


def retire(
    clickhouse: ClickHouse,
    today: date,
    *,
    raw_days: int | None,
    minute_days: int | None,
    holds: Sequence[Hold] = (),
) -> Retired:
    """Give up what is older; None keeps it for ever. Repeating it after a crash finishes what is left.

    Per month of single events:

    1. leave it whole if a hold covers a row of it
    2. bring the roll-ups up to date; stop unless events and spend of the month are in them, by day
    3. note in `usage_retired`, per log, what the month held, so that logs stay dense
    4. drop the month, and its days of groups: from the note on no query reads them

    A day of minutes goes unless a hold covers a row of it.

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
            {"month": month_of(before)},
        ):
            of_month = "usage_final WHERE toYYYYMM(event_time) = {month:UInt32}"
            if (hold := _hold_of(clickhouse, holds, of_month, {"month": month})) is not None:  # 1
                # A run that was cut off between 3 and 4, before there was the hold, has noted it.
                clickhouse.command(
                    "ALTER TABLE usage_retired DELETE WHERE month = {month:UInt32} SETTINGS mutations_sync = 2",
                    {"month": month},
                )
                retired.held[str(month)] = str(hold)
                continue
            retired.events += _retire_month(clickhouse, month)
            retired.months.append(month)
        for (day,) in clickhouse.rows(_LEFT_GROUPS):  # also those that a run which was cut off has left
            clickhouse.command(f"ALTER TABLE usage_groups DROP PARTITION '{day.isoformat()}'")
    if minute_days is not None:
        for (day,) in clickhouse.rows(
            "SELECT DISTINCT toDate(start) AS day FROM usage_minutes WHERE day < {day:Date} ORDER BY day",
            {"day": today - timedelta(days=minute_days)},
        ):
            of_day = "usage_minutes WHERE toDate(start) = {day:Date} AND built_to = 0"
            if (hold := _hold_of(clickhouse, holds, of_day, {"day": day})) is not None:
                retired.held[day.isoformat()] = str(hold)
                continue
            clickhouse.command(f"ALTER TABLE usage_minutes DROP PARTITION '{day.isoformat()}'")
            retired.minute_days.append(day)
    return retired


def _hold_of(clickhouse: ClickHouse, holds: Sequence[Hold], rows: str, parameters: dict[str, object]) -> Hold | None:
    """The first hold that covers one of the rows; None if none does."""
    if not holds:
        return None
    if (everything := next((hold for hold in holds if hold.customer is None), None)) is not None:
        return everything
    held = {**parameters, "customers": sorted({hold.customer for hold in holds if hold.customer is not None})}
    sql = f"SELECT DISTINCT customer FROM {rows} AND customer IN {{customers:Array(String)}}"  # noqa: S608 - ours
    found = {customer for (customer,) in clickhouse.rows(sql, held)}
    return next((hold for hold in holds if hold.customer in found), None)


def _retire_month(clickhouse: ClickHouse, month: int) -> int:
    given = {"month": month}
    if different := clickhouse.rows(_DIFFERENT, given):  # 2
        raise NotRolledUp(
            f"the roll-up by day and the events differ on {len(different)} days of {month}, first {different[0][0]}; "
            "nothing of it was given up. Run `meterproof reconcile --repair`"
        )
    clickhouse.command(_NOTE, given)  # 3
    ((events,),) = clickhouse.rows("SELECT sum(events) FROM usage_retired FINAL WHERE month = {month:UInt32}", given)
    wait_for_inserts(clickhouse)
    clickhouse.command(f"ALTER TABLE usage_rows DROP PARTITION {month}")  # 4
    return int(events)


_DIFFERENT: Final = """
SELECT day FROM (
  SELECT toDate(event_time) AS day, toInt64(count()) AS held, sum(cost) AS spent FROM usage_final
  WHERE toYYYYMM(event_time) = {month:UInt32}
    AND (log, position) NOT IN (SELECT log, position FROM usage_uncounted) GROUP BY day
  UNION ALL
  SELECT toDate(start), -toInt64(sum(events)), -sum(cost) FROM usage_by_day
  WHERE toYYYYMM(start) = {month:UInt32} GROUP BY toDate(start)
) GROUP BY day HAVING sum(held) != 0 OR sum(spent) != 0 ORDER BY day
"""
_LEFT_GROUPS: Final = """
SELECT DISTINCT toDate(partition) AS day FROM system.parts
WHERE active AND database = currentDatabase() AND table = 'usage_groups'
  AND toYYYYMM(day) IN (SELECT month FROM usage_retired)
ORDER BY day
"""
_NOTE: Final = """
INSERT INTO usage_retired (log, month, events, uncounted, last_position, position_sum, step_sum, cost)
WITH (log, position) IN (SELECT log, position FROM usage_uncounted) AS is_uncounted
SELECT log, {month:UInt32}, count(), countIf(is_uncounted), max(position), sum(position),
       sum(intHash64(position + 1) - intHash64(position)), sumIf(cost, NOT is_uncounted)
FROM usage_final
WHERE toYYYYMM(event_time) = {month:UInt32} GROUP BY log
"""
