"""Every shipped query answers what other code counts from the same events, to the last decimal."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof_schemas.budget import parse_budgets
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.erasure import new_erasure
from meterproof_sinks.migrate import all_migrations, migrate
from meterproof_sinks.reference_rows import put_budgets
from meterproof_sinks.rollups import Rollups
from meterproof_sinks.row_erasure import erase_rows
from tests.builders import NOW_MS, make_event
from tests.integration.sinks.clickhouse_folder import new_sink, one, opened
from tests.rated_log import RatedLog

pytestmark = pytest.mark.clickhouse

QUERIES = Path(__file__).parents[3] / "sinks" / "queries"
ANALYSE = Path(__file__).parents[2] / "independent" / "analyse.py"
_PRICES = {
    "currency": "USD",
    "prices": [
        ["input_tokens", "gpt-", "0.0000025"],
        ["output_tokens", "", "10.000000000001"],
        ["requests", "", "0.000000000001"],
    ],
}
"""`RatedLog`'s first price book, for the script that reads no price books."""
_HOUR_MS = 3_600_000
_EVENTS = 600


def _trace(log: RatedLog) -> list[bytes]:
    """Events with everything that a query asks for; some calls are repeated as a loop repeats them, some are dear."""
    draw = random.Random(17)
    lines: list[bytes] = []
    for number in range(_EVENTS):
        model = draw.choice(("gpt-5", "gpt-5-mini", "claude"))
        data: dict[str, Any] = {
            "customer": draw.choice(("acme", "globex")),
            "usage": {
                "requests": 1,
                "input_tokens": draw.randrange(10_000),
                "output_tokens": draw.randrange(10**6),
                "seconds": f"{draw.randrange(100)}.{draw.randrange(10**6):06}",
                "cache_read_tokens": draw.randrange(100),
            },
            "operation": draw.choice(("chat", "search", "embed")),
            "provider": "anthropic" if model == "claude" else "openai",
            "model": model,
        }
        if draw.random() < 0.8:
            data["latency"] = {"total_us": draw.randrange(10**6), "upstream_us": draw.randrange(10**5)}
        if draw.random() < 0.2:
            data["status"] = draw.choice(("error", "rate_limited", "ok"))
        if draw.random() < 0.7:
            run = draw.randrange(12)
            data |= {"session": f"s{draw.randrange(20)}", "run": f"run-{run}"}
            if run and draw.random() < 0.5:  # some events name it, as a day's only ones may not
                data["parent"] = f"run-{(run - 1) // 3}"
        if draw.random() < 0.6:
            data["tags"] = {"team": draw.choice("ab"), "project": draw.choice("xyz"), "cost centre": "42"}
        if draw.random() < 0.5:
            data["traceparent"] = f"00-{draw.randrange(40):032x}-{draw.randrange(1, 2**60):016x}-01"
        if number % 97 == 0:
            data["usage"]["output_tokens"] = 10**9 + number
        time_ms = log.clock_ms - draw.randrange(20 * _HOUR_MS)
        agent = draw.choice(log.names)
        source = draw.choice(("gateway/chat", "tools/search"))
        for repeat in range(4 if number % 50 == 0 else 1):
            event_id = f"q{number}.{repeat}"
            lines.append(make_event(event_id, source=source, subject=agent, time_ms=time_ms, data=data))
    return lines


@pytest.fixture(scope="module")
def log() -> RatedLog:
    made = RatedLog(seed=13)
    made.clock_ms += 6 * _HOUR_MS  # so that midnight lies between the events
    lines = _trace(made)
    for first in range(0, len(lines), 50):
        made.batch(lines[first : first + 50])
    assert made.state.position == len(lines)
    return made


def _counted(lines: list[bytes], folder: Path) -> dict[str, Any]:
    """What the script that shares no code with this project counts in these events."""
    (folder / "trace.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (folder / "prices.json").write_text(json.dumps(_PRICES))
    done = subprocess.run(
        [sys.executable, "-I", str(ANALYSE), str(folder / "trace.jsonl"), str(folder / "prices.json")],
        check=True,
        capture_output=True,
    )
    counted: dict[str, Any] = orjson.loads(done.stdout)
    return counted


def _lines(log: RatedLog) -> list[bytes]:
    return [line for _, record in log.records for line in record.lines]


@pytest.fixture(scope="module")
def expected(log: RatedLog, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _counted(_lines(log), tmp_path_factory.mktemp("trace"))


@pytest.fixture
async def clickhouse(tmp_path: Path, log: RatedLog) -> Any:
    with opened(tmp_path / "clickhouse") as database:
        await new_sink(database).write(0, log.genesis, log.records)
        Rollups(database).refresh()
        yield database


def _answer(clickhouse: ClickHouse, name: str) -> list[dict[str, Any]]:
    sql = (QUERIES / f"{name}.sql").read_text("utf-8")
    return [orjson.loads(line) for line in clickhouse.raw(sql, "JSONEachRow").splitlines()]


def _same(found: Mapping[str, Any], counted: Mapping[str, str]) -> None:
    assert {name: Fraction(str(value)) for name, value in found.items()} == {
        name: Fraction(value) for name, value in counted.items()
    }


async def test_what_other_code_counts(clickhouse: ClickHouse, log: RatedLog, expected: dict[str, Any]) -> None:
    _assert_counted(clickhouse, log, expected)
    repeated = sum(row["repeated_calls"] for row in _answer(clickhouse, "wasted_spend"))
    assert repeated > 20, "the planted loops are found"


async def test_what_is_rolled_up_and_what_is_not_yet_are_added_up(
    tmp_path: Path, log: RatedLog, expected: dict[str, Any]
) -> None:
    """Traces, runs, sessions and planted loops lie in both, and over midnight."""
    with opened(tmp_path / "clickhouse") as database:
        sink = new_sink(database)
        await sink.write(0, log.genesis, log.records[: len(log.records) // 2])
        Rollups(database).refresh()
        assert one(database, "SELECT uniqExact(toDate(start)) FROM usage_groups") > 1
        await sink.write(0, log.genesis, log.records[len(log.records) // 2 :])
        assert one(database, "SELECT count() FROM groups_behind") > 0
        _assert_counted(database, log, expected, behind=True)


async def test_days_of_an_older_form_are_read_from_their_events_and_built_again(
    tmp_path: Path, log: RatedLog, expected: dict[str, Any]
) -> None:
    """What an older version had built is told by rows that no event has: none of them may be counted."""
    with closing(ClickHouse.open_folder(tmp_path / "clickhouse")) as database:
        names = [migration.name for migration in all_migrations()]
        older = all_migrations()[: names.index("less_to_read")]
        written = [all_migrations()[names.index(name)] for name in ("log_limits", "log_partitions")]
        migrate(database, [*older, *written])  # which today's sink writes
        await new_sink(database).write(0, log.genesis, log.records)
        for columns, values in (
            ("log, built_to", f"'{log.origin}', {log.state.position}"),
            ("kind, session, events, cost", "'session', 'made up', 1, 1"),
            ("kind, run_id, events, cost", "'run', 'made up', 1, 1"),
            ("kind, agent, source, events", "'calls', 'made up', 'made up', 1"),
            ("kind, agent, failed, failed_cost", "'waste', 'made up', 1, 1"),
            ("kind, model, requests, tokens", "'peak', 'made up', 1, 1"),
        ):
            database.command(
                f"INSERT INTO usage_groups (start, {columns}) "
                f"SELECT DISTINCT toStartOfDay(event_time), {values} FROM usage_rows"
            )
        assert one(database, "SELECT count() FROM groups_behind") == 0
        migrate(database)
        assert one(database, "SELECT count() FROM groups_behind") > 1
        queries = ("spend_by_session", "spend_by_run", "rate_by_provider", "service_dependencies", "wasted_spend")
        from_events = {name: _answer(database, name) for name in queries}
        Rollups(database).refresh()
        assert one(database, "SELECT count() FROM groups_behind") == 0
        _assert_counted(database, log, expected)
        assert {name: _answer(database, name) for name in queries} == from_events


def test_traces_that_are_alike_in_half_are_told_apart(tmp_path: Path) -> None:
    """Drawn traces of few halves, in groups of several days and in none, against sets."""
    with opened(tmp_path / "clickhouse") as database:
        draw = random.Random(5)
        rows, events = [], set()
        for _ in range(60):
            callees = draw.sample(("a", "b", "c"), draw.randrange(1, 4))
            traces = {(draw.randrange(4), draw.randrange(40)) for _ in range(draw.randrange(1, 9))}
            highs, lows = (list(half) for half in zip(*traces, strict=True))
            caller = draw.choice("xy")
            rows.append(f"('{caller}', {callees}, 0, 0, [], {highs}, {lows})")
            events |= {(caller, callee, trace) for callee in callees for trace in traces}
        database.command("DROP VIEW call_sums")
        database.command(
            "CREATE TABLE call_sums (caller String, callees Array(String), events UInt64, failed UInt64, "
            "operations Array(String), traces_high Array(UInt64), traces_low Array(UInt64)) ENGINE = Memory"
        )
        for row in rows:
            database.command(f"INSERT INTO call_sums VALUES {row}")
        expected = Counter((caller, callee) for caller, callee, _ in events)
        answers = _answer(database, "service_dependencies")
        assert {(row["caller"], row["callee"]): row["traces"] for row in answers} == expected


async def test_late_writers_and_erasure_leave_every_answer_exact(
    clickhouse: ClickHouse, log: RatedLog, expected: dict[str, Any], tmp_path: Path
) -> None:
    """Before any merge; and of those who were erased no answer tells anything."""
    for table in ("usage_rows", "usage_records"):
        clickhouse.command(f"SYSTEM STOP MERGES {table}")
    for first, last in ((0, 5), (2, 9), (4, len(log.records))):
        late = new_sink(clickhouse)
        late._present[log.origin] = (frozenset(), frozenset())  # one that never asked what is there
        await late.write(0, log.genesis, log.records[first:last])
    Rollups(clickhouse).rebuild()
    assert one(clickhouse, "SELECT count() FROM usage_rows") > len(_lines(log))
    _assert_counted(clickhouse, log, expected)
    for table in ("usage_rows", "usage_records"):
        clickhouse.command(f"SYSTEM START MERGES {table}")
    erase_rows(
        clickhouse,
        new_erasure("customer", "globex", requested_by="a", reason="b", now_ms=NOW_MS, random_bytes=os.urandom),
    )
    kept = [line for line in _lines(log) if orjson.loads(line)["data"]["customer"] != "globex"]
    _assert_counted(clickhouse, log, _counted(kept, tmp_path))


def _assert_counted(clickhouse: ClickHouse, log: RatedLog, expected: dict[str, Any], *, behind: bool = False) -> None:
    """Assert that the shipped queries answer what is expected; those of a roll-up alone, unless it is behind."""
    answers = {
        name: _answer(clickhouse, name)
        for name in (
            "usage_summary",
            "spend_by_account",
            "top_operations",
            "top_models",
            "spend_by_session",
            "spend_by_run",
            "latency_by_operation",
            "rate_by_provider",
            "service_dependencies",
            "dearest_calls",
            "wasted_spend",
            "spend_by_hour",
        )
    }
    newest = datetime.fromtimestamp(log.clock_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    for name, rows in answers.items():
        assert rows, name
        assert {row["up_to"] for row in rows} == {newest}, name

    (summary,) = answers["usage_summary"]
    assert (summary["total_records"], summary["unique_agents"]) == (expected["events"], len(log.names))
    assert Fraction(summary["total_units"]) == Fraction(expected["summary"]["total_units"])
    for table in ("by_operation", "by_agent"):
        assert {name: (count, Fraction(units)) for name, (count, units) in summary[table].items()} == {
            name: (count, Fraction(units)) for name, (count, units) in expected["summary"][table].items()
        }

    accounts = answers["spend_by_account"]
    _same({f"{row['account']}/{row['name']}": row["spend"] for row in accounts}, expected["accounts"])
    for account in {row["account"] for row in accounts}:
        parts = [row for row in accounts if row["account"] == account]
        assert sum(Fraction(row["spend"]) for row in parts) == Fraction(expected["spend"]), "parts sum to the whole"
        assert sum(row["events"] for row in parts) == expected["events"]

    _same({row["operation"]: row["spend"] for row in answers["top_operations"]}, expected["operations"])
    _same({f"{row['provider']}/{row['model']}": row["spend"] for row in answers["top_models"]}, expected["models"])
    _same({row["session"]: row["spend"] for row in answers["spend_by_session"]}, expected["sessions"])
    runs = answers["spend_by_run"]
    _same({row["run"]: row["own_spend"] for row in runs}, {run: own for run, (own, _) in expected["runs"].items()})
    _same({row["run"]: row["spend"] for row in runs}, {run: whole for run, (_, whole) in expected["runs"].items()})
    assert max(row["depth"] for row in runs) > 1

    for row in answers["latency_by_operation"]:
        counted = expected["latency"][row["operation"]]
        assert (row["p50_us"], row["p95_us"], row["p99_us"]) == (counted["p50"], counted["p95"], counted["p99"])
        assert (row["calls"], row["failed_calls"]) == (counted["calls"], counted["failed"])
        assert abs(Fraction(row["failure_rate"]) - Fraction(counted["failed"], counted["calls"])) < Fraction(1, 10**6)

    rates = {f"{row['provider']}/{row['model']}": row for row in answers["rate_by_provider"]}
    assert {model: row["requests_per_minute"] for model, row in rates.items()} == {
        model: requests for model, (requests, _) in expected["rates"].items()
    }
    _same(
        {model: row["tokens_per_minute"] for model, row in rates.items()},
        {model: tokens for model, (_, tokens) in expected["rates"].items()},
    )
    edges = {
        f"{row['caller']} -> {row['callee']}": [row["calls"], row["traces"]] for row in answers["service_dependencies"]
    }
    assert edges == expected["dependencies"]
    assert [row["id"] for row in answers["dearest_calls"]] == expected["dearest"]

    waste = {f"{row['agent']}/{row['operation']}": row for row in answers["wasted_spend"]}
    assert waste.keys() == expected["waste"].keys()
    for key, (failed, on_failed, repeated, on_repeated) in expected["waste"].items():
        row = waste[key]
        assert (row["failed_calls"], row["repeated_calls"]) == (failed, repeated)
        assert Fraction(row["spend_on_failed_calls"]) == Fraction(on_failed)
        assert Fraction(row["spend_on_repeated_calls"]) == Fraction(on_repeated)

    if behind:
        return
    hours = answers["spend_by_hour"]
    _same({f"{row['hour'].replace(' ', 'T')[:13]}/{row['customer']}": row["spend"] for row in hours}, expected["hours"])
    assert {row["events_behind"] for row in hours} == {0}


_RunRow = tuple[str, str, str, int, int]
"""Run, parent, currency, events, cost: a row of `run_sums`."""
_Costs = dict[tuple[str, str], tuple[int, int, int, int, int]]
"""By run and currency: own events and cost, those with all that it started, and how far down that goes."""


def _drawn_runs(seed: int) -> list[_RunRow]:
    """A chain of 80; then trees, and graphs with circles, where runs say a parent now and then."""
    if seed == 0:
        return [(f"r{run}", f"r{run - 1}" if run else "", "USD", 1, run) for run in range(80)]
    draw = random.Random(seed)
    size = draw.choice((3, 12, 40))
    rows: list[_RunRow] = [("", "r0", "USD", 1, 1)]
    for _ in range(3 * size):
        run = draw.randrange(size)
        parent = f"r{draw.randrange(size)}" if seed % 2 else f"r{(run - 1) // 2}"
        said = draw.choice((parent, parent, parent, "", "gone" if run % 7 == 0 else ""))
        rows.append((f"r{run}", said, draw.choice(("USD", "USD", "EUR")), draw.randrange(1, 4), draw.randrange(100)))
    return rows


def _costs_of_runs(rows: list[_RunRow]) -> _Costs:
    parents: dict[str, str] = {}
    for run, parent, *_ in rows:
        if run:
            parents[run] = max(parents.get(run, ""), parent)
    found: _Costs = {}
    for run, _, currency, events, cost in rows:
        line: list[str] = []
        while len(line) < 65 and (following := parents.get(line[-1], "") if line else run) not in ("", *line):
            line.append(following)
        for depth, root in enumerate(line):
            if root in parents:
                own_events, own_cost, all_events, all_cost, deepest = found.get((root, currency), (0, 0, 0, 0, 0))
                own = not depth
                found[root, currency] = (
                    own_events + own * events,
                    own_cost + own * cost,
                    all_events + events,
                    all_cost + cost,
                    max(deepest, depth),
                )
    return found


def test_runs_are_counted_at_all_that_they_descend_from(tmp_path: Path) -> None:
    """Also where parents go round in a circle, which ends where it would come round, or beyond 64 of them."""
    with opened(tmp_path / "clickhouse") as clickhouse:
        columns = "run_id String, parent_id String, currency String, events UInt64, cost Decimal(38, 12)"
        clickhouse.command(f"CREATE TABLE drawn ({columns}) ENGINE = Memory")
        keys = ", ".join(
            f"if({name}_id = '', 0, reinterpretAsUInt128(SHA256({name}_id))) AS {name}_key"
            for name in ("run", "parent")
        )
        for view in ("run_sums", "parents_read"):
            clickhouse.command(f"CREATE OR REPLACE VIEW {view} AS SELECT *, {keys} FROM drawn")
        for seed in range(8):
            rows = _drawn_runs(seed)
            clickhouse.command("TRUNCATE TABLE drawn")
            clickhouse.command(f"INSERT INTO drawn VALUES {', '.join(map(str, rows))}")
            expected = _costs_of_runs(rows)
            answer = clickhouse.rows((QUERIES / "spend_by_run.sql").read_text("utf-8"))
            assert {(run, currency): tuple(rest) for run, currency, *rest, _ in answer} == expected, seed
            assert [row[5] for row in answer] == sorted((row[5] for row in answer), reverse=True)
            assert len(answer) == len(expected)
            if len({currency for _, _, currency, *_ in rows}) == 1:
                plan = clickhouse.raw("EXPLAIN PLAN " + (QUERIES / "spend_by_run.sql").read_text("utf-8"), "TSVRaw")
                grouped = [line for line in plan.decode().splitlines() if "Keys: " in line]
                assert len(grouped) >= 2
                assert not any("USD" in line for line in grouped), "a text among the keys takes half as long again"


async def test_quotas_and_budgets_are_compared_with_usage(clickhouse: ClickHouse, expected: dict[str, Any]) -> None:
    model = "openai/gpt-5"
    requests, tokens = expected["rates"][model]
    clickhouse.command("INSERT INTO provider_quotas VALUES ('openai', 'gpt-5', 2, 1000)")
    rates = {f"{row['provider']}/{row['model']}": row for row in _answer(clickhouse, "rate_by_provider")}
    assert Fraction(rates[model]["share_of_requests"]) == Fraction(requests, 2)
    assert abs(Fraction(rates[model]["share_of_tokens"]) - Fraction(tokens) / 1000) < Fraction(1, 10**6)
    assert rates["anthropic/claude"]["share_of_requests"] is None

    budgets = [
        {"name": "daily", "scope": "agent", "subject": "*", "window": "day", "limit": "1000000000", "currency": "USD"},
        {"name": "one", "scope": "agent", "subject": "agent-1", "window": "day", "limit": "5", "currency": "USD"},
        {"name": "tokens", "scope": "agent", "subject": "*", "window": "day", "limit": "5", "meters": ["input_tokens"]},
    ]
    put_budgets(clickhouse, parse_budgets(orjson.dumps({"version": 1, "budgets": budgets})))
    rows = _answer(clickhouse, "unused_budget")
    daily = [row for row in rows if row["budget"] == "daily"]
    _same(
        {f"{row['start']}/{row['subject']}": Fraction(10**9) - Fraction(row["unused"]) for row in daily},
        expected["days"],
    )
    assert {row["subject"] for row in rows if row["budget"] == "one"} <= {"agent-1"}
    assert {row["budget"] for row in rows} <= {"daily", "one"}


async def test_the_price_books_in_force_are_noted(clickhouse: ClickHouse) -> None:
    ((version, currency, prices, content),) = clickhouse.rows(
        "SELECT version, currency, prices, content FROM price_books FINAL"
    )
    assert (version, currency, prices) == (1, "USD", 3)
    assert orjson.loads(content)["version"] == 1
