"""What was erased or given up stays away, whoever writes it again, and every answer stays what it was."""

import asyncio
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof_schemas.correction import correction_line
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseUnavailable
from meterproof_sinks.clickhouse_sink import ClickHouseSink
from meterproof_sinks.erasure import new_erasure
from meterproof_sinks.log_total import LogTotal, log_total
from meterproof_sinks.migrate import migrate
from meterproof_sinks.reconciliation import reconcile
from meterproof_sinks.retention import NotRolledUp, retire
from meterproof_sinks.rollups import Rollups
from meterproof_sinks.row_erasure import erase_rows
from tests.audit_upkeep import erase_lines
from tests.builders import NOW_MS, make_event, make_genesis_record, make_limits
from tests.integration.sinks.clickhouse_folder import new_sink, one, opened
from tests.integration.sinks.clickhouse_server import served
from tests.integration.sinks.rated_folder import write_audit_folder
from tests.integration.sinks.test_shipped_queries import QUERIES, _answer, _counted, _lines, _same, _trace
from tests.rated_log import BOOKS, RatedLog

pytestmark = pytest.mark.clickhouse

_TODAY = date(2026, 4, 15)
_AFTER_THE_HORIZON_MS = 2 * 86_400_000
_BEYOND_ANY_COLUMN = UnitPrice(meter="bytes", amount="9" * 18)
_OF_KEPT_MONTHS = "months whose rows are kept"
"""How a query says that it tells nothing of months whose rows were given up."""
_OF_EACH_KIND = ("usage_summary", "spend_by_hour", "spend_by_session", "dearest_calls", "reconciliation")
"""Queries of sums, of a roll-up, of groups, of rows, and of what must not differ."""


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[ClickHouse]:
    with opened(tmp_path / "clickhouse") as database:
        yield database


@pytest.fixture
def log() -> RatedLog:
    """Of the last hours of a year and the first of the next, and of when nothing of the first can come any more."""
    made = RatedLog(seed=13)
    made.clock_ms += 6 * 3_600_000
    lines = _trace(made)[:200]
    for first in range(0, len(lines), 20):
        made.batch(lines[first : first + 20])
    made.tick(_AFTER_THE_HORIZON_MS)
    return made


@pytest.fixture
def corrected() -> RatedLog:
    """Of the same hours, with corrections."""
    made = RatedLog(seed=13, genesis_value=make_genesis_record(limits=make_limits(corrections=True)))
    made.clock_ms += 6 * 3_600_000
    events = made.rich_events(120)
    made.batch(events)
    voided = enumerate(events[:40])
    made.batch([correction_line(line, correction_id=f"c{n}", kind="void", salt="0" * 32) for n, line in voided])
    made.tick(_AFTER_THE_HORIZON_MS)
    return made


def _answers(clickhouse: ClickHouse, names: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    return {name: _answer(clickhouse, name) for name in names}


async def _written_again(clickhouse: ClickHouse, log: RatedLog) -> None:
    """By a sink that stood still since it wrote some of it, and never hears of what happened meanwhile."""
    late = new_sink(clickhouse)
    late._present[log.origin] = (frozenset(), frozenset())
    await late.write(0, log.genesis, log.records[2:9])


async def test_a_writer_that_comes_late_brings_nothing_back(clickhouse: ClickHouse, log: RatedLog) -> None:
    await new_sink(clickhouse).write(0, log.genesis, log.records)
    rollups = Rollups(clickhouse)
    rollups.refresh()
    request = new_erasure("customer", "globex", requested_by="a", reason="b", now_ms=NOW_MS, random_bytes=os.urandom)
    events, _ = erase_rows(clickhouse, request)
    assert events > 0
    for give_up in (False, True):
        if give_up:
            assert retire(clickhouse, _TODAY, raw_days=90, minute_days=None).months == [202512]
        before = _answers(clickhouse, _OF_EACH_KIND)
        await _written_again(clickhouse, log)
        assert one(clickhouse, "SELECT count() FROM usage_rows WHERE customer = 'globex'") == 0
        assert one(clickhouse, "SELECT dense FROM density") == 1
        rollups.rebuild()
        assert _answers(clickhouse, _OF_EACH_KIND) == before
    assert one(clickhouse, "SELECT count() FROM usage_rows WHERE toYYYYMM(event_time) = 202512") == 0
    assert retire(clickhouse, _TODAY, raw_days=90, minute_days=None).months == [], "nor is there anything to give up"

    at, kept = len(log.records), one(clickhouse, "SELECT count() FROM usage")
    log.grow(2)
    sink = new_sink(clickhouse)
    await sink.cursor(0)
    await sink.write(0, log.genesis, log.records[at - 1 :])
    new = sum(record.header.accepted for _, record in log.records[at:])
    assert one(clickhouse, "SELECT count() FROM usage") == kept + new, "what is new comes in"
    assert one(clickhouse, "SELECT dense FROM density") == 1


async def test_a_writer_that_comes_late_brings_back_neither_corrections_nor_rows_set_aside(
    clickhouse: ClickHouse, tmp_path: Path
) -> None:
    log = RatedLog(seed=14, price_book=9, genesis_value=make_genesis_record(limits=make_limits(corrections=True)))
    books = {**BOOKS, 9: PriceBook(version=9, currency="USD", meters=DEFAULT_METERS, prices=(_BEYOND_ANY_COLUMN,))}
    log.accounts._books = books

    async def read_books() -> Mapping[int, PriceBook]:
        return books

    events = log.rich_events(12)
    dear = [
        make_event(f"dear-{customer}", data={"customer": customer, "usage": {"bytes": 2**63 - 1}})
        for customer in ("globex", "acme")
    ]
    log.batch([*events, *dear])
    log.batch(
        [correction_line(line, correction_id=f"c{n}", kind="void", salt="0" * 32) for n, line in enumerate(events)]
    )
    await ClickHouseSink(clickhouse, read_books).write(0, log.genesis, log.records)
    of_globex = [at for at, line in enumerate(_lines(log)) if orjson.loads(line)["data"]["customer"] == "globex"]
    request = new_erasure("customer", "globex", requested_by="a", reason="b", now_ms=NOW_MS, random_bytes=os.urandom)
    assert erase_rows(clickhouse, request)[0] == len(of_globex) > 0
    told = {
        "usage_corrections": [position for position in range(14, 26) if position not in of_globex],
        "quarantine": [13],
    }
    for _ in range(2):
        for table, positions in told.items():
            found = clickhouse.rows(f"SELECT DISTINCT position FROM {table} ORDER BY position")
            assert [position for (position,) in found] == positions, table
        assert one(clickhouse, "SELECT count() FROM quarantine WHERE position(row, 'globex') > 0") == 0
        late = ClickHouseSink(clickhouse, read_books)
        late._present[log.origin] = (frozenset(), frozenset())
        await late.write(0, log.genesis, log.records)

    unknown = correction_line(log.rich_event(), correction_id="new", kind="void", salt="0" * 32)
    log.batch([unknown, dear[1].replace(b"dear-acme", b"dear-new")])
    sink = ClickHouseSink(clickhouse, read_books)
    await sink.cursor(0)
    await sink.write(0, log.genesis, log.records[-1:])
    for table, positions in told.items():
        new = one(clickhouse, f"SELECT max(position) FROM {table}")
        assert new == {"usage_corrections": 26, "quarantine": 27}[table], "what is new comes in"
        assert one(clickhouse, f"SELECT uniqExact(position) FROM {table}") == len(positions) + 1


def _erase(clickhouse: ClickHouse) -> int:
    """How many events of one customer were erased."""
    request = new_erasure("customer", "globex", requested_by="a", reason="b", now_ms=NOW_MS, random_bytes=os.urandom)
    return erase_rows(clickhouse, request)[0]


def _erase_globex(clickhouse: ClickHouse) -> None:
    assert _erase(clickhouse) > 0


def _give_december_up(clickhouse: ClickHouse) -> None:
    assert retire(clickhouse, _TODAY, raw_days=90, minute_days=None).months == [202512]


@pytest.mark.parametrize(
    ("take_away", "of_gone"),
    [(_erase_globex, "customer = 'globex'"), (_give_december_up, "toYYYYMM(event_time) = 202512")],
)
async def test_a_write_that_a_server_has_begun_before_is_waited_for(
    tmp_path: Path, log: RatedLog, take_away: Callable[[ClickHouse], None], of_gone: str
) -> None:
    """It was let in when nothing was gone yet, and its rows come to lie there when all else is done."""
    with served(tmp_path / "clickhouse") as server:
        engine = server.engine
        migrate(engine)
        await new_sink(engine).write(0, log.genesis, log.records)
        Rollups(engine).refresh()
        engine.command("ALTER TABLE usage_rows ADD CONSTRAINT slow CHECK sleepEachRow(0.01) = 0")
        with closing(engine.another()) as late, closing(ClickHouse.connect(server.url)) as clickhouse:
            writing = asyncio.create_task(_written_again(late, log))
            begun = "SELECT query_id FROM system.processes WHERE query_kind = 'Insert'"
            while not (writing.done() or clickhouse.rows(begun)):  # noqa: ASYNC110 - the engine's own time
                await asyncio.sleep(0.01)
            await asyncio.to_thread(take_away, clickhouse)
            await writing
        assert one(engine, f"SELECT count() FROM usage_rows WHERE {of_gone}") == 0
        engine.command("OPTIMIZE TABLE usage_rows FINAL")  # of the other rows, which are there twice
        assert one(engine, "SELECT dense FROM density") == 1


async def test_what_comes_back_past_the_door_is_named_with_what_removes_it(
    clickhouse: ClickHouse, corrected: RatedLog, tmp_path: Path
) -> None:
    """By a sink of an earlier build, which writes into the tables behind it, or by hand."""
    audit = write_audit_folder(tmp_path, [corrected])
    await new_sink(clickhouse).write(0, corrected.genesis, corrected.records)
    Rollups(clickhouse).refresh()
    for table in ("usage_rows", "usage_corrections"):
        clickhouse.command(f"CREATE TABLE held_{table} AS {table}")
        clickhouse.command(f"INSERT INTO held_{table} SELECT * FROM {table}")
    for take_away, of_gone, kind, remedy in (
        (_erase_globex, "customer = 'globex'", "erasure", "`meterproof erase` again"),
        (_give_december_up, "toYYYYMM(event_time) = 202512", "rows", "`meterproof retain` again"),
    ):
        take_away(clickhouse)
        erase_lines(audit, _is_of_globex)
        assert await _differences(clickhouse, audit) == {}
        clickhouse.command("INSERT INTO usage_corrections SELECT * FROM held_usage_corrections")
        assert await _differences(clickhouse, audit) == {}, "nothing counts by what is said of an event that is gone"
        back = "(log, position) NOT IN (SELECT log, position FROM usage_rows)"
        clickhouse.command(f"INSERT INTO usage_rows SELECT * FROM held_usage_rows WHERE {of_gone} AND {back} LIMIT 3")
        found = await reconcile(clickhouse, audit, None)
        assert [told.detail for told in found.differences if told.kind == kind and remedy in told.detail]
        assert one(clickhouse, "SELECT dense FROM density") == 0
        take_away(clickhouse)
        assert await _differences(clickhouse, audit) == {}
        assert one(clickhouse, "SELECT dense FROM density") == 1


async def test_what_is_erased_when_its_month_was_given_up_makes_no_difference(
    clickhouse: ClickHouse, corrected: RatedLog, tmp_path: Path
) -> None:
    audit = write_audit_folder(tmp_path, [corrected])
    await new_sink(clickhouse).write(0, corrected.genesis, corrected.records)
    Rollups(clickhouse).refresh()
    _give_december_up(clickhouse)
    assert await _differences(clickhouse, audit) == {}
    _erase_globex(clickhouse)
    erase_lines(audit, _is_of_globex)
    assert await _differences(clickhouse, audit) == {}


async def test_a_correction_of_what_was_given_up_takes_no_day_out_of_any_sum(
    clickhouse: ClickHouse, corrected: RatedLog
) -> None:
    """It can come only of a log of which somebody said wrongly that it is complete."""
    sink, rollups = new_sink(clickhouse), Rollups(clickhouse)
    await sink.cursor(0)
    await sink.write(0, corrected.genesis, corrected.records[:2])
    rollups.refresh()
    wrongly = retire(clickhouse, _TODAY, raw_days=90, minute_days=None, complete=[corrected.origin])
    assert wrongly.months == [202512]
    await sink.write(0, corrected.genesis, corrected.records[2:])
    given_up = one(clickhouse, "SELECT sum(events) FROM usage_retired FINAL")
    for _ in range(2):
        assert one(clickhouse, "SELECT sum(events) FROM usage_sums WHERE toYYYYMM(day) = 202512") == given_up > 0
        assert one(clickhouse, "SELECT dense FROM density") == 1
        rollups.refresh()


@pytest.mark.parametrize("first", ["retain", "erase"])
async def test_what_one_that_was_killed_has_noted_is_not_counted_twice_by_the_other(
    clickhouse: ClickHouse, corrected: RatedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Killed when it has noted what is to go, and nothing of it is gone; then the other one; then it again."""
    audit = write_audit_folder(tmp_path, [corrected])
    await new_sink(clickhouse).write(0, corrected.genesis, corrected.records)
    Rollups(clickhouse).refresh()
    acts: dict[str, Callable[[], object]] = {
        "retain": lambda: retire(clickhouse, _TODAY, raw_days=90, minute_days=None),
        "erase": lambda: _erase(clickhouse),
    }
    modules = {"retain": "retention", "erase": "row_erasure"}
    (second,) = acts.keys() - {first}
    with monkeypatch.context() as killing:
        killing.setattr(f"meterproof_sinks.{modules[first]}.wait_for_inserts", _killed)
        with pytest.raises(ClickHouseUnavailable):
            acts[first]()
    acts[second]()
    acts[first]()
    erase_lines(audit, _is_of_globex)
    size = corrected.state.position
    assert log_total(clickhouse, corrected.origin) == LogTotal(size, size - 1, dense=True)
    assert one(clickhouse, "SELECT count() FROM usage_rows WHERE toYYYYMM(event_time) = 202512") == 0
    for table in ("usage_rows", "usage_days"):
        assert one(clickhouse, f"SELECT countIf(customer = 'globex') FROM {table}") == 0, table
    assert one(clickhouse, "SELECT uniqExact(position) FROM usage_erased") > 0
    assert await _differences(clickhouse, audit) == {}


async def test_a_month_of_which_something_is_erased_while_it_is_given_up_stays(
    clickhouse: ClickHouse, corrected: RatedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await new_sink(clickhouse).write(0, corrected.genesis, corrected.records)
    Rollups(clickhouse).refresh()
    size = one(clickhouse, "SELECT max(next) FROM sink_progress")
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("meterproof_sinks.retention.wait_for_builders", _erase_globex)
        with pytest.raises(NotRolledUp, match="erased"):
            _give_december_up(clickhouse)
    assert one(clickhouse, "SELECT count() FROM usage_retired") == 0
    for _ in range(2):
        assert log_total(clickhouse, corrected.origin) == LogTotal(size, size - 1, dense=True)
        retire(clickhouse, _TODAY, raw_days=90, minute_days=None)
    assert one(clickhouse, "SELECT count() FROM usage_retired") == 1


def _killed(_: ClickHouse) -> None:
    raise ClickHouseUnavailable("killed")


def _is_of_globex(line: bytes) -> bool:
    return b'"customer":"globex"' in line


async def _differences(clickhouse: ClickHouse, audit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for told in (await reconcile(clickhouse, audit, None)).differences:
        found.setdefault(told.kind, []).append(told.detail)
    return found


async def test_without_a_months_rows_every_query_tells_the_same_or_says_that_it_tells_of_the_others(
    clickhouse: ClickHouse, log: RatedLog, tmp_path: Path
) -> None:
    await new_sink(clickhouse).write(0, log.genesis, log.records)
    Rollups(clickhouse).refresh()
    names = sorted(file.stem for file in QUERIES.glob("*.sql"))
    before = _answers(clickhouse, names)
    assert retire(clickhouse, _TODAY, raw_days=90, minute_days=None).months == [202512]
    after = _answers(clickhouse, names)
    of_kept_months = {name for name in after if _OF_KEPT_MONTHS in (QUERIES / f"{name}.sql").read_text("utf-8")}
    assert {name for name in after if after[name] != before[name]} == of_kept_months

    kept = _counted([line for line in _lines(log) if orjson.loads(line)["time"] >= "2026"], tmp_path)
    assert 0 < kept["events"] < len(_lines(log))
    assert [row["id"] for row in after["dearest_calls"]] == kept["dearest"]
    assert {row["operation"]: row["calls"] for row in after["latency_by_operation"]} == {
        name: counted["calls"] for name, counted in kept["latency"].items()
    }
    assert {f"{row['provider']}/{row['model']}": row["requests_per_minute"] for row in after["rate_by_provider"]} == {
        model: requests for model, (requests, _) in kept["rates"].items()
    }
    assert {
        f"{row['caller']} -> {row['callee']}": [row["calls"], row["traces"]] for row in after["service_dependencies"]
    } == kept["dependencies"]
    _same({row["session"]: row["spend"] for row in after["spend_by_session"]}, kept["sessions"])
    _same(
        {row["run"]: row["spend"] for row in after["spend_by_run"]},
        {run: all_ for run, (_, all_) in kept["runs"].items()},
    )
    assert {f"{row['agent']}/{row['operation']}": row["failed_calls"] for row in after["wasted_spend"]} == {
        key: failed for key, (failed, *_) in kept["waste"].items()
    }
    assert {row["events_of_version"] for row in after["price_versions"]} == {kept["events"]}
    assert {Fraction(row["spend_of_version"]) for row in after["price_versions"]} == {Fraction(kept["spend"])}
