"""What goes into a day of each roll-up, as SELECTs: sums of the events, or of a finer roll-up, and the marker rows.

Parameters of each: `day` and `after`, its first moment and the next day's as text; `logs` and `nexts`, the positions
below which events count, by log; where only later ones count, `froms`, the positions from which on.
"""

from typing import Final

GRAINS: Final = ("minute", "hour", "day")
"""Finest first: each is made from the one before."""
_NEXT: Final = "mapFromArrays({logs:Array(String)}, {nexts:Array(UInt64)})[log]"
EVENTS: Final = f"""usage_final AS source
WHERE event_time >= toDateTime64({{day:String}}, 3, 'UTC') AND event_time < toDateTime64({{after:String}}, 3, 'UTC')
  AND position < {_NEXT}
  AND (
    (SELECT count() FROM usage_corrections) = 0
    OR (log, position) NOT IN (SELECT log, position FROM usage_uncounted WHERE by < {_NEXT})
  )"""  # noqa: S608 - nothing of it comes from outside
"""The events of the day that count, as far as it is built to."""
MARKERS: Final = (
    "(SELECT arrayJoin(arrayZip({logs:Array(String)}, {nexts:Array(UInt64)})) AS marker) WHERE marker.2 > 0"
)
"""One for each log that has events: how far the day goes. They are swapped in with the day's rows."""
_LATER: Final = "AND position >= mapFromArrays({logs:Array(String)}, {froms:Array(UInt64)})[log]"
_STARTS: Final = {"minute": "toStartOfMinute", "hour": "toStartOfHour", "day": "toStartOfDay"}
_DIMENSIONS: Final = "log, customer, agent, source, operation, surface, provider, model, status"
_SUMS: Final = {
    True: "count() AS counted, sum(cost) AS spent, sum(ifNull(latency_us, 0)) AS latency, count(latency_us) AS timed",
    False: "sum(events) AS counted, sum(cost) AS spent, sum(latency_us) AS latency, sum(latency_events) AS timed",
}
"""Of events, and of rows that are sums already."""


def sums_of(grain: str, finer: str | None, *, later: bool = False) -> str:
    """A day of a roll-up, from the table `finer` that holds nothing else, or from the events, all or the later ones.

    Rows that name the same meters are added up meter by meter, which takes a third of the time of adding up maps.
    """
    moment, source = ("event_time", EVENTS) if finer is None else ("start", f"{finer} AS source WHERE built_to = 0")
    from_where = _LATER if later else ""
    return f"""
SELECT bucket, {_DIMENSIONS}, mapSort(tags), currency, counted, spent, mapFromArrays(meters, quantities),
       latency, timed, 0
FROM (
  SELECT {_STARTS[grain]}({moment}) AS bucket, {_DIMENSIONS}, tags, currency, mapKeys(usage) AS meters,
         sumForEach(mapValues(usage)) AS quantities, {_SUMS[finer is None]}
  FROM {source} {from_where}
  GROUP BY bucket, {_DIMENSIONS}, tags, currency, meters
)
UNION ALL
SELECT toDateTime64({{day:String}}, 3, 'UTC'), marker.1, '', '', '', '', '', '', '', '',
       CAST(map(), 'Map(LowCardinality(String), String)'), '', 0, 0,
       CAST(map(), 'Map(LowCardinality(String), Decimal(38, 12))'), 0, 0, marker.2
FROM {MARKERS}"""  # noqa: S608 - nothing of it comes from outside
