"""Compare ClickHouse's roll-ups and groups with its rows: what each says, as far as each says that it goes."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date
from decimal import Decimal
from typing import Any, Final, NamedTuple

from meterproof_schemas.quantity import plain
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.event_time import day_of, month_of
from meterproof_sinks.reconciliation_report import Reconciliation


def compare_rollup(
    clickhouse: ClickHouse, grain: str, found: Reconciliation, months: Mapping[str, AbstractSet[int]]
) -> None:
    """Compare one roll-up, which is read once, so that its sums and its marker rows belong together."""
    sums: dict[tuple[str, int], _Sums] = {}
    built: dict[tuple[str, date], int] = {}
    for log, hour, *summed, built_to in clickhouse.rows(_filled_in(_SUMMED, grain)):
        if month_of(day_of(hour)) in months[log]:
            continue
        if built_to:
            built[log, day_of(hour)] = built_to
        if summed[0]:
            sums[log, hour] = _Sums(*summed)
    rows: dict[tuple[str, int], _Sums] = {}
    if built:
        for log, hour, *summed in clickhouse.rows(
            _filled_in(_ROLLED_UP, grain), _parameters([(log, day, next_) for (log, day), next_ in built.items()])
        ):
            rows[log, hour] = _Sums(*summed)
    nothing = _Sums(0, Decimal(0), 0)
    for log, hour in sorted(sums.keys() | rows.keys()):
        theirs, ours = sums.get((log, hour), nothing), rows.get((log, hour), nothing)
        if theirs[:2] != ours[:2]:
            detail = (
                f"by {grain}: {theirs.events} events and spend {plain(theirs.cost)}, "
                f"in the rows {ours.events} and {plain(ours.cost)}"
            )
            found.differ("rollups", detail, log=log, hour=hour)
        elif theirs != ours:
            detail = (
                f"by {grain}: {theirs.events} events and spend {plain(theirs.cost)} as in the rows, and not the same "
                "quantities, latencies, moments, or names to which they are added up"
            )
            found.differ("rollups", detail, log=log, hour=hour)
    ((total,),) = clickhouse.rows("SELECT count() FROM usage")
    found.compared[grain] = sum(one.events for one in sums.values())
    found.behind[grain] = max(0, total - found.compared[grain])


class _Sums(NamedTuple):
    """Of one log in one hour, or day."""

    events: int
    cost: Decimal
    fingerprint: int
    """Over the groups: the hash of what a group is of, times the sum of all its numbers, modulo 2^64. It is the same
    when taken over the events, since a group's numbers are sums of theirs."""


_NAMES: Final = "customer, agent, source, operation, surface, provider, model, status, currency"
_STARTS: Final = {"minute": "toStartOfMinute", "hour": "toStartOfHour", "day": "toStartOfDay"}


def _parameters(built: Sequence[tuple[str, date, int]]) -> dict[str, Any]:
    """Logs and days, each with the position below which it is built, as `_BUILT` takes them."""
    logs, days, nexts = zip(*built, strict=True)
    return {"logs": list(logs), "days": [day.isoformat() for day in days], "nexts": list(nexts)}


def _filled_in(sql: str, grain: str) -> str:
    return (
        sql.replace("{length}", _STARTS["day" if grain == "day" else "hour"])
        .replace("{start}", _STARTS[grain])
        .replace("{grain}", grain)
    )


_QUANTITIES: Final = (
    "arraySum(arrayMap((meter, quantity) -> sipHash64(toString(meter)) * reinterpretAsUInt64(quantity), "
    "mapKeys(usage), mapValues(usage)))"
)
_SUMMED: Final = f"""
SELECT log, toUInt32(intDiv(toUnixTimestamp64Milli(toDateTime64({{length}}(start), 3, 'UTC')), 3600000)) AS hour,
       sum(events), sum(cost),
       sum(sipHash64(toUnixTimestamp64Milli(start), {_NAMES}, mapKeys(tags), mapValues(tags)) * (
         events + 3 * reinterpretAsUInt64(cost) + 5 * latency_us + 7 * latency_events + 11 * {_QUANTITIES})),
       max(built_to)
FROM usage_{{grain}}s GROUP BY log, hour
"""  # noqa: S608 - nothing of it comes from outside
_BUILT: Final = """
WITH built AS (
  SELECT built.1 AS log, toDate(built.2) AS day, built.3 AS next FROM (
    SELECT arrayJoin(arrayZip({logs:Array(String)}, {days:Array(String)}, {nexts:Array(UInt64)})) AS built
  )
)"""
_COUNTED_WHERE_BUILT: Final = """
FROM usage_final INNER JOIN built ON built.log = usage_final.log AND built.day = toDate(event_time)
WHERE position < built.next
  AND (usage_final.log, position) NOT IN (
    SELECT usage_uncounted.log, usage_uncounted.position
    FROM usage_uncounted INNER JOIN built ON built.log = usage_uncounted.log AND built.day = usage_uncounted.day
    WHERE usage_uncounted.by < built.next
  )"""
_ROLLED_UP: Final = f"""
{_BUILT}
SELECT log, toUInt32(intDiv(toUnixTimestamp64Milli(toDateTime64({{length}}(event_time), 3, 'UTC')), 3600000)) AS hour,
       count(), sum(cost),
       sum(sipHash64(
           toUnixTimestamp64Milli(toDateTime64({{start}}(event_time), 3, 'UTC')), {_NAMES},
           mapKeys(mapSort(tags)), mapValues(mapSort(tags))
         ) * (
         toUInt64(1) + 3 * reinterpretAsUInt64(cost) + 5 * ifNull(latency_us, 0) + 7 * toUInt64(latency_us IS NOT NULL)
         + 11 * {_QUANTITIES}))
{_COUNTED_WHERE_BUILT}
GROUP BY log, hour
"""


class _Groups(NamedTuple):
    """Of one kind on one day."""

    events: int
    cost: Decimal
    fingerprint: int
    """As of `_Sums`: of the names that events are grouped by, and the sums of each group."""


def compare_groups(clickhouse: ClickHouse, found: Reconciliation, months: AbstractSet[int]) -> None:
    """Compare the groups, whose kinds hold every event of a day, every one with a trace, or every failed one.

    Not so what is no sum over events: a minute with most, sets of traces, what repeats something, a run's parent.
    """
    kinds: dict[tuple[date, str], _Groups] = {}
    built: list[tuple[str, date, int]] = []
    for kind, day, *summed, marked in clickhouse.rows(_GROUPED):
        if month_of(day) in months:
            continue
        if kind:
            kinds[day, kind] = _Groups(*summed)
        built += [(log, day, next_) for log, next_ in marked]
    if not built:
        return
    nothing = _Groups(0, Decimal(0), 0)
    for day, events, cost, traced, failed, lost, *prints in clickhouse.rows(_UNGROUPED, _parameters(built)):
        by_session, by_run, by_call, by_waste = prints
        due = {
            "session": _Groups(events, cost, by_session),
            "run": _Groups(events, cost, by_run),
            "calls": _Groups(traced, Decimal(0), by_call),
            "waste": _Groups(failed, lost, by_waste),
        }
        for kind, expected in due.items():
            held = kinds.pop((day, kind), nothing)
            if held[:2] != expected[:2]:
                detail = (
                    f"groups of kind {kind} on {day}: {held.events} events and spend {plain(held.cost)}, "
                    f"in the rows {expected.events} and {plain(expected.cost)}"
                )
                found.differ("rollups", detail)
            elif held != expected:
                detail = (
                    f"groups of kind {kind} on {day}: {held.events} events and spend {plain(held.cost)} as in the "
                    "rows, and not the same names to which they are added up"
                )
                found.differ("rollups", detail)
    for (day, kind), held in kinds.items():
        if held.events:
            found.differ("rollups", f"groups of kind {kind} on {day}: {held.events} events, in the rows none")


_GROUPED: Final = """
SELECT kind, toDate(start) AS day, sum(events + if(kind = 'waste', failed, 0)), sum(cost + failed_cost),
       sum(sipHash64(kind, session, run_id, agent, source, operation, currency) * (
         events + 3 * failed + 5 * reinterpretAsUInt64(cost) + 7 * reinterpretAsUInt64(failed_cost))),
       groupArrayIf((log, built_to), kind = '')
FROM usage_groups GROUP BY kind, day ORDER BY kind, day
"""
_UNGROUPED: Final = f"""
{_BUILT}
SELECT toDate(event_time) AS event_day, count(), sum(cost), countIf(traceparent != ''),
       countIf(status NOT IN ('', 'ok')), sumIf(cost, status NOT IN ('', 'ok')),
       sum(sipHash64('session', session, '', '', '', '', currency) * (1 + 5 * reinterpretAsUInt64(cost))),
       sum(sipHash64('run', '', run_id, '', '', '', currency) * (1 + 5 * reinterpretAsUInt64(cost))),
       sumIf(
         sipHash64('calls', '', '', agent, source, '', '') * (1 + 3 * (status NOT IN ('', 'ok'))),
         traceparent != ''),
       sumIf(
         sipHash64('waste', '', '', agent, '', operation, currency) * (3 + 7 * reinterpretAsUInt64(cost)),
         status NOT IN ('', 'ok'))
{_COUNTED_WHERE_BUILT}
GROUP BY event_day ORDER BY event_day
"""
