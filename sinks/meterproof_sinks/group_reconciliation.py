"""Compare every column of `usage_groups` with the rows: sums of sessions and runs, calls, traces, peaks, waste.

A day's groups are added up to a few numbers for each kind, and so are its events, by statements that share nothing with
those that build the groups. What is a sum is compared without grouping anything: the hash of a group's names times its
numbers is the same, modulo 2^64, when taken over its events. What is none (a first moment, a busiest minute, a set of
traces, what repeats something) is found out anew, names told apart by hashes.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Final, NamedTuple

from meterproof_schemas.quantity import plain
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.event_time import month_of
from meterproof_sinks.reconciliation_report import Reconciliation
from meterproof_sinks.rollup_reconciliation import (
    BUILT,
    COUNTED_WHERE_BUILT,
    Marker,
    parameters_of_built,
    tell_beyond,
)
from meterproof_sinks.usage_groups import FORM

_EVENTS_AT_ONCE: Final = 2_000_000
"""Days of which the groups hold more together are compared one after another, so that memory has a bound."""


class _Groups(NamedTuple):
    """Of one kind on one day."""

    events: int
    cost: Decimal
    names: int
    """Fingerprint of what is added up, with the names to which it is."""
    found_out: int
    """Fingerprint of what is no sum over events."""


@dataclass(slots=True)
class _Day:
    """What the groups hold of one."""

    kinds: dict[str, _Groups] = field(default_factory=dict)
    markers: list[Marker] = field(default_factory=list)
    other_form: bool = False


_NOTHING: Final = _Groups(0, Decimal(0), 0, 0)
_WHAT: Final = {
    "session": "first and last moments",
    "run": "parents",
    "peak": "busiest minutes",
    "calls": "operations",
    "traces": "traces",
    "waste": "repeated calls",
}
"""What of a kind is no sum over events."""


def compare_groups(clickhouse: ClickHouse, found: Reconciliation, months: AbstractSet[int]) -> None:
    """Compare the groups, which are read once, so that a day's sums and its marker rows belong together.

    Days of `months` are left out. So are days of another form than this version's: the views read their events, and
    the next refresh builds them again.
    """
    days = _read(clickhouse, found, months)
    tell_beyond(clickhouse, "groups", [marker for day in days.values() for marker in day.markers], found)
    for some in _at_once(days):
        due = _due(clickhouse, some)
        for day, held in some.items():
            for kind in sorted(held.kinds.keys() | due[day].keys()):
                _compare(found, f"groups of kind {kind} on {day}", kind, held.kinds.get(kind), due[day].get(kind))


def _read(clickhouse: ClickHouse, found: Reconciliation, months: AbstractSet[int]) -> dict[date, _Day]:
    """What the groups say, by day; and a note of what none can say."""
    days: defaultdict[date, _Day] = defaultdict(_Day)
    for kind, day, strays, markers, *summed in clickhouse.rows(_GROUPED):
        if month_of(day) in months:
            continue
        if kind:
            days[day].kinds[kind] = _Groups(*summed)
        days[day].markers += [(log, day, next_) for log, next_, _ in markers]
        days[day].other_form |= any(form != FORM for *_, form in markers)
        if strays:
            what = f"groups of kind {kind}" if kind else "marker rows of groups"
            found.differ("rollups", f"{what} on {day}: {strays} of them say what no such row can say")
    for day in [day for day, held in days.items() if held.other_form]:
        del days[day]
        found.notes.append(f"groups on {day} are of another version: no query reads them until they are built again")
    return dict(days)


def _at_once(days: Mapping[date, _Day]) -> Iterator[dict[date, _Day]]:
    """So many days that what is compared at once has a bound."""
    some: dict[date, _Day] = {}
    events = 0
    for day, held in sorted(days.items()):
        of_day = max((groups.events for groups in held.kinds.values()), default=0)
        if some and events + of_day > _EVENTS_AT_ONCE:
            yield some
            some, events = {}, 0
        some[day] = held
        events += of_day
    if some:
        yield some


def _due(clickhouse: ClickHouse, days: Mapping[date, _Day]) -> dict[date, dict[str, _Groups]]:
    """What the groups of these days should say, by the rows."""
    due: dict[date, dict[str, _Groups]] = {day: {} for day in days}
    markers = [marker for held in days.values() for marker in held.markers]
    if not markers:
        return due
    parameters = parameters_of_built(markers)
    found_out: defaultdict[tuple[date, str], int] = defaultdict(int)
    for kind, statement in _FIND_OUT.items():
        found_out.update({(day, kind): fingerprint for day, fingerprint in clickhouse.rows(statement, parameters)})
    no_cost = Decimal(0)
    for day, events, cost, traced, failed, lost, by_session, by_run, by_call, by_waste in clickhouse.rows(
        _UNGROUPED, parameters
    ):
        for kind, of_kind, cost_of_kind, names in (
            ("session", events, cost, by_session),
            ("run", events, cost, by_run),
            ("peak", 0, no_cost, 0),
            ("calls", traced, no_cost, by_call),
            ("traces", 0, no_cost, 0),
            ("waste", failed, lost, by_waste),
        ):
            due[day][kind] = _Groups(of_kind, cost_of_kind, names, found_out[day, kind])
    return due


def _compare(found: Reconciliation, what: str, kind: str, held: _Groups | None, due: _Groups | None) -> None:
    """Note what differs of one kind on one day; None is no group at all."""
    if due is None:
        found.differ("rollups", f"{what}: there are some, in the rows none")
        return
    held = held or _NOTHING
    if held[:2] != due[:2]:
        detail = f"{held.events} events and spend {plain(held.cost)}, in the rows {due.events} and {plain(due.cost)}"
    elif held.names != due.names:
        detail = (
            f"{held.events} events and spend {plain(held.cost)} as in the rows, and not the same names to which they "
            "are added up"
        )
    elif held.found_out != due.found_out:
        detail = f"not the {_WHAT[kind]} that the rows tell of"
    else:
        return
    found.differ("rollups", f"{what}: {detail}")


_USED: Final[Mapping[str, Iterable[str]]] = {
    "": ("log", "built_to", "form"),
    "session": ("session", "currency", "events", "cost", "began", "ended"),
    "run": ("run_id", "run_key", "parent_id", "parent_key", "currency", "events", "cost"),
    "peak": ("provider", "model", "requests", "busiest", "tokens", "heaviest"),
    "calls": ("agent", "source", "events", "failed", "operations", "callees"),
    "traces": ("agent", "callees", "traces_high", "traces_low"),
    "waste": ("agent", "operation", "currency", "failed", "failed_cost", "repeated", "repeated_cost"),
}
"""Columns by the kind of groups that uses them; in all others they are empty."""
_KEYS: Final = {"run_key": "run_id", "parent_key": "parent_id"}


def _strays() -> str:
    """Whether a row says what none of its kind can say, as an expression."""
    users: defaultdict[str, list[str]] = defaultdict(list)
    for kind, columns in _USED.items():
        for column in columns:
            users[column].append(f"'{kind}'")
    return " OR ".join(
        [
            f"kind NOT IN ({', '.join(repr(kind) for kind in _USED)})",
            "start != toStartOfDay(start)",
            *(
                f"(kind NOT IN ({', '.join(kinds)}) AND {column} != defaultValueOfArgumentType({column}))"
                for column, kinds in users.items()
            ),
            *(
                f"{key} != if({name} = '', 0, reinterpretAsUInt128(substring(SHA256({name}), 1, 16)))"
                for key, name in _KEYS.items()
            ),
            "(kind = 'calls' AND callees != [source])",
            "(kind = 'traces' AND (callees != arraySort(callees) OR empty(traces_low)))",
            "length(traces_high) != length(traces_low)",
            "(kind IN ('session', 'run', 'calls') AND events = 0)",
            "(kind = 'waste' AND failed = 0 AND repeated = 0)",
        ]
    )


_GROUPED: Final = f"""
SELECT kind, toDate(start) AS day, countIf({_strays()}), groupArrayIf((log, built_to, form), kind = ''),
       sum(events + if(kind = 'waste', failed, 0)), sum(cost + failed_cost),
       sum(sipHash64(kind, session, run_id, agent, source, operation, currency) * (
         events + 3 * failed + 5 * reinterpretAsUInt64(cost) + 7 * reinterpretAsUInt64(failed_cost))),
       sum(multiIf(
         kind = 'session', sipHash64(sipHash64(session, currency), began, ended),
         kind = 'run', sipHash64(sipHash64(run_id, currency), parent_id),
         kind = 'peak', sipHash64('requests', provider, model, requests, toUnixTimestamp(busiest))
           + sipHash64('tokens', provider, model, tokens, toUnixTimestamp(heaviest)),
         kind = 'calls', arraySum(arrayMap(operation -> sipHash64(agent, source, operation), operations)),
         kind = 'traces', arraySum(arrayMap(
           (high, low) -> sipHash64(
             sipHash64(agent, lower(hex(reinterpretAsFixedString(high))), lower(hex(reinterpretAsFixedString(low)))),
             arraySum(arrayMap(callee -> sipHash64(callee), callees))
           ),
           traces_high, arrayResize(traces_low, length(traces_high)))),
         kind = 'waste', sipHash64(agent, operation, currency) * (repeated + 3 * reinterpretAsUInt64(repeated_cost)),
         0))
FROM usage_groups GROUP BY kind, day ORDER BY kind, day
"""  # noqa: S608 - nothing of it comes from outside
_UNGROUPED: Final = f"""
{BUILT}
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
{COUNTED_WHERE_BUILT}
GROUP BY event_day ORDER BY event_day
"""
_CALL: Final = (
    "sipHash64(intDiv(toUnixTimestamp64Micro(event_time), 60000000), agent, source, operation, provider, model, "
    "session, currency, mapKeys(mapSort(usage)), mapValues(mapSort(usage)))"
)
"""Alike for calls of one minute that are the same in all that repeats are known by."""
_DONE: Final = f"{COUNTED_WHERE_BUILT} AND status IN ('', 'ok')"


def _found_out(fingerprint: str, rows: str) -> str:
    """By day of the rows, which name it `event_day`."""
    rows = rows.replace("{day}", "toDate(event_time) AS event_day")
    return f"{BUILT} SELECT event_day, sum({fingerprint}) FROM ({rows}) GROUP BY event_day"  # noqa: S608 - as above


_FIND_OUT: Final = {
    "session": _found_out(
        "sipHash64(name, first_time, last_time)",
        "SELECT {day}, sipHash64(session, currency) AS name, min(event_time) AS first_time, "
        f"max(event_time) AS last_time {COUNTED_WHERE_BUILT} GROUP BY event_day, name",
    ),
    "run": _found_out(
        "sipHash64(name, last_parent)",
        "SELECT {day}, sipHash64(run_id, currency) AS name, max(parent_id) AS last_parent"
        f"{COUNTED_WHERE_BUILT} GROUP BY event_day, name",
    ),
    "peak": _found_out(
        "if(by_calls = 1, sipHash64('requests', provider, model, calls, minute), 0)"
        "+ if(by_tokens = 1, sipHash64('tokens', provider, model, used, minute), 0)",
        f"""
        SELECT event_day, provider, model, minute, calls, used,
               row_number() OVER (PARTITION BY event_day, provider, model ORDER BY calls DESC, minute) AS by_calls,
               row_number() OVER (PARTITION BY event_day, provider, model ORDER BY used DESC, minute) AS by_tokens
        FROM (
          SELECT {{day}}, provider, model, count() AS calls, sum(tokens) AS used,
                 toUInt32(intDiv(toUnixTimestamp64Micro(event_time), 60000000) * 60) AS minute
          {COUNTED_WHERE_BUILT}
          GROUP BY event_day, provider, model, minute
        )""",  # noqa: S608 - as above
    ),
    "calls": _found_out(
        "operation_of_call",
        "SELECT DISTINCT {day}, sipHash64(agent, source, operation) AS operation_of_call"
        f"{COUNTED_WHERE_BUILT} AND traceparent != ''",
    ),
    "traces": _found_out(
        "sipHash64(trace, called)",
        f"""
        SELECT event_day, trace, sum(callee) AS called
        FROM (
          SELECT DISTINCT {{day}}, sipHash64(source) AS callee,
                 sipHash64(agent, substring(traceparent, 4, 16), substring(traceparent, 20, 16)) AS trace
          {COUNTED_WHERE_BUILT} AND traceparent != ''
        )
        GROUP BY event_day, trace""",  # noqa: S608 - as above
    ),
    "waste": _found_out(
        "if(time = 1, 0, sipHash64(agent, operation, currency) * (toUInt64(1) + 3 * reinterpretAsUInt64(cost)))",
        f"""
        SELECT {{day}}, agent, operation, currency, cost,
               row_number() OVER (PARTITION BY {_CALL} ORDER BY usage_final.log, position) AS time
        {_DONE} AND {_CALL} IN (
          SELECT alike FROM (SELECT {_CALL} AS alike {_DONE}) GROUP BY alike HAVING count() > 1
        )""",  # noqa: S608 - as above
    ),
}
"""By kind, what is no sum over events, as `_GROUPED` has it."""
