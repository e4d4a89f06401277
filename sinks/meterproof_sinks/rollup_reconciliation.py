"""Compare ClickHouse's roll-ups by minute, hour and day with its rows, as far as each says that it goes."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

from meterproof_schemas.quantity import plain
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.event_time import day_of, month_of
from meterproof_sinks.log_bounds import carried
from meterproof_sinks.reconciliation_report import Reconciliation

Marker = tuple[str, date, int]
"""Of a log and a day: the position below which it says that it holds every event."""


def compare_rollup(
    clickhouse: ClickHouse, grain: str, found: Reconciliation, months: Mapping[str, AbstractSet[int]]
) -> None:
    """Compare one roll-up, which is read once, so that its sums and its marker rows belong together."""
    sums: dict[tuple[str, int], _Sums] = {}
    built: dict[tuple[str, date], int] = {}
    for log, hour, *summed, strays, built_to in clickhouse.rows(_filled_in(_SUMMED, grain)):
        if month_of(day_of(hour)) in months[log]:
            continue
        if built_to:
            built[log, day_of(hour)] = built_to
        if any(summed):
            sums[log, hour] = _Sums(*summed)
        if strays:
            detail = f"by {grain}: {strays} rows say what their sums or marker rows cannot say"
            found.differ("rollups", detail, log=log, hour=hour)
    markers = [(log, day, next_) for (log, day), next_ in built.items()]
    tell_beyond(clickhouse, f"by {grain}", markers, found)
    rows: dict[tuple[str, int], _Sums] = {}
    if markers:
        for log, hour, *summed in clickhouse.rows(_filled_in(_ROLLED_UP, grain), parameters_of_built(markers)):
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


def tell_beyond(clickhouse: ClickHouse, what: str, markers: Sequence[Marker], found: Reconciliation) -> None:
    """Note the marker rows, read before this, that go further than all rows are there."""
    bounds = carried(clickhouse)
    for log, day, next_ in markers:
        if next_ > bounds.get(log, 0):
            detail = f"{what}: {day} is said to go to position {next_}, and the rows go to {bounds.get(log, 0)}"
            found.differ("rollups", detail, log=log)


class _Sums(NamedTuple):
    """Of one log in one hour, or day."""

    events: int
    cost: Decimal
    fingerprint: int
    """Over the groups: the hash of what a group is of, times the sum of all its numbers, modulo 2^64. It is the same
    when taken over the events, since a group's numbers are sums of theirs."""


_NAMES: Final = "customer, agent, source, operation, surface, provider, model, status, currency"
_STARTS: Final = {"minute": "toStartOfMinute", "hour": "toStartOfHour", "day": "toStartOfDay"}
_TOKENS: Final = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
_BESIDE: Final = {
    "minute": "",
    "hour": "",
    "day": "".join(f" OR {meter} != usage['{meter}']" for meter in _TOKENS) + " OR units != arraySum(mapValues(usage))",
}
"""Columns beside the map that they are taken from: whether one says anything else."""


def parameters_of_built(markers: Sequence[Marker]) -> dict[str, Any]:
    """Of `BUILT` and `COUNTED_WHERE_BUILT`, for one marker at least."""
    logs, days, nexts = zip(*markers, strict=True)
    return {
        "logs": list(logs),
        "days": [day.isoformat() for day in days],
        "nexts": list(nexts),
        "first": f"{min(days).isoformat()} 00:00:00",
        "after": f"{(max(days) + timedelta(days=1)).isoformat()} 00:00:00",
    }


def _filled_in(sql: str, grain: str) -> str:
    return (
        sql.replace("{length}", _STARTS["day" if grain == "day" else "hour"])
        .replace("{start}", _STARTS[grain])
        .replace("{beside}", _BESIDE[grain])
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
       countIf(
         if(
           built_to = 0, events = 0,
           start != toStartOfDay(start) OR concat({_NAMES}) != '' OR notEmpty(tags) OR notEmpty(usage)
             OR events != 0 OR cost != 0 OR latency_us != 0 OR latency_events != 0
         ){{beside}}
       ),
       max(built_to)
FROM usage_{{grain}}s GROUP BY log, hour
"""  # noqa: S608 - nothing of it comes from outside
"""The views tell sums from marker rows by `built_to` alone: what a row of one cannot say is counted too."""
BUILT: Final = """
WITH built AS (
  SELECT built.1 AS log, toDate(built.2) AS day, built.3 AS next FROM (
    SELECT arrayJoin(arrayZip({logs:Array(String)}, {days:Array(String)}, {nexts:Array(UInt64)})) AS built
  )
)"""
"""The marker rows, before a SELECT."""
COUNTED_WHERE_BUILT: Final = """
FROM usage_final INNER JOIN built ON built.log = usage_final.log AND built.day = toDate(event_time)
WHERE event_time >= toDateTime64({first:String}, 6, 'UTC') AND event_time < toDateTime64({after:String}, 6, 'UTC')
  AND position < built.next
  AND (usage_final.log, position) NOT IN (
    SELECT usage_uncounted.log, usage_uncounted.position
    FROM usage_uncounted INNER JOIN built ON built.log = usage_uncounted.log AND built.day = usage_uncounted.day
    WHERE usage_uncounted.by < built.next
  )"""
"""The events that should be added up where the markers say so; a condition may follow."""
_ROLLED_UP: Final = f"""
{BUILT}
SELECT log, toUInt32(intDiv(toUnixTimestamp64Milli(toDateTime64({{length}}(event_time), 3, 'UTC')), 3600000)) AS hour,
       count(), sum(cost),
       sum(sipHash64(
           toUnixTimestamp64Milli(toDateTime64({{start}}(event_time), 3, 'UTC')), {_NAMES},
           mapKeys(mapSort(tags)), mapValues(mapSort(tags))
         ) * (
         toUInt64(1) + 3 * reinterpretAsUInt64(cost) + 5 * ifNull(latency_us, 0) + 7 * toUInt64(latency_us IS NOT NULL)
         + 11 * {_QUANTITIES}))
{COUNTED_WHERE_BUILT}
GROUP BY log, hour
"""
