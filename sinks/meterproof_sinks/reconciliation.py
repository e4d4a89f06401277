"""Compare what the log, the audit folder, ClickHouse's rows and its roll-ups say, hour by hour. Nothing may differ."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from meterproof.kafka.errors import KafkaProblem
from meterproof.kafka.follower import LogFollower
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_descriptions import partitions_of
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.quantity import plain
from meterproof_schemas.topics import Topic
from meterproof_sinks.audit_errors import AuditError
from meterproof_sinks.audit_folder import log_folders, read_log_name, records
from meterproof_sinks.audit_segment import TornAudit
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.given_up import beginning_of
from meterproof_sinks.rollup_rows import GRAINS
from meterproof_sinks.tally import Tally, Totals, tally_clickhouse

_NAMED_MAX: Final = 100
"""Differences of one kind that are named one by one; the others are counted."""
_HOUR: Final = timedelta(hours=1)
_HOUR_US: Final = 3_600_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

KINDS: Final = (
    "log",
    "audit",
    "rows",
    "rollups",
    "identities",
    "records",
    "checkpoints",
    "quarantine",
    "erasure",
    "corrections",
)
"""What can differ."""
OnProgress = Callable[[str, int], None]
"""Called with a stage and how many more events of it were read."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that must not be."""

    kind: str
    """One of `KINDS`."""
    log: str
    """Origin of the log; empty where several are concerned."""
    hour: str
    """RFC 3339, of event time; empty where no hour is concerned."""
    detail: str


@dataclass(slots=True)
class Reconciliation:
    """What was compared and what differs. Everything in it was found below `up_to`."""

    up_to: dict[str, int] = field(default_factory=dict)
    """By log: the position below which all stages were compared."""
    compared: dict[str, int] = field(default_factory=dict)
    """Events by stage: `log`, `audit`, `rows`, and each roll-up."""
    skipped: list[str] = field(default_factory=list)
    """What was not compared, and why: it was not asked for, was given up, or stands in `not_compared` too."""
    not_compared: list[str] = field(default_factory=list)
    """What was to be compared and could not be."""
    behind: dict[str, int] = field(default_factory=dict)
    """By roll-up: events that are in the rows and not in it yet. No difference: it says itself how far it goes."""
    counts: Counter[str] = field(default_factory=Counter)
    """Differences by kind."""
    differences: list[Difference] = field(default_factory=list)
    """The first of each kind."""
    notes: list[str] = field(default_factory=list)
    retired: dict[str, int] = field(default_factory=dict)
    """By log: events whose months ClickHouse has given up; they are compared by their number only."""

    def differ(self, kind: str, detail: str, *, log: str = "", hour: int | None = None) -> None:
        """Note a difference."""
        self.counts[kind] += 1
        if self.counts[kind] <= _NAMED_MAX:
            at = "" if hour is None else f"{(_EPOCH + hour * _HOUR):%Y-%m-%dT%H:00Z}"
            self.differences.append(Difference(kind, log, at, detail))

    def miss(self, text: str) -> None:
        """Note something that was to be compared and could not be, and why."""
        self.skipped.append(text)
        self.not_compared.append(text)

    @property
    def holds(self) -> bool:
        """Whether all that was to be compared was, and nothing differs."""
        return not self.counts and not self.not_compared

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "holds": self.holds,
            "differences": sum(self.counts.values()),
            "by_kind": dict(sorted(self.counts.items())),
            "named": [asdict(difference) for difference in self.differences],
            "up_to": self.up_to,
            "compared": self.compared,
            "behind": self.behind,
            "skipped": self.skipped,
            "not_compared": self.not_compared,
            "notes": self.notes,
        }


async def reconcile(
    clickhouse: ClickHouse, audit: Path | None, kafka: KafkaSettings | None, on_progress: OnProgress = lambda *_: None
) -> Reconciliation:
    """Compare all stages while the pipeline may be running; changes nothing. A stage that is None is left out.

    1. where ClickHouse's rows end, by log: nothing above counts
    2. the audit folder up to there; where it ends earlier, nothing above its end counts
    3. Kafka's log up to there, if it can be read from its beginning
    4. ClickHouse's rows up to there; stage against stage by log and hour: events, fingerprint, every meter's sum;
       and correction by correction what it does
    5. each roll-up, and the groups, against the rows below the position that it states
    6. what needs ClickHouse alone: dense positions, records, quarantine, one identity counted twice

    Raises:
        ClickHouseError: ClickHouse cannot be asked.
        OSError: the audit folder cannot be read.
    """
    found = Reconciliation()
    progress: dict[str, int] = dict(
        clickhouse.rows("SELECT log, argMax(next, log_offset) FROM sink_progress GROUP BY log ORDER BY log")
    )
    found.up_to = progress  # 1
    erased: dict[str, set[int]] = defaultdict(set)
    for log, position in clickhouse.rows("SELECT log, position FROM usage_erased FINAL"):
        erased[log].add(position)
    months: dict[str, set[int]] = defaultdict(set)
    for log, month, events in clickhouse.rows("SELECT log, month, events FROM usage_retired FINAL"):
        months[log].add(month)
        found.retired[log] = found.retired.get(log, 0) + events
    carried = [log for log, position in progress.items() if position]
    if not progress:
        found.miss("ClickHouse's rows: it has nothing of any log; let its sink run, or look at --data and --url")
    audited = {} if audit is None else _tally_audit(audit, found, on_progress)  # 2
    if audit is None:
        found.skipped.append("audit folder: not asked for")
    logged = {} if kafka is None else await _tally_kafka(kafka, found, erased, on_progress)  # 3
    if kafka is None:
        found.skipped.append("Kafka's log: not asked for")
    if audit is not None or kafka is not None:
        for log in carried:
            if log not in audited and log not in logged:
                found.miss(f"rows of {log}: there is nothing to compare them with, see above")
    rows = tally_clickhouse(clickhouse, found.up_to)  # 4
    found.compared["rows"] = sum(tally.events for tally in rows.values())
    for stage, tallies in (("audit", audited), ("log", logged)):
        if tallies:
            found.compared[stage] = sum(tally.events for tally in tallies.values())
        for log, tally in tallies.items():
            _leave_out(found, stage, log, tally, months[log])
            _compare(found, stage, log, tally, rows[log])
            _compare_corrections(found, stage, log, (tally, rows[log]), months[log])
    for grain in GRAINS:  # 5
        _compare_rollup(clickhouse, grain, found, months)
    _compare_groups(clickhouse, found, {month for given_up in months.values() for month in given_up})
    _look_inside(clickhouse, found, rows)  # 6
    return found


def _tally_audit(audit: Path, found: Reconciliation, on_progress: OnProgress) -> dict[str, Tally]:
    """Step 2: the tally of each log that has a folder; lowers `found.up_to` where a folder ends earlier."""
    tallies: dict[str, Tally] = {}
    for folder in log_folders(audit):
        log = read_log_name(folder).origin
        if log not in found.up_to:
            found.miss(f"audit folder of {log}: ClickHouse has nothing of this log yet")
            continue
        if (beginning := beginning_of(folder)) is not None:
            found.skipped.append(
                f"audit folder of {log}: its lines of positions below {beginning.end.size} were given up, so its sums "
                "say nothing of the others"
            )
            continue
        bound, tally = found.up_to[log], Tally()
        try:
            for _, record in records(folder):
                if record.header.size > bound:
                    break
                tally.add(record)
                on_progress("audit", record.header.accepted)
        except TornAudit as torn:
            found.notes.append(f"audit folder of {log}: its last record is not whole ({torn.fault})")
        except AuditError as error:
            found.differ("audit", f"the folder is damaged, run `meterproof verify`: {error}", log=log)
        found.up_to[log] = min(bound, tally.position)
        tallies[log] = tally
    seen = {read_log_name(folder).origin for folder in log_folders(audit)}
    for log, position in found.up_to.items():
        if position and log not in seen:
            found.miss(f"audit folder of {log}: there is none in {audit}")
    return tallies


async def _tally_kafka(
    kafka: KafkaSettings, found: Reconciliation, erased: Mapping[str, AbstractSet[int]], on_progress: OnProgress
) -> dict[str, Tally]:
    """Step 3."""
    tallies: dict[str, Tally] = {}
    try:
        for partition in range(await partitions_of(kafka, kafka.topic(Topic.LOG))):
            async with LogFollower(kafka, partition, None) as follower:
                begin, end = await follower.bounds()
                if begin:
                    found.skipped.append(f"Kafka's log of partition {partition}: trimmed below offset {begin}")
                    continue
                log = follower.genesis.origin
                if log not in found.up_to:
                    if end > 1:  # more than its genesis
                        found.miss(f"Kafka's log {log}: ClickHouse has nothing of it yet")
                    continue
                skip = erased.get(log, frozenset())
                tally = await _follow(follower, end, found.up_to[log], skip, on_progress)
            tallies[log] = tally
            if tally.position < found.up_to[log]:
                detail = f"the log ends at position {tally.position}, the rows at {found.up_to[log]}"
                found.differ("log", detail, log=log)
    except (KafkaProblem, StageStopped) as error:
        found.miss(f"Kafka's log: {error}")
        return {}
    return tallies


async def _follow(
    follower: LogFollower, end: int, bound: int, skip: AbstractSet[int], on_progress: OnProgress
) -> Tally:
    tally = Tally()
    async for chunk in follower.read(end):
        for _, record in chunk:
            if record.header.size > bound:
                return tally
            tally.add(record, skip)
            on_progress("log", record.header.accepted)
    return tally


def _leave_out(found: Reconciliation, stage: str, log: str, tally: Tally, months: AbstractSet[int]) -> None:
    """Take the months out of a tally that ClickHouse has given up; only their number of events must be right."""
    gone = [hour for hour in tally.hours if _month_of(hour) in months]
    events = sum(tally.hours.pop(hour).events for hour in gone)
    if events != found.retired.get(log, 0):
        found.differ(stage, f"{events} events in months given up, {found.retired.get(log, 0)} were given up", log=log)


def _month_of(hour: int) -> int:
    at = _EPOCH + hour * _HOUR
    return at.year * 100 + at.month


def _compare(found: Reconciliation, stage: str, log: str, tally: Tally, rows: Tally) -> None:
    """Step 4 for one log of one stage."""
    for hour in sorted(tally.hours.keys() | rows.hours.keys()):
        theirs, ours = tally.hours.get(hour, Totals()), rows.hours.get(hour, Totals())
        if theirs.events != ours.events:
            found.differ(stage, f"{theirs.events} events in the {stage}, {ours.events} in the rows", log=log, hour=hour)
        elif theirs.fingerprint != ours.fingerprint:
            found.differ(stage, f"{ours.events} events in both, and not the same ones", log=log, hour=hour)
        elif (expected := theirs.used()) != (got := ours.used()):
            found.differ(
                stage, f"quantities: {_told(expected)} in the {stage}, {_told(got)} in the rows", log=log, hour=hour
            )
    if stage == "audit" and tally.erased != rows.erased:
        lines, gone = tally.erased.keys() - rows.erased.keys(), rows.erased.keys() - tally.erased.keys()
        detail = f"{len(lines)} events are erased in the audit folder only, {len(gone)} in ClickHouse only"
        found.differ("erasure", detail, log=log)


def _compare_corrections(
    found: Reconciliation, stage: str, log: str, tallies: tuple[Tally, Tally], months: AbstractSet[int]
) -> None:
    """Step 4 for what one log says of corrections: by it rows are left out of every total."""
    theirs, ours = (tally.corrections for tally in tallies)
    for position in sorted(theirs.keys() | ours.keys()):
        expected, got = theirs.get(position, set()), ours.get(position, set())
        if expected == got or any(_month_of(row.event_us // _HOUR_US) in months for row in expected | got):
            continue
        (said, holds) = (" and ".join(sorted(map(str, rows))) or "nothing" for rows in (expected, got))
        detail = (
            f"of position {position} the {stage} says {said}, and the table usage_corrections {holds}; "
            "`meterproof rebuild --replace` makes the database again"
        )
        found.differ("corrections", detail, log=log)


def _told(usage: Mapping[str, Decimal]) -> str:
    return ", ".join(f"{meter} {plain(quantity)}" for meter, quantity in usage.items()) or "nothing"


def _compare_rollup(
    clickhouse: ClickHouse, grain: str, found: Reconciliation, months: Mapping[str, AbstractSet[int]]
) -> None:
    """Step 5 for one roll-up: read once, so that its sums and its marker rows belong together."""
    length = "toStartOfDay" if grain == "day" else "toStartOfHour"
    sums: dict[tuple[str, int], tuple[int, Decimal, dict[str, Decimal]]] = {}
    built: dict[tuple[str, date], int] = {}
    for log, hour, events, cost, usage, built_to in clickhouse.rows(
        _SUMMED.replace("{length}", length).replace("{grain}", grain)
    ):
        if _month_of(hour) in months[log]:
            continue
        if built_to:
            built[log, (_EPOCH + hour * _HOUR).date()] = built_to
        if events:
            sums[log, hour] = events, cost, {meter: quantity for meter, quantity in usage.items() if quantity}
    rows: dict[tuple[str, int], tuple[int, Decimal, dict[str, Decimal]]] = {}
    if built:
        for log, hour, events, cost, usage in clickhouse.rows(
            _ROLLED_UP.replace("{length}", length),
            {
                "logs": [log for log, _ in built],
                "days": [day.isoformat() for _, day in built],
                "nexts": list(built.values()),
            },
        ):
            rows[log, hour] = events, cost, {meter: quantity for meter, quantity in usage.items() if quantity}
    for log, hour in sorted(sums.keys() | rows.keys()):
        if (theirs := sums.get((log, hour))) != (ours := rows.get((log, hour))):
            events, spend = (theirs[0], plain(theirs[1])) if theirs else (0, "0")
            expected, due = (ours[0], plain(ours[1])) if ours else (0, "0")
            detail = f"by {grain}: {events} events and spend {spend}, in the rows {expected} and {due}"
            found.differ("rollups", detail, log=log, hour=hour)
    ((total,),) = clickhouse.rows("SELECT count() FROM usage")
    found.compared[grain] = sum(events for events, _, _ in sums.values())
    found.behind[grain] = max(0, total - found.compared[grain])


_SUMMED: Final = """
SELECT log, toUInt32(intDiv(toUnixTimestamp64Milli(toDateTime64({length}(start), 3, 'UTC')), 3600000)) AS hour,
       sum(events), sum(cost), sumMap(usage), max(built_to)
FROM usage_{grain}s GROUP BY log, hour
"""
_ROLLED_UP: Final = """
WITH built AS (
  SELECT built.1 AS log, toDate(built.2) AS day, built.3 AS next FROM (
    SELECT arrayJoin(arrayZip({logs:Array(String)}, {days:Array(String)}, {nexts:Array(UInt64)})) AS built
  )
)
SELECT log, toUInt32(intDiv(toUnixTimestamp64Milli(toDateTime64({length}(event_time), 3, 'UTC')), 3600000)) AS hour,
       count(), sum(cost), sumMap(usage)
FROM usage_final INNER JOIN built ON built.log = usage_final.log AND built.day = toDate(event_time)
WHERE position < built.next
  AND (usage_final.log, position) NOT IN (
    SELECT usage_uncounted.log, usage_uncounted.position
    FROM usage_uncounted INNER JOIN built ON built.log = usage_uncounted.log AND built.day = usage_uncounted.day
    WHERE usage_uncounted.by < built.next
  )
GROUP BY log, hour
"""


def _compare_groups(clickhouse: ClickHouse, found: Reconciliation, months: AbstractSet[int]) -> None:
    """Step 5 for the groups, whose kinds hold every event of a day, every one with a trace, or every failed one."""
    kinds: dict[tuple[date, str], tuple[int, Decimal]] = {}
    built: list[tuple[str, str, int]] = []
    for kind, day, events, cost, marked in clickhouse.rows(_GROUPED):
        if day.year * 100 + day.month in months:
            continue
        if kind:
            kinds[day, kind] = events, cost
        built += [(log, day.isoformat(), next_) for log, next_ in marked]
    if not built:
        return
    logs, days, nexts = zip(*built, strict=True)
    for day, events, cost, traced, failed, lost in clickhouse.rows(
        _UNGROUPED, {"logs": list(logs), "days": list(days), "nexts": list(nexts)}
    ):
        due = {
            "session": (events, cost),
            "run": (events, cost),
            "calls": (traced, Decimal(0)),
            "waste": (failed, lost),
        }
        for kind, expected in due.items():
            held = kinds.pop((day, kind), (0, Decimal(0)))
            if held != expected:
                detail = (
                    f"groups of kind {kind} on {day}: {held[0]} events and spend {plain(held[1])}, "
                    f"in the rows {expected[0]} and {plain(expected[1])}"
                )
                found.differ("rollups", detail)
    for (day, kind), (events, _) in kinds.items():
        if events:
            found.differ("rollups", f"groups of kind {kind} on {day}: {events} events, in the rows none")


_GROUPED: Final = """
SELECT kind, toDate(start) AS day, sum(events + if(kind = 'waste', failed, 0)), sum(cost + failed_cost),
       groupArrayIf((log, built_to), kind = '')
FROM usage_groups GROUP BY kind, day ORDER BY kind, day
"""
_UNGROUPED: Final = """
WITH built AS (
  SELECT built.1 AS log, toDate(built.2) AS day, built.3 AS next FROM (
    SELECT arrayJoin(arrayZip({logs:Array(String)}, {days:Array(String)}, {nexts:Array(UInt64)})) AS built
  )
)
SELECT toDate(event_time) AS event_day, count(), sum(cost), countIf(traceparent != ''),
       countIf(status NOT IN ('', 'ok')), sumIf(cost, status NOT IN ('', 'ok'))
FROM usage_final INNER JOIN built ON built.log = usage_final.log AND built.day = toDate(event_time)
WHERE position < built.next
  AND (usage_final.log, position) NOT IN (
    SELECT usage_uncounted.log, usage_uncounted.position
    FROM usage_uncounted INNER JOIN built ON built.log = usage_uncounted.log AND built.day = usage_uncounted.day
    WHERE usage_uncounted.by < built.next
  )
GROUP BY event_day ORDER BY event_day
"""


def _look_inside(clickhouse: ClickHouse, found: Reconciliation, rows: Mapping[str, Tally]) -> None:
    """Step 6."""
    for log, bound in found.up_to.items():
        if (held := rows[log].events + len(rows[log].erased) + found.retired.get(log, 0)) != bound:
            found.differ("rows", f"{bound} events were carried, {held} are accounted for", log=log)
    in_records: dict[str, int] = dict(
        clickhouse.rows(_RECORDS, {"logs": list(found.up_to), "bounds": list(found.up_to.values())})
    )
    for log, bound in found.up_to.items():
        if in_records.get(log, 0) != bound:
            found.differ(
                "records", f"{bound} events were carried, the records tell of {in_records.get(log, 0)}", log=log
            )
    for log, size, stated, signed in clickhouse.rows(_ROOTS):
        detail = f"at size {size} the log's record states the root {stated[:16]}…, a signed checkpoint {signed[:16]}…"
        found.differ("checkpoints", detail, log=log)
    for log, repeats in clickhouse.rows(
        "SELECT log, toInt64(positions) - toInt64(last_position) - 1 AS surplus FROM density WHERE surplus > 0"
    ):
        found.notes.append(f"{log}: {repeats} rows are repeated on disk; no read counts them, a merge removes them")
    for log, kind, position, error in clickhouse.rows(
        "SELECT log, kind, position, error FROM quarantine FINAL ORDER BY log, kind, position"
    ):
        found.differ("quarantine", f"{kind} {position} was refused: {error[:200]}", log=log)
    for source, event_id, times, agents in clickhouse.rows(_IDENTITIES):
        what = f"counted {times} times" if len(agents) == 1 else f"under {len(agents)} agents: {', '.join(agents)}"
        found.differ("identities", f"event {event_id!r} of {source!r} is {what}")


_RECORDS: Final = """
SELECT log, sum(accepted) FROM records_final
WHERE size <= mapFromArrays({logs:Array(String)}, {bounds:Array(UInt64)})[log] GROUP BY log
"""
_ROOTS: Final = """
SELECT records_final.log, records_final.size, records_final.root, checkpoints.root
FROM checkpoints INNER JOIN records_final
  ON records_final.log = checkpoints.log AND records_final.log_offset = checkpoints.log_offset
WHERE records_final.root != checkpoints.root OR records_final.size != checkpoints.size
ORDER BY records_final.log, records_final.size, checkpoints.root
"""
_IDENTITIES: Final = """
SELECT source, id, count() AS times, arraySort(groupUniqArray(agent)) AS agents FROM usage
WHERE sipHash64(source, id) IN (
  SELECT identity FROM (SELECT sipHash64(source, id) AS identity FROM usage) GROUP BY identity HAVING count() > 1
)
GROUP BY source, id HAVING times > 1 ORDER BY source, id
"""
