"""Give up single events, or minutes, after their time. Hours and days, the audit folder and every proof stay.

A month stays whole for as long as a log can bring more of it (`late_arrivals`): an event that comes late, or a
correction, which could not take back what is only part of a sum. A legal hold keeps each month, and each day of
minutes, that has a row which it covers. There is one list of holds for both stores, `legal_holds`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final

from meterproof_sinks.begun_before import wait_for_builders, wait_for_inserts
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.event_time import month_of
from meterproof_sinks.late_arrivals import end_of_month_ms, log_ends
from meterproof_sinks.legal_holds import Hold
from meterproof_sinks.log_bounds import carried
from meterproof_sinks.removal_lock import removal_lock
from meterproof_sinks.retired_notes import (
    BELOW,
    Note,
    months_there,
    note_month,
    standing_notes,
    still_true,
    take_back,
)
from meterproof_sinks.rollups import Rollups

RAW_DAYS_MIN: Final = 62
"""Events are kept at least that long: a month is given up whole."""


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
    waiting: dict[str, list[str]] = field(default_factory=dict)
    """Months that are old enough and were kept, as YYYYMM: the logs that can bring more of them, why and until when."""
    held: dict[str, str] = field(default_factory=dict)
    """What is old enough and was kept, as YYYYMM or YYYY-MM-DD: the hold that forbids it."""


def retire(
    clickhouse: ClickHouse,
    today: date,
    *,
    raw_days: int | None,
    minute_days: int | None,
    holds: Sequence[Hold] = (),
    complete: Collection[str] = (),
    on_step: Callable[[str], None] = lambda _: None,
) -> Retired:
    """Give up what is older; None keeps it for ever. Repeating it after a crash finishes what is left.

    What comes of a month all the same after it was given up (`late_arrivals` tells when it may) is added to the
    roll-ups, and given up in its turn. Per month of single events, once the roll-ups are up to date, and while nobody
    else takes anything away:

    1. take back what a run that was cut off between 3 and 4 noted of events that are all there
    2. leave it whole if a log can bring more of it, or a hold covers a row of it; stop unless it is in the roll-ups:
       its events and spend, by day; where some of it was given up before, its positions
    3. note in `usage_retired`, per log, what the month held beyond earlier notes, so that logs stay dense
    4. wait for inserts that were let in before, and for who is building a day; take the note back and stop if more of
       the month has come since 2, some of it was erased, or a log has begun that nobody knew of; drop the month, and
       its days of groups: from the note on no query reads them

    A day of minutes goes unless a hold covers a row of it.

    Args:
        clickhouse: stays the caller's.
        today: what days are counted back from.
        raw_days: of single events.
        minute_days: of the roll-up by minute.
        holds: those in force.
        complete: logs of which nothing as old as that comes any more, whatever the database knows of them.
        on_step: told, for a person, what is done next; it may take long.

    Raises:
        NotRolledUp: the roll-ups and the events differ; `meterproof reconcile` says where.
        ClickHouseError: the database refused, has no log that `complete` names, or another `erase` or `retain` did not
            end.
        ValueError: fewer days than `RAW_DAYS_MIN`.
    """
    retired = Retired()
    if raw_days is not None:
        if raw_days < RAW_DAYS_MIN:
            message = f"events are kept {RAW_DAYS_MIN} days at least, not {raw_days}"
            raise ValueError(message)
        ends = log_ends(clickhouse, complete)  # before anything else is looked at: what comes meanwhile is younger
        known = {*complete, *(end.log for end in ends)}
        on_step("bringing the roll-ups up to date")
        Rollups(clickhouse).refresh()
        before = today - timedelta(days=raw_days)
        for month in months_there(clickhouse):
            if month >= month_of(before):
                break
            on_step(f"events of {month}")
            with removal_lock(clickhouse):
                standing = standing_notes(clickhouse, month)  # 1
                before_ms = end_of_month_ms(month)
                if waiting := [why for end in ends if (why := end.can_bring(before_ms)) is not None]:  # 2
                    retired.waiting[str(month)] = waiting
                of_month = "usage_final WHERE toYYYYMM(event_time) = {month:UInt32}"
                if (hold := _hold_of(clickhouse, holds, of_month, {"month": month})) is not None:
                    retired.held[str(month)] = str(hold)
                if waiting or hold is not None:
                    continue
                retired.events += _retire_month(clickhouse, month, standing, known)
                retired.months.append(month)
        for (day,) in clickhouse.rows(_LEFT_GROUPS):  # also those that a run which was cut off has left
            clickhouse.command(f"ALTER TABLE usage_groups DROP PARTITION '{day.isoformat()}'")
    if minute_days is not None:
        for (day,) in clickhouse.rows(
            "SELECT DISTINCT toDate(start) AS day FROM usage_minutes WHERE day < {day:Date} ORDER BY day",
            {"day": today - timedelta(days=minute_days)},
        ):
            on_step(f"minutes of {day}")
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


def _retire_month(clickhouse: ClickHouse, month: int, standing: Mapping[str, Note], known: AbstractSet[str]) -> int:
    below = {log: position for log, position in carried(clickhouse).items() if log in known}
    given = {"month": month, "below_logs": list(below), "belows": list(below.values())}
    if different := clickhouse.rows(_BEYOND if standing else _DIFFERENT, given):  # 2
        raise NotRolledUp(
            f"the roll-up by day and the events differ on {len(different)} days of {month}, first {different[0][0]}; "
            "nothing of it was given up. Run `meterproof reconcile --repair`"
        )
    noted = note_month(clickhouse, month, standing, below)  # 3
    wait_for_inserts(clickhouse)  # 4
    wait_for_builders(clickhouse)
    if (
        carried(clickhouse).keys() - known
        or clickhouse.rows(_CAME_SINCE, given)
        or not still_true(clickhouse, month, noted, standing)
    ):
        take_back(clickhouse, month, noted)
        raise NotRolledUp(
            f"events of {month} or a new log came in meanwhile, or some were erased; nothing of it was given up. "
            "Run it again"
        )
    clickhouse.command(f"ALTER TABLE usage_rows DROP PARTITION {month}")
    return sum(note.events for note in noted.values())


_BEYOND: Final = """
SELECT DISTINCT there.day FROM (
  SELECT log, toDate(event_time) AS day, max(position) AS last FROM usage_final
  WHERE toYYYYMM(event_time) = {month:UInt32} AND has({below_logs:Array(String)}, log) GROUP BY log, day
) AS there
LEFT JOIN (
  SELECT log, day, min(next) AS next FROM rollup_progress WHERE rollup IN ('hour', 'day') GROUP BY log, day
  HAVING count() = 2
) AS built ON built.log = there.log AND built.day = there.day
WHERE there.last >= built.next ORDER BY there.day
"""
"""Days with events that a roll-up does not go to."""
_DIFFERENT: Final = """
SELECT day FROM (
  SELECT toDate(event_time) AS day, toInt64(count()) AS held, sum(cost) AS spent FROM usage_final
  WHERE toYYYYMM(event_time) = {month:UInt32} AND has({below_logs:Array(String)}, log)
    AND (log, position) NOT IN (SELECT log, position FROM usage_uncounted) GROUP BY day
  UNION ALL
  SELECT toDate(start), -toInt64(sum(events)), -sum(cost) FROM usage_by_day
  WHERE toYYYYMM(start) = {month:UInt32} AND has({below_logs:Array(String)}, log) GROUP BY toDate(start)
) GROUP BY day HAVING sum(held) != 0 OR sum(spent) != 0 ORDER BY day
"""
_LEFT_GROUPS: Final = """
SELECT DISTINCT toDate(partition) AS day FROM system.parts
WHERE active AND database = currentDatabase() AND table = 'usage_groups'
  AND toYYYYMM(day) IN (SELECT month FROM usage_retired)
ORDER BY day
"""
_CAME_SINCE: Final = (
    "SELECT DISTINCT log FROM usage_final "  # noqa: S608 - nothing of it comes from outside
    f"WHERE toYYYYMM(event_time) = {{month:UInt32}} AND position >= {BELOW}"
)
