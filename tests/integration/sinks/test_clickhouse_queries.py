"""The queries that analysts start from give the numbers that the log says."""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof_schemas.event import parse_event
from meterproof_sinks.clickhouse import ClickHouse
from tests.integration.sinks.clickhouse_folder import new_sink, opened
from tests.rated_log import RatedLog, costs

pytestmark = pytest.mark.clickhouse

QUERIES = Path(__file__).parents[3] / "sinks" / "queries"


@pytest.fixture(scope="module")
def log() -> RatedLog:
    made = RatedLog(seed=11)
    made.grow(40)
    made.source(b"nobody vouches for this\n")
    return made


@pytest.fixture
async def clickhouse(tmp_path: Path, log: RatedLog) -> Any:
    with opened(tmp_path / "clickhouse") as database:
        await new_sink(database).write(0, log.genesis, log.records)
        yield database


def _answer(clickhouse: ClickHouse, name: str) -> list[dict[str, Any]]:
    sql = (QUERIES / f"{name}.sql").read_text("utf-8")
    return [orjson.loads(line) for line in clickhouse.raw(sql, "JSONEachRow").splitlines()]


def _events(log: RatedLog) -> Iterator[tuple[Any, Decimal, str]]:
    currencies = {0: "", 1: "USD", 2: "EUR"}
    lines = [(line, currencies[r.header.price_book]) for _, r in log.records for line in r.lines]
    for (line, currency), cost in zip(lines, costs(log.records), strict=True):
        yield parse_event(line), cost, currency


async def test_every_query_that_is_shipped_is_run_by_a_test(clickhouse: ClickHouse) -> None:
    tests = "".join(file.read_text("utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    names = {file.stem for file in QUERIES.glob("*.sql")}
    assert len(names) >= 18
    assert [name for name in sorted(names) if f'"{name}"' not in tests] == []
    for file in QUERIES.glob("*.sql"):
        assert file.read_text("utf-8").startswith("-- "), "a query begins by saying what it answers"


async def test_a_query_that_is_asked_again_is_not_compiled(clickhouse: ClickHouse) -> None:
    """The engine would do it at the third time, for longer than the query takes."""
    compiled = "SELECT sum(value) FROM system.events WHERE event = 'CompileFunction'"  # of the whole process
    before = clickhouse.rows(compiled)
    for _ in range(5):
        _answer(clickhouse, "usage_summary")
    assert clickhouse.rows(compiled) == before


async def test_spend_by_agent(clickhouse: ClickHouse, log: RatedLog) -> None:
    spend: dict[tuple[str, str], Decimal] = {}
    events: Counter[tuple[str, str]] = Counter()
    for event, cost, currency in _events(log):
        key = event.subject, currency
        spend[key] = spend.get(key, Decimal(0)) + cost
        events[key] += 1
    rows = _answer(clickhouse, "spend_by_agent")
    assert {(row["agent"], row["currency"]): Decimal(str(row["spend"])) for row in rows} == spend
    assert {(row["agent"], row["currency"]): row["events"] for row in rows} == events
    assert [Decimal(str(row["spend"])) for row in rows] == sorted(spend.values(), reverse=True)


async def test_usage_by_customer_and_day(clickhouse: ClickHouse, log: RatedLog) -> None:
    expected: dict[tuple[str, str, str], Decimal] = {}
    for event, _, _ in _events(log):
        for meter, quantity in event.data.usage.items():
            key = event.data.customer, event.time[:10], meter
            expected[key] = expected.get(key, Decimal(0)) + Decimal(quantity)
    rows = _answer(clickhouse, "usage_by_customer_and_day")
    found = {(row["customer"], row["day"], row["meter"]): Decimal(str(row["quantity"])) for row in rows}
    assert found == expected
    assert len({day for _, day, _ in found}) > 1


async def test_tokens_by_model(clickhouse: ClickHouse, log: RatedLog) -> None:
    expected: dict[str, Decimal] = {}
    for event, _, _ in _events(log):
        if event.data.model:
            tokens = [event.data.usage.get(meter, 0) for meter in ("input_tokens", "output_tokens")]
            expected[event.data.model] = expected.get(event.data.model, Decimal(0)) + sum(map(Decimal, tokens))
    rows = _answer(clickhouse, "tokens_by_model")
    assert {row["model"]: Decimal(str(row["tokens"])) for row in rows} == expected


async def test_duplicates_and_refusals_by_producer(clickhouse: ClickHouse, log: RatedLog) -> None:
    counts = log.state.counts
    rows = _answer(clickhouse, "duplicates_and_refusals_by_producer")
    assert all(row.pop("up_to") for row in rows)
    assert rows == [
        {
            "producer": "",
            "batches": 1,
            "events": 0,
            "duplicate_lines": 0,
            "refused_lines": {},
            "refused_batches": 1,
            "reasons": ["malformed_batch"],
        },
        {
            "producer": "gateway",
            "batches": 40,
            "events": counts["accepted"],
            "duplicate_lines": counts["duplicate"],
            "refused_lines": {"malformed_event": counts["malformed_event"]},
            "refused_batches": 0,
            "reasons": [],
        },
    ]


async def test_reconciliation_finds_nothing_until_something_is_wrong(clickhouse: ClickHouse, log: RatedLog) -> None:
    assert _answer(clickhouse, "reconciliation") == []
    other = RatedLog(epoch="ee" * 16, partition=1, partitions=2)
    again = parse_event(log.records[1][1].lines[0])
    other.batch([other.rich_event(event_id=again.id, source=again.source)])
    await new_sink(clickhouse).write(1, other.genesis, other.records)
    found = _answer(clickhouse, "reconciliation")
    assert found == [{"difference": "one identity under two agents", "place": again.source, "detail": again.id}]
    clickhouse.command("ALTER TABLE usage_rows DELETE WHERE position = 7 SETTINGS mutations_sync = 2")
    assert [row["difference"] for row in _answer(clickhouse, "reconciliation")] == [
        "one identity under two agents",
        "records and events disagree",
        "rows are not dense",
    ]
