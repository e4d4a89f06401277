"""Alerts, checkpoints and price books in ClickHouse: each once, whatever is raised, read or made again."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof.kafka.connection import admin_client
from meterproof.kafka.price_books import publish_price_book
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof_local.broker import LocalBroker
from meterproof_schemas.budget import Alert, alert_key, encode
from meterproof_schemas.checkpoint_record import CheckpointRecord, checkpoint_key, encode_checkpoint_record
from meterproof_schemas.topics import Topic
from meterproof_sinks import followed_topics, small_topic
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.disk import Disk
from meterproof_sinks.erasure import new_erasure
from meterproof_sinks.followed_topics import FOLLOWED, follow_topics
from meterproof_sinks.price_book_folder import follow_price_books, kept_price_books
from meterproof_sinks.row_erasure import erase_rows
from tests.alerts import alert
from tests.builders import DEPLOYMENT, NOW_MS
from tests.integration.sinks.clickhouse_folder import new_sink, one, opened
from tests.log_builder import checkpoint_record
from tests.rated_log import BOOKS, RatedLog

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse]

_PATIENCE_S = 90.0
_QUERIES = Path(__file__).parents[3] / "sinks" / "queries"


@pytest.fixture
async def kafka(broker: LocalBroker, topic_prefix: str) -> KafkaSettings:
    settings = KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)
    deployment = Deployment("meter.example.com/test", DEPLOYMENT, 2)
    await create_topics(settings, deployment, now_ms=NOW_MS, random_bytes=os.urandom)
    return settings


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[ClickHouse]:
    with opened(tmp_path / "clickhouse") as database:
        yield database


async def _raise(kafka: KafkaSettings, *alerts: Alert) -> None:
    async with RecordProducer(kafka) as producer:
        for number, raised in enumerate(alerts):
            await (await producer.send(kafka.topic(Topic.ALERTS), number % 2, encode(raised), alert_key(raised)))


async def _checkpoint(kafka: KafkaSettings, *records: CheckpointRecord) -> None:
    async with RecordProducer(kafka) as producer:
        for record in records:
            value, key = encode_checkpoint_record(record), checkpoint_key(record.header)
            await (await producer.send(kafka.topic(Topic.CHECKPOINTS), 0, value, key))


async def _put(kafka: KafkaSettings, topic: Topic, value: bytes | None, key: bytes) -> None:
    async with RecordProducer(kafka) as producer:
        await (await producer.send(kafka.topic(topic), 0, value, key))


@asynccontextmanager
async def _following(clickhouse: ClickHouse, kafka: KafkaSettings) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(follow_topics(clickhouse, kafka, stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(_PATIENCE_S):
            await task


async def _until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.1)


def _taken(clickhouse: ClickHouse, topic: Topic) -> int:
    """Records that progress speaks for."""
    rows = clickhouse.rows(
        "SELECT topic_partition, argMax(next, written_at) FROM topic_progress WHERE endsWith(topic, {t:String}) "
        "GROUP BY topic_partition",
        {"t": topic.value},
    )
    return sum(int(next_) for _, next_ in rows)


def _answer(clickhouse: ClickHouse, name: str) -> list[dict[str, Any]]:
    sql = (_QUERIES / f"{name}.sql").read_text("utf-8")
    return [orjson.loads(line) for line in clickhouse.raw(sql, "JSONEachRow").splitlines()]


async def test_alerts_are_there_once_as_they_were_said_last(clickhouse: ClickHouse, kafka: KafkaSettings) -> None:
    first = [alert(f"agent-{number}") for number in range(4)]
    of_a_team = alert("a team", scope="team", meters=("requests",), currency=None, budget="units", spend="-3")
    async with _following(clickhouse, kafka):
        await _raise(kafka, *first, of_a_team)
        await _until(lambda: _taken(clickhouse, Topic.ALERTS) == 5)
        await _raise(kafka, alert("agent-2", spend="21"), alert("agent-1", threshold="100", spend="25", position=9))
        await _put(kafka, Topic.ALERTS, None, alert_key(first[0]))
        await _put(kafka, Topic.ALERTS, b'{"v":2}', b"of a later version")
        await _until(lambda: _taken(clickhouse, Topic.ALERTS) == 9)

    def told() -> list[tuple[Any, ...]]:
        return clickhouse.rows("SELECT subject, threshold, spend FROM alerts ORDER BY subject, threshold")

    expected = [
        ("a team", Decimal(80), Decimal(-3)),
        *((f"agent-{number}", Decimal(80), Decimal("20.000000000001")) for number in (0, 1)),
        ("agent-1", Decimal(100), Decimal(25)),
        ("agent-2", Decimal(80), Decimal(21)),
        ("agent-3", Decimal(80), Decimal("20.000000000001")),
    ]
    assert told() == expected
    rows = _answer(clickhouse, "alerts_by_agent")
    assert [(row["agent"], row["alerts"], row["exhausted"]) for row in rows] == [
        ("agent-1", 2, 1),
        ("agent-0", 1, 0),
        ("agent-2", 1, 0),
        ("agent-3", 1, 0),
    ]
    assert all(row["up_to"] for row in rows)
    ((place, error),) = clickhouse.rows("SELECT log, error FROM quarantine FINAL WHERE kind = 'usage_alerts'")
    assert place == f"{kafka.topic(Topic.ALERTS)}[0]"
    assert error

    clickhouse.command("TRUNCATE TABLE topic_progress")
    async with _following(clickhouse, kafka):
        await _until(lambda: _taken(clickhouse, Topic.ALERTS) == 9)
    assert told() == expected, "read again from the beginning"
    assert one(clickhouse, "SELECT count() FROM quarantine FINAL") == 1


async def test_a_topic_that_was_made_again_is_read_from_its_beginning(
    clickhouse: ClickHouse, kafka: KafkaSettings
) -> None:
    await _raise(kafka, alert("agent-0"), alert("agent-1"), alert("agent-2"))
    # What an older topic of this name left: progress beyond this one's end, and within it, of another record.
    clickhouse.command(
        "INSERT INTO topic_progress (topic, topic_partition, next, digest) VALUES ({t:String}, 0, 1, 'ab'), "
        "({t:String}, 1, 700, '')",
        {"t": kafka.topic(Topic.ALERTS)},
    )
    async with _following(clickhouse, kafka):
        await _until(lambda: one(clickhouse, "SELECT count() FROM alerts") == 3)


async def test_price_books_of_a_topic_that_is_made_again_meanwhile_are_read(
    clickhouse: ClickHouse, kafka: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it holds as many records as before; by both who follow it."""
    for module in (followed_topics, small_topic):
        monkeypatch.setattr(module, "LOOK_INTERVAL_S", 0.05)
    stop, (first, second) = asyncio.Event(), list(BOOKS.values())[:2]
    await publish_price_book(kafka, first)
    audit = asyncio.create_task(follow_price_books(tmp_path, kafka, stop=stop, disk=Disk()))
    async with _following(clickhouse, kafka):
        for book in (first, second):
            await _until(lambda book=book: clickhouse.rows("SELECT max(version) FROM price_books") == [(book.version,)])  # type: ignore[misc]
            await _until(lambda book=book: book.version in kept_price_books(tmp_path))  # type: ignore[misc]
            if book is first:
                async with admin_client(kafka) as admin:
                    await admin.delete_topics([kafka.topic(Topic.PRICE_BOOKS)])
                    while kafka.topic(Topic.PRICE_BOOKS) in await admin.list_topics():  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                deployment = Deployment("meter.example.com/test", DEPLOYMENT, 2)
                await create_topics(kafka, deployment, now_ms=NOW_MS, random_bytes=os.urandom)
                await publish_price_book(kafka, second)
    stop.set()
    async with asyncio.timeout(_PATIENCE_S):
        await audit


async def test_an_erased_name_does_not_come_back_with_the_topic(clickhouse: ClickHouse, kafka: KafkaSettings) -> None:
    await _raise(kafka, alert("agent-0"), alert("agent-1"), alert("acme", scope="customer"))
    async with _following(clickhouse, kafka):
        await _until(lambda: one(clickhouse, "SELECT count() FROM alerts") == 3)
    erasure = new_erasure(
        "agent", "agent-1", requested_by="a", reason="b", now_ms=time.time_ns() // 1_000_000, random_bytes=os.urandom
    )
    erase_rows(clickhouse, erasure)
    left = [("acme",), ("agent-0",)]
    assert clickhouse.rows("SELECT subject FROM alerts ORDER BY subject") == left
    clickhouse.command("TRUNCATE TABLE topic_progress")
    async with _following(clickhouse, kafka):
        await _until(lambda: _taken(clickhouse, Topic.ALERTS) == 3)
    assert clickhouse.rows("SELECT subject FROM alerts ORDER BY subject") == left


async def test_checkpoints_cover_the_log_and_prices_are_those_published(
    clickhouse: ClickHouse, kafka: KafkaSettings
) -> None:
    log = RatedLog(seed=5)
    log.grow(6)
    sink = new_sink(clickhouse)
    await sink.cursor(0)
    await sink.write(0, log.genesis, log.records)
    for book in BOOKS.values():
        await publish_price_book(kafka, book)
    early, late = checkpoint_record(log, -3), checkpoint_record(log, -2)
    await _checkpoint(kafka, early, late, late)
    async with _following(clickhouse, kafka):
        await _until(lambda: one(clickhouse, "SELECT count() FROM checkpoints") == 2)
        await _until(lambda: _taken(clickhouse, Topic.PRICE_BOOKS) == len(BOOKS))
    (row,) = _answer(clickhouse, "checkpoint_coverage")
    assert (row["log"], row["events"], row["covered"]) == (log.origin, log.state.position, late.header.size)
    assert (row["not_covered"], row["checkpoints"], row["agrees"]) == (log.state.position - late.header.size, 2, 1)

    # A second root for a size is kept beside the first, and shown.
    await _checkpoint(kafka, checkpoint_record(log, -2, b"\1" * 32))
    async with _following(clickhouse, kafka):
        await _until(lambda: one(clickhouse, "SELECT count() FROM checkpoints") == 3)
    (row,) = _answer(clickhouse, "checkpoint_coverage")
    assert row["agrees"] == 0

    prices = _answer(clickhouse, "price_versions")
    assert [
        (row["version"], row["number"], row["meter"], row["amount"], row["per"], row["currency"]) for row in prices
    ] == [
        (book.version, number, price.meter, price.amount, int(price.per), book.currency)
        for book in BOOKS.values()
        for number, price in enumerate(book.prices, 1)
    ]
    spend = dict(clickhouse.rows("SELECT price_book, sum(cost) FROM usage GROUP BY price_book"))
    assert {row["version"]: Decimal(row["spend_of_version"]) for row in prices} == {
        version: spend.get(version, Decimal(0)) for version in BOOKS
    }


async def test_a_log_whose_rows_stand_still_is_noticed(clickhouse: ClickHouse, kafka: KafkaSettings) -> None:
    """What is signed comes in all the same, and totals are not called complete behind it."""
    stuck, other = (RatedLog(seed=5 + partition, partition=partition, partitions=2) for partition in range(2))
    other._made = 1_000
    complete = "SELECT toUnixTimestamp64Milli(append_time) FROM complete_up_to"
    sink = new_sink(clickhouse)
    stuck.grow(3)
    await sink.write(0, stuck.genesis, stuck.records)
    carried_ms = stuck.clock_ms
    stuck.batch(stuck.rich_events(7), after_ms=60_000)
    await _checkpoint(kafka, checkpoint_record(stuck, -2), checkpoint_record(stuck))
    async with _following(clickhouse, kafka):
        await _until(lambda: one(clickhouse, "SELECT count() FROM checkpoints") == 2)
    other.clock_ms = carried_ms
    other.batch(other.rich_events(2))
    await sink.write(1, other.genesis, other.records)
    assert clickhouse.rows("SELECT log, events_behind, lags FROM up_to ORDER BY log") == [
        (stuck.origin, 7, 1),
        (other.origin, 0, 0),
    ]
    assert one(clickhouse, complete) == carried_ms
    await sink.write(0, stuck.genesis, stuck.records[-1:])
    assert one(clickhouse, "SELECT sum(lags) FROM up_to") == 0
    assert one(clickhouse, complete) > carried_ms


def test_every_table_of_a_topic_has_its_topic() -> None:
    assert {one.table for one in FOLLOWED} == {"usage_alerts", "usage_checkpoints", "price_books"}
