"""What goes into `usage_groups` for one day: its events grouped in several ways, each by a statement of its own."""

from typing import Final

from meterproof_sinks.rollup_rows import EVENTS, MARKERS

_COLUMNS: Final = {
    "kind": "''",
    "start": "toDateTime64({day:String}, 3, 'UTC')",
    "session": "''",
    "run_id": "''",
    "parent_id": "''",
    "agent": "''",
    "source": "''",
    "operation": "''",
    "provider": "''",
    "model": "''",
    "currency": "''",
    "events": "toUInt64(0)",
    "cost": "toDecimal128(0, 12)",
    "began": "toDateTime64(0, 6, 'UTC')",
    "ended": "toDateTime64(0, 6, 'UTC')",
    "requests": "toUInt64(0)",
    "busiest": "toDateTime(0, 'UTC')",
    "tokens": "toDecimal128(0, 12)",
    "heaviest": "toDateTime(0, 'UTC')",
    "failed": "toUInt64(0)",
    "failed_cost": "toDecimal128(0, 12)",
    "repeated": "toUInt64(0)",
    "repeated_cost": "toDecimal128(0, 12)",
    "operations": "CAST([], 'Array(LowCardinality(String))')",
    "callees": "CAST([], 'Array(LowCardinality(String))')",
    "traces_high": "emptyArrayUInt64()",
    "traces_low": "emptyArrayUInt64()",
    "log": "''",
    "built_to": "toUInt64(0)",
    "form": "toUInt8(0)",
}
"""Every column, in the order of the table, and what it holds in the kinds that do not use it."""
FORM: Final = 1
"""Of the groups of a day. The views read a day of a lower one from its events, until it is built again."""
_MINUTES: Final = f"""(
  SELECT provider, model, toStartOfMinute(event_time) AS minute, count() AS calls, sum(source.tokens) AS used
  FROM {EVENTS}
  GROUP BY provider, model, minute
)"""  # noqa: S608 - nothing of it comes from outside
_DONE: Final = f"{EVENTS} AND status IN ('', 'ok')"
_ALIKE: Final = "cityHash64(agent, model, session, units, toStartOfMinute(event_time))"
_REPEATS: Final = (
    "agent, source, operation, provider, model, session, mapSort(usage), currency, toStartOfMinute(event_time)"
)
_WASTE: Final = f"""(
  SELECT agent, operation, currency, count() AS failed, sum(cost) AS failed_cost,
         toUInt64(0) AS repeated, toDecimal128(0, 12) AS repeated_cost
  FROM {EVENTS} AND status NOT IN ('', 'ok')
  GROUP BY agent, operation, currency
  UNION ALL
  SELECT agent, operation, currency, 0, toDecimal128(0, 12),
         toUInt64(count() - 1), sum(cost) - argMin(cost, (log, position))
  FROM {_DONE} AND position IN (
    SELECT arrayJoin(groupArray(position))
    FROM (
      SELECT position, cityHash64({_REPEATS}) AS likeness
      FROM {_DONE} AND {_ALIKE} IN (
        SELECT likeness FROM (SELECT {_ALIKE} AS likeness FROM {_DONE}) GROUP BY likeness HAVING count() > 1
      )
    )
    GROUP BY likeness HAVING count() > 1
  )
  GROUP BY {_REPEATS}
  HAVING count() > 1
)"""  # noqa: S608 - nothing of it comes from outside
"""As in `waste_sums`. What may repeat something is found by a hash of a few columns, and among that by a hash of all:
grouping by all columns themselves takes more time and memory than all else of a day, and few events are repeats."""
_TRACES: Final = f"""(
  SELECT agent, arraySort(groupUniqArray(source)) AS called,
         reinterpretAsUInt64(unhex(substring(traceparent, 4, 16))) AS high,
         reinterpretAsUInt64(unhex(substring(traceparent, 20, 16))) AS low
  FROM {EVENTS} AND traceparent != ''
  GROUP BY agent, high, low
)"""  # noqa: S608 - nothing of it comes from outside
"""Each trace of a caller once, with all that it called."""


def groups_of_a_day() -> tuple[str, ...]:
    """Each kind of groups of a day, and its marker rows; see `rollup_rows` for their parameters.

    Parts of a UNION would be read and grouped all at once, and take the memory of all of them.
    """
    return (
        _select(MARKERS, log="marker.1", built_to="marker.2", form=str(FORM)),
        _select(
            f"{EVENTS} GROUP BY session, currency",
            kind="'session'",
            session="session",
            currency="currency",
            events="count()",
            cost="sum(cost)",
            began="min(event_time)",
            ended="max(event_time)",
        ),
        _select(
            f"{EVENTS} GROUP BY run_id, currency",
            kind="'run'",
            run_id="run_id",
            parent_id="max(parent_id)",
            currency="currency",
            events="count()",
            cost="sum(cost)",
        ),
        _select(
            f"{_MINUTES} GROUP BY provider, model",
            kind="'peak'",
            provider="provider",
            model="model",
            requests="max(calls)",
            busiest="argMax(minute, (calls, -toUnixTimestamp(minute)))",
            tokens="max(used)",
            heaviest="argMax(minute, (used, -toUnixTimestamp(minute)))",
        ),
        _select(
            f"{EVENTS} AND traceparent != '' GROUP BY agent, source",
            kind="'calls'",
            agent="agent",
            source="source",
            events="count()",
            failed="countIf(status NOT IN ('', 'ok'))",
            operations="groupUniqArray(operation)",
            callees="[source]",
        ),
        _select(
            f"{_TRACES} GROUP BY agent, called",
            kind="'traces'",
            agent="agent",
            callees="called",
            traces_high="groupArray(high)",
            traces_low="groupArray(low)",
        ),
        _select(
            f"{_WASTE} GROUP BY agent, operation, currency",
            kind="'waste'",
            agent="agent",
            operation="operation",
            currency="currency",
            failed="sum(failed)",
            failed_cost="sum(failed_cost)",
            repeated="sum(repeated)",
            repeated_cost="sum(repeated_cost)",
        ),
    )


def _select(rows: str, /, **stated: str) -> str:
    expressions = ", ".join(stated.get(name, default) for name, default in _COLUMNS.items())
    return f"SELECT {expressions} FROM {rows}"  # noqa: S608 - nothing of it comes from outside
