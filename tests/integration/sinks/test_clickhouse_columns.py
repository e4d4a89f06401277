"""What an event says arrives in ClickHouse as it was said: every field, exact, whatever its text is made of."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof_schemas.correction import correction_line
from meterproof_schemas.event import UsageData, entry_of
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.clickhouse_sink import ClickHouseSink, UnknownPriceBook
from meterproof_sinks.usage_rows import RecordLines, event_rows, sent_of
from tests.builders import make_event, make_genesis_record, make_key, make_limits
from tests.integration.sinks.clickhouse_folder import insert_events, new_sink, one, opened
from tests.rated_log import BOOKS, HOSTILE, RatedLog

pytestmark = pytest.mark.clickhouse

FULL: dict[str, Any] = {
    "customer": "acme",
    "usage": {"requests": 1, "output_tokens": "17.000000000001", "seconds": "999999999999999999.999999999999"},
    "operation": "chat.completions",
    "surface": "llm",
    "status": "payment_required",
    "status_code": 402,
    "provider": "openai",
    "model": "gpt-5",
    "latency": {"total_us": 2**63 - 1, "queue_us": 0, "upstream_us": 12, "first_token_us": 3},
    "request_bytes": 0,
    "response_bytes": 2**63 - 1,
    "session": "session-1",
    "user": "user-1",
    "run": "run-1",
    "parent": "parent-1",
    "traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01",
    "cost": {"amount": "0.000000000001", "currency": "CHF"},
    "tags": {"team": "a", "cost centre": "b"},
    "governance": {"residency": "eu", "purpose": "support", "consent": "consent-1"},
    "request_signature": "signature\twith\nlines",
    "receipt": "receipt",
    "salt": "00ff" * 8,
}


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[ClickHouse]:
    with opened(tmp_path / "clickhouse") as database:
        yield database


async def _carry(clickhouse: ClickHouse, log: RatedLog) -> None:
    await new_sink(clickhouse).write(log.partition, log.genesis, log.records)


def _row(clickhouse: ClickHouse, event_id: str) -> dict[str, Any]:
    row: dict[str, Any] = orjson.loads(
        clickhouse.raw("SELECT * FROM usage WHERE id = {id:String}", "JSONEachRow", {"id": event_id})
    )
    return row


async def test_every_optional_field_round_trips(clickhouse: ClickHouse) -> None:
    log = RatedLog(genesis_value=make_genesis_record(limits=make_limits(corrections=True)))
    assert set(UsageData.model_fields) == {*FULL, "corrects"}, "this test knows every field of the contract"
    time = "2026-01-01T00:00:00.123456789Z"
    log.batch([make_event("full", data=FULL, time=time)])
    lost = make_event("lost", usage={"requests": "1.5"})
    log.batch([correction_line(lost, correction_id="void", kind="void", salt="0" * 32)])
    assert log.records[-1][1].header.accepted == 1
    await _carry(clickhouse, log)

    row = _row(clickhouse, "full")
    data = FULL
    header = log.records[1][1].header
    assert row == {
        "log": log.origin,
        "position": 0,
        "entry": one(clickhouse, "SELECT lower(hex(SHA256({l:String})))", {"l": log.records[1][1].lines[0].decode()}),
        "event_time": "2026-01-01 00:00:00.123456",
        "append_time": "2026-01-01 00:00:01.000",
        "id": "full",
        "source": "gateway/chat",
        "agent": "agent-0",
        "customer": "acme",
        "operation": data["operation"],
        "surface": data["surface"],
        "status": data["status"],
        "status_code": 402,
        "provider": data["provider"],
        "model": data["model"],
        "latency_us": 2**63 - 1,
        "queue_us": 0,
        "upstream_us": 12,
        "first_token_us": 3,
        "request_bytes": 0,
        "response_bytes": 2**63 - 1,
        "session": data["session"],
        "user_id": data["user"],
        "run_id": data["run"],
        "parent_id": data["parent"],
        "traceparent": data["traceparent"],
        "usage": row["usage"],
        "tokens": "17.000000000001",
        "units": "1000000000000000018",
        "cost": row["cost"],
        "currency": "USD",
        "price_book": 1,
        "unpriced": ["seconds"],
        "stated_cost": row["stated_cost"],
        "stated_currency": "CHF",
        "tags": data["tags"],
        "residency": "eu",
        "purpose": "support",
        "consent": "consent-1",
        "corrects_id": "",
        "corrects_kind": "",
        "request_signature": data["request_signature"],
        "receipt": "receipt",
        "salt": data["salt"],
        "producer": "gateway",
        "instance": "00" * 16,
        "sequence": 0,
        "key_ids": [log.key.key_id],
    }
    assert header.size == 1
    exact = clickhouse.rows("SELECT usage, cost, stated_cost, event_time FROM usage WHERE id = 'full'")
    assert exact == [
        (
            {name: Decimal(quantity) for name, quantity in data["usage"].items()},
            Decimal("180.000000000019"),  # 18 whole output tokens and a request
            Decimal("0.000000000001"),
            datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC).replace(tzinfo=None),
        )
    ]
    void = clickhouse.rows("SELECT usage, corrects_id, corrects_kind, cost FROM usage_final WHERE id = 'void'")
    assert void == [({"requests": Decimal("1.5")}, "lost", "void", Decimal("0.000000000002"))]
    assert clickhouse.rows("SELECT id, corrects_id, kind, effect FROM corrections") == [
        ("void", "lost", "void", "unknown_target")
    ]
    assert clickhouse.rows("SELECT id FROM usage") == [("full",)]


async def test_what_an_event_does_not_say_is_not_made_up(clickhouse: ClickHouse) -> None:
    log = RatedLog(price_book=0)
    explicit = dict.fromkeys(set(FULL) - {"customer", "usage"})
    log.batch([make_event("bare"), make_event("nulls", data=explicit)])
    assert log.records[-1][1].header.accepted == 2
    await _carry(clickhouse, log)
    for event_id in ("bare", "nulls"):
        row = _row(clickhouse, event_id)
        said = {name: value for name, value in row.items() if value not in ("", None, {}, [], "0", 0)}
        assert set(said) - {"position"} == {
            "log", "entry", "event_time", "append_time", "id", "source", "agent", "customer", "usage", "units",
            "unpriced", "producer", "instance", "key_ids",
        }  # fmt: skip
        assert row["unpriced"] == ["requests"], "without a price book nothing is priced, and that is shown"


async def test_hostile_names_survive(clickhouse: ClickHouse) -> None:
    log = RatedLog(key=make_key("gate\\way'\"\u00e9 \\t"))
    lines = [
        make_event(
            f"{number} {name}",
            source=name,
            customer=name,
            data={"operation": name, "session": name, "tags": {name: name, "\\": "'"}},
        )
        for number, name in enumerate(HOSTILE)
    ]
    # The same text in another spelling of JSON, as other libraries than ours may send it.
    escaped = (
        '{"specversion":"1.0", "id":"esc","\\u0073ource":"gateway/chat","type":"meterproof.usage.v1",'
        '"subject":"agent-0","time":"2026-01-01T00:00:00.000Z","data" : {"customer":"\\u65e5\\ud83d\\ude00\\/",'
        '"usage":{"requests":1},'
        '"receipt":"a\\u0009b\\u0000c\\r\\n","x":[1e300,123456789012345678901234567890,{"id":"no"}]}}'
    )
    log.batch([*lines, escaped.encode()])
    assert log.records[-1][1].header.accepted == len(HOSTILE) + 1
    await _carry(clickhouse, log)
    found = clickhouse.rows("SELECT id, source, customer, operation, session, tags FROM usage ORDER BY position")
    assert found[:-1] == [
        (f"{number} {name}", name, name, name, name, {name: name, "\\": "'"}) for number, name in enumerate(HOSTILE)
    ]
    assert clickhouse.rows("SELECT id, source, customer, receipt, tags FROM usage WHERE id = 'esc'") == [
        ("esc", "gateway/chat", "日😀/", "a\tb\0c\r\n", {})
    ]
    assert clickhouse.rows("SELECT DISTINCT producer FROM usage") == [("gate\\way'\"\u00e9 \\t",)]
    assert one(clickhouse, "SELECT producer FROM records WHERE kind = 'batch'") == "gate\\way'\"\u00e9 \\t"
    assert one(clickhouse, "SELECT count() FROM usage WHERE customer = {c:String}", {"c": HOSTILE[3]}) == 1


async def test_quantities_are_exact_at_their_limits(clickhouse: ClickHouse) -> None:
    log = RatedLog(price_book=0)
    quantities: list[int | str] = [2**63 - 1, "999999999999999999.999999999999", "0.000000000001", "007.50", "0", 0]
    log.batch([make_event(f"q{n}", usage={"seconds": quantity}) for n, quantity in enumerate(quantities)])
    await _carry(clickhouse, log)
    found = clickhouse.rows("SELECT usage['seconds'] FROM usage ORDER BY position")
    assert [value for (value,) in found] == [Decimal(quantity) for quantity in quantities]
    total = one(clickhouse, "SELECT sum(usage['seconds']) FROM usage")
    assert total == sum((Decimal(quantity) for quantity in quantities), Decimal(0))


def _one_line(line: str) -> RecordLines:
    log = RatedLog()
    log.batch([make_event("e")])
    record = log.records[-1][1]
    rows, _ = event_rows(log.origin, [record], [sent_of(record)], BOOKS.get, frozenset())
    return RecordLines(log.origin, rows[0].shared, [0], rows[0].priced, line.encode())


async def test_a_line_that_the_engine_cannot_take_apart_is_refused_loudly(clickhouse: ClickHouse) -> None:
    for line in ('{"id":', "{}", '{"id":"a","data":{"usage":{}}}', '{"id":"a","data":{"usage":{"m":"1e400"}}}'):
        with pytest.raises(ClickHouseError):
            insert_events(clickhouse, [_one_line(line)])
    assert one(clickhouse, "SELECT count() FROM usage_rows") == 0


async def test_a_price_book_that_is_not_there_is_looked_for_once_and_then_named(clickhouse: ClickHouse) -> None:
    log = RatedLog(price_book=2)
    log.batch([log.rich_event()])
    published: dict[int, PriceBook] = {}
    read = 0

    async def read_books() -> dict[int, PriceBook]:
        nonlocal read
        read += 1
        await asyncio.sleep(0)
        return dict(published)

    sink = ClickHouseSink(clickhouse, read_books)
    with pytest.raises(UnknownPriceBook, match=r"price book 2.*published are none"):
        await sink.write(0, log.genesis, log.records)
    assert read == 1
    assert one(clickhouse, "SELECT count() FROM usage_rows") == 0
    assert await sink.cursor(0) is None
    published[2] = PriceBook(
        version=2, currency="USD", meters=DEFAULT_METERS, prices=(UnitPrice(meter="requests", amount="7"),)
    )
    await sink.write(0, log.genesis, log.records)
    await sink.write(0, log.genesis, log.records[:0])
    assert read == 2
    assert one(clickhouse, "SELECT sum(cost) FROM usage") == 7


async def test_a_cost_that_no_column_can_hold_is_set_aside_and_keeps_nothing_else_out(clickhouse: ClickHouse) -> None:
    log = RatedLog(price_book=9)
    dear = PriceBook(
        version=9, currency="USD", meters=DEFAULT_METERS, prices=(UnitPrice(meter="bytes", amount="9" * 18),)
    )
    log.accounts._books = {9: dear}
    dear_line = make_event("dear", usage={"bytes": 2**63 - 1})
    log.batch([make_event("one"), dear_line, make_event("two")])

    async def read_books() -> dict[int, PriceBook]:
        return {9: dear}

    await ClickHouseSink(clickhouse, read_books).write(0, log.genesis, log.records)
    assert clickhouse.rows("SELECT id FROM usage ORDER BY position") == [("one",), ("two",)]
    ((kind, position, digest, error, row),) = clickhouse.rows(
        "SELECT kind, position, digest, error, row FROM quarantine"
    )
    assert (kind, position, row) == ("event", 1, dear_line.decode())
    assert digest == entry_of(dear_line).hex()
    assert "by price book 9, more than Decimal(38, 12) can hold" in error
    assert one(clickhouse, "SELECT dense FROM density") == 0, "a row that is missing is never passed over in silence"
