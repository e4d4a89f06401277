"""Compare what the log, the audit folder, ClickHouse's rows and its roll-ups say, hour by hour. Nothing may differ."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Final

from meterproof.kafka.errors import KafkaProblem, TopicMissing
from meterproof.kafka.follower import LogFollower
from meterproof.kafka.price_books import read_price_books
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_descriptions import partitions_of
from meterproof_schemas.errors import InvalidRecord, InvalidRegistry, StageStopped
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.price_book import PriceBook, parse_price_book
from meterproof_schemas.quantity import plain
from meterproof_schemas.topics import Topic
from meterproof_sinks.audit_errors import AuditError
from meterproof_sinks.audit_folder import log_folders, read_log_name, records
from meterproof_sinks.audit_segment import TornAudit
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.event_time import day_of, hour_of, month_of
from meterproof_sinks.given_up import beginning_of
from meterproof_sinks.group_reconciliation import compare_groups
from meterproof_sinks.log_bounds import BOUND, parameters_of
from meterproof_sinks.price_book_folder import kept_price_books
from meterproof_sinks.reconciliation_report import OnProgress, Reconciliation
from meterproof_sinks.rollup_reconciliation import compare_rollup
from meterproof_sinks.rollup_rows import GRAINS
from meterproof_sinks.row_reconciliation import differing_events, differing_records
from meterproof_sinks.tally import STRETCH, Tally, Totals, money, tally_clickhouse

_NO_BOOKS: Final[Mapping[int, PriceBook]] = MappingProxyType({})
_REMEDY: Final = "`meterproof rebuild --replace` makes the database again"


async def reconcile(
    clickhouse: ClickHouse,
    audit: Path | None,
    kafka: KafkaSettings | None,
    on_progress: OnProgress = lambda *_: None,
    given_books: Mapping[int, PriceBook] = _NO_BOOKS,
) -> Reconciliation:
    """Compare all stages while the pipeline may be running; changes nothing. A stage that is None is left out.

    1. where ClickHouse's rows end, by log: nothing above counts; and the price books, of the audit folder and Kafka
    2. the audit folder up to there; where it ends earlier, nothing above its end counts
    3. Kafka's log up to there, if it can be read from its beginning
    4. ClickHouse's rows up to there; stage against stage by log and hour: events, fingerprint, every meter's sum, spend
       by the price books, every column of every row; correction by correction what it does; every column of records
    5. each roll-up, and the groups, against the rows below the position that it states
    6. what needs ClickHouse alone: dense positions, records, quarantine, one identity counted twice

    Args:
        clickhouse: stays the caller's.
        audit: folder.
        kafka: where the log is.
        on_progress: told of what is read.
        given_books: price books that stand in neither the audit folder nor Kafka, by version.

    Raises:
        ClickHouseError: ClickHouse cannot be asked.
        OSError: the audit folder cannot be read.
    """
    found = Reconciliation()
    for log, position, log_offset in clickhouse.rows(  # 1
        "SELECT log, argMax(next, log_offset), max(log_offset) FROM sink_progress GROUP BY log ORDER BY log"
    ):
        found.up_to[log], found.offsets[log] = position, log_offset
    progress = found.up_to
    erased: dict[str, set[int]] = defaultdict(set)
    for log, position in clickhouse.rows("SELECT log, position FROM usage_erased FINAL"):
        erased[log].add(position)
    months = _months_given_up(clickhouse, found)
    carried = [log for log, position in progress.items() if position]
    if not progress:
        found.miss("ClickHouse's rows: it has nothing of any log; let its sink run, or look at --data and --url")
    books = await _known_books(clickhouse, audit, kafka, found, given_books)
    audited = {} if audit is None else _tally_audit(audit, found, books, on_progress)  # 2
    if audit is None:
        found.skipped.append("audit folder: not asked for")
    logged = {} if kafka is None else await _tally_kafka(kafka, found, books, erased, on_progress)  # 3
    if kafka is None:
        found.skipped.append("Kafka's log: not asked for")
    if audit is not None or kafka is not None:
        for log in carried:
            if log not in audited and log not in logged:
                found.miss(f"rows of {log}: there is nothing to compare them with, see above")
    stages = (("audit", audited), ("log", logged))
    unknown = {version for _, tallies in stages for tally in tallies.values() for version in tally.unknown_books}
    if unknown:
        found.miss(
            f"spend by price book {', '.join(map(str, sorted(unknown)))}: it stands in neither the audit folder nor "
            "Kafka; give it with --price-book FILE"
        )
    rows = tally_clickhouse(clickhouse, found.up_to, found.offsets, unknown)  # 4
    found.compared["rows"] = sum(tally.events for tally in rows.values())
    for log, gone in months.items():
        _set_aside_late(found, log, rows[log], gone)
    looks = _Looks()
    for stage, tallies in stages:
        if tallies:
            found.compared[stage] = sum(tally.events for tally in tallies.values())
        for log, tally in tallies.items():
            _leave_out(found, stage, log, (tally, rows[log]), months[log])
            _compare(found, stage, log, tally, rows[log], looks)
            _compare_corrections(found, stage, log, (tally, rows[log]), months[log])
            _compare_records(found, stage, log, (tally, rows[log]), looks)
    _look_closer(clickhouse, audit, found, looks, books, unknown)
    for grain in GRAINS:  # 5
        compare_rollup(clickhouse, grain, found, months)
    compare_groups(clickhouse, found, {month for given_up in months.values() for month in given_up})
    _look_inside(clickhouse, found, rows)  # 6
    return found


@dataclass(slots=True)
class _Looks:
    """Where rows differ in a column, as fingerprints tell: by stage, log and stretch."""

    events: dict[tuple[str, str, int], int] = field(default_factory=dict)
    """With the hour, the first one if there are several."""
    records: set[tuple[str, str, int]] = field(default_factory=set)


async def _known_books(
    clickhouse: ClickHouse,
    audit: Path | None,
    kafka: KafkaSettings | None,
    found: Reconciliation,
    given: Mapping[int, PriceBook],
) -> dict[int, PriceBook]:
    """Every price book that can be had; those that ClickHouse shows must be the same."""
    books: dict[int, PriceBook] = {}
    if audit is not None:
        try:
            books = {version: parse_price_book(content) for version, content in kept_price_books(audit).items()}
        except AuditError as error:
            found.differ("audit", f"the folder is damaged, run `meterproof verify`: {error}")
    if kafka is not None:
        try:
            for version, book in (await read_price_books(kafka)).items():
                if books.setdefault(version, book) != book:
                    found.differ("prices", f"version {version}: the audit folder's and Kafka's price books differ")
        except TopicMissing:
            pass  # what is missed by it is told
        except InvalidRecord as error:
            found.miss(f"Kafka's price books: {error}")
        except KafkaProblem:
            pass  # its log cannot be read either, which is told
    for version, content in clickhouse.rows("SELECT version, content FROM price_books FINAL ORDER BY version"):
        try:
            held = parse_price_book(content.encode())
        except InvalidRegistry:
            held = None
        if version in books and books[version] != held:
            found.differ("prices", f"version {version} is another price book in ClickHouse than was published")
    return {**given, **books}


def _tally_audit(
    audit: Path, found: Reconciliation, books: Mapping[int, PriceBook], on_progress: OnProgress
) -> dict[str, Tally]:
    """Step 2: the tally of each log that has a folder; lowers `found.up_to` where a folder ends earlier."""
    tallies: dict[str, Tally] = {}
    seen: set[str] = set()
    for folder in log_folders(audit):
        log = read_log_name(folder).origin
        seen.add(log)
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
            for log_offset, record in records(folder):
                if record.header.size > bound or log_offset > found.offsets[log]:
                    break
                tally.add(log_offset, record, books)
                on_progress("audit", record.header.accepted)
        except TornAudit as torn:
            found.notes.append(f"audit folder of {log}: its last record is not whole ({torn.fault})")
        except AuditError as error:
            found.differ("audit", f"the folder is damaged, run `meterproof verify`: {error}", log=log)
        found.up_to[log] = min(bound, tally.position)
        found.offsets[log] = min(found.offsets[log], tally.log_offset)
        tallies[log] = tally
    for log, position in found.up_to.items():
        if position and log not in seen:
            found.miss(f"audit folder of {log}: there is none in {audit}")
    return tallies


async def _tally_kafka(
    kafka: KafkaSettings,
    found: Reconciliation,
    books: Mapping[int, PriceBook],
    erased: Mapping[str, AbstractSet[int]],
    on_progress: OnProgress,
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
                tally = Tally()
                async for log_offset, record in _followed(follower, end):
                    if record.header.size > found.up_to[log] or log_offset > found.offsets[log]:
                        break
                    tally.add(log_offset, record, books, skip)
                    on_progress("log", record.header.accepted)
            tallies[log] = tally
            if tally.position < found.up_to[log]:
                detail = f"the log ends at position {tally.position}, the rows at {found.up_to[log]}"
                found.differ("log", detail, log=log)
    except (KafkaProblem, StageStopped) as error:
        found.miss(f"Kafka's log: {error}")
        return {}
    return tallies


async def _followed(follower: LogFollower, end: int) -> AsyncIterator[tuple[int, LogRecord]]:
    async for chunk in follower.read(end):
        for item in chunk:
            yield item


def _months_given_up(clickhouse: ClickHouse, found: Reconciliation) -> dict[str, set[int]]:
    """The months of each log whose rows ClickHouse has given up, and a note of them."""
    months: dict[str, set[int]] = defaultdict(set)
    for log, month, events in clickhouse.rows("SELECT log, month, events FROM usage_retired FINAL ORDER BY log, month"):
        months[log].add(month)
        found.retired[log] = found.retired.get(log, 0) + events
    for log, gone in months.items():
        named = ", ".join(f"{month // 100}-{month % 100:02}" for month in sorted(gone))
        note = f"{log}: {found.retired[log]:,} events of {named} were given up: only their number is compared"
        found.notes.append(note)
    return months


def _set_aside_late(found: Reconciliation, log: str, rows: Tally, months: AbstractSet[int]) -> None:
    """Take what came of these months after they were given up out of the rows: of it, too, the number is compared."""
    if events := _taken_out(rows, months):
        found.retired[log] += events
        found.notes.append(f"{log}: {events:,} events of these months have come since; the next `retain` gives them up")


def _taken_out(tally: Tally, months: AbstractSet[int]) -> int:
    gone = [hour for hour in tally.hours if month_of(day_of(hour)) in months]
    return sum(tally.hours.pop(hour).events for hour in gone)


def _leave_out(
    found: Reconciliation, stage: str, log: str, tallies: tuple[Tally, Tally], months: AbstractSet[int]
) -> None:
    """Take the months out of a tally that ClickHouse has given up; only their number of events must be right.

    What was erased when its month had been given up is so in the audit folder only. It has no hour any more, so of it,
    too, the number must be right.
    """
    theirs, ours = tallies
    events, retired = _taken_out(theirs, months), found.retired.get(log, 0)
    erased = theirs.erased.keys() - ours.erased.keys()
    if erased and events + len(erased) == retired:
        found.notes.append(f"{log}: {len(erased):,} of them were erased since")
        for position in erased:
            del theirs.erased[position]
    elif events != retired:
        found.differ(stage, f"{events} events in months given up, {retired} were given up", log=log)


def _compare(found: Reconciliation, stage: str, log: str, tally: Tally, rows: Tally, looks: _Looks) -> None:  # noqa: PLR0917
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
        else:
            for stretch in sorted(theirs.rows.keys() | ours.rows.keys()):
                if theirs.rows.get(stretch) != ours.rows.get(stretch):
                    looks.events.setdefault((stage, log, stretch), hour)
            if theirs.cost != ours.cost:
                expected_cost, cost = plain(money(theirs.cost)), plain(money(ours.cost))
                detail = f"spend: {expected_cost} by the {stage} and its price books, {cost} in the rows"
                found.differ(stage, detail, log=log, hour=hour)
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
        if expected == got or any(month_of(day_of(hour_of(row.event_us))) in months for row in expected | got):
            continue
        (said, holds) = (" and ".join(sorted(map(str, rows))) or "nothing" for rows in (expected, got))
        detail = f"of position {position} the {stage} says {said}, and the table usage_corrections {holds}; {_REMEDY}"
        found.differ("corrections", detail, log=log)


def _compare_records(found: Reconciliation, stage: str, log: str, tallies: tuple[Tally, Tally], looks: _Looks) -> None:
    """Step 4 for the rows of one log's records."""
    theirs, ours = tallies
    if theirs.log_offset != found.offsets[log]:
        return  # what one of them lacks is told by its positions
    for stretch in theirs.records.keys() | ours.records.keys():
        if theirs.records.get(stretch) != ours.records.get(stretch):
            looks.records.add((stage, log, stretch))


def _look_closer(  # noqa: PLR0917 - what was compared
    clickhouse: ClickHouse,
    audit: Path | None,
    found: Reconciliation,
    looks: _Looks,
    books: Mapping[int, PriceBook],
    unknown_books: AbstractSet[int],
) -> None:
    """Name rows and columns that differ, by the audit folder if there is one: Kafka's log is not read once more."""
    folders = {} if audit is None else {read_log_name(folder).origin: folder for folder in log_folders(audit)}
    named = {
        (log, stretch): told
        for log, stretches in _audited(looks.events).items()
        for stretch, told in differing_events(clickhouse, folders[log], log, stretches, books, unknown_books).items()
    }
    for (stage, log, stretch), hour in looks.events.items():
        told = named.get((log, stretch)) or f"a column of one of positions {_span(stretch)}"
        found.differ(stage, f"rows do not say what the {stage} says: {told}; {_REMEDY}", log=log, hour=hour)
    named = {
        (log, stretch): told
        for log, stretches in _audited(looks.records).items()
        for stretch, told in differing_records(clickhouse, folders[log], log, stretches).items()
    }
    for stage, log, stretch in sorted(looks.records):
        told = named.get((log, stretch)) or f"a column of one of log offsets {_span(stretch)}, or it is not there"
        found.differ("records", f"rows do not say what the {stage} says: {told}; {_REMEDY}", log=log)


def _audited(looks: Iterable[tuple[str, str, int]]) -> dict[str, list[int]]:
    """By log, the stretches in which rows differ from the audit folder."""
    stretches: defaultdict[str, list[int]] = defaultdict(list)
    for stage, log, stretch in looks:
        if stage == "audit":
            stretches[log].append(stretch)
    return stretches


def _span(stretch: int) -> str:
    return f"{stretch * STRETCH} to {(stretch + 1) * STRETCH - 1}"


def _told(usage: Mapping[str, Decimal]) -> str:
    return ", ".join(f"{meter} {plain(quantity)}" for meter, quantity in usage.items()) or "nothing"


def _look_inside(clickhouse: ClickHouse, found: Reconciliation, rows: Mapping[str, Tally]) -> None:
    """Step 6."""
    for log, bound in found.up_to.items():
        if (held := rows[log].events + len(rows[log].erased) + found.retired.get(log, 0)) != bound:
            found.differ("rows", f"{bound} events were carried, {held} are accounted for", log=log)
    for log, request, events in clickhouse.rows(_ERASED_AND_THERE):
        by = f" by request {request}" if request else ""
        detail = (
            f"{events} events that were erased{by} are there; `meterproof erase` again, of the same name, removes them"
        )
        found.differ("erasure", detail, log=log)
    for log, month, events in clickhouse.rows(_GIVEN_UP_AND_THERE):
        detail = (
            f"{events} events of {month // 100}-{month % 100:02} that were given up are there; `meterproof retain` "
            "again removes them"
        )
        found.differ("rows", detail, log=log)
    in_records: dict[str, int] = dict(clickhouse.rows(_RECORDS, parameters_of(found.up_to)))
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


_RECORDS: Final = f"""
SELECT log, sum(accepted) FROM records_final WHERE size <= {BOUND} GROUP BY log
"""  # noqa: S608 - nothing of it comes from outside
_ERASED_AND_THERE: Final = """
SELECT log, request, count() FROM usage_erased FINAL
WHERE (log, position) IN (
  SELECT log, position FROM usage_rows WHERE (log, position) IN (SELECT log, position FROM usage_erased)
)
GROUP BY log, request ORDER BY log, request
"""
_GIVEN_UP_AND_THERE: Final = """
SELECT log, month, count()
FROM usage_final INNER JOIN (
  SELECT log, month, max(last_position) AS last FROM usage_retired GROUP BY log, month
) AS given_up ON given_up.log = usage_final.log AND given_up.month = toYYYYMM(event_time)
WHERE toYYYYMM(event_time) IN (SELECT month FROM usage_retired) AND position <= last
GROUP BY log, month ORDER BY log, month
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
