"""Failures that others reported: that each has a test, and the tests that belong nowhere else."""

import asyncio
import re
import time
from decimal import Decimal
from pathlib import Path

import orjson
import pytest

from meterproof.kafka.price_books import publish_price_book
from meterproof_local.broker import LocalBroker
from meterproof_schemas.instant import parse_instant_us
from meterproof_schemas.price_book import DEFAULT_METERS, parse_price_book
from tests.builders import make_event
from tests.chaos.faults import FAULTS
from tests.integration.stream.test_checkpointer_and_budgets import budget_state, wait_for
from tests.integration.stream.workers import Pipeline, whatever_runs_it

TESTS = Path(__file__).parents[1]
README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
DAY_MS = 24 * 3_600_000


def test_every_test_and_fault_that_the_table_names_exists() -> None:
    named = re.findall(r"`([a-z_/0-9]+\.py)::(test_\w+)`", README)
    assert len(named) > 20
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (TESTS / file).exists() or f"def {name}(" not in (TESTS / file).read_text(encoding="utf-8")
    ]
    assert missing == []
    faults = re.findall(r"`chaos: ([^`…]+)`", README)
    assert faults
    assert set(faults) <= set(FAULTS)


@pytest.mark.broker
@whatever_runs_it
async def test_what_was_sent_before_anything_ran_is_counted(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: str
) -> None:
    """Before the first worker of the deployment ever started there is no group, no offset and no state."""
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=2)
    for partition in range(2):
        await pipeline.send(partition, [pipeline.batch(partition, pipeline.new_events(partition, 3))])
    with pipeline.worker("--runtime", runtime) as worker:
        await pipeline.wait_until_sequenced(worker)
        assert await asyncio.to_thread(worker.stop) == 0, worker.log()
    await pipeline.check()


@pytest.mark.broker
async def test_a_retry_after_its_period_ended_counts_in_its_own_period_and_once(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """An event of yesterday comes today, twice: yesterday pays for it, once, and today nothing."""
    pipeline = await Pipeline.create(
        broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1, horizon_ms=3 * DAY_MS
    )
    meters = [meter.model_dump() for meter in DEFAULT_METERS]
    prices = [{"provider": "*", "model": "*", "meter": "requests", "amount": "2"}]
    book = {"version": 1, "currency": "USD", "meters": meters, "prices": prices}
    await publish_price_book(pipeline.kafka, parse_price_book(orjson.dumps(book)))
    now_ms = time.time_ns() // 1_000_000
    line = make_event("late", time_ms=now_ms - DAY_MS, data={"provider": "p", "model": "m"})
    budget = {"name": "day", "scope": "agent", "subject": "*", "window": "day", "limit": "20", "currency": "USD"}
    (pipeline.data / "budgets.json").write_bytes(
        orjson.dumps({"version": 1, "budgets": [budget | {"thresholds": ["100"]}]})
    )
    with pipeline.worker() as worker:
        await pipeline.send(0, [pipeline.batch(0, [line]), pipeline.batch(0, [line])])
        await pipeline.wait_until_sequenced(worker)
        assert await asyncio.to_thread(worker.stop) == 0, worker.log()
    assert (await pipeline.log(0)).counts == {"accepted": 1, "duplicate": 1}
    with pipeline.worker("--interval-s=0.05", stage="budgets", instance="adds-up") as budgets:
        await wait_for(budgets, pipeline, "marked")
        assert await asyncio.to_thread(budgets.stop) == 0, budgets.log()
    sums, _ = await budget_state(pipeline, 0)
    [total] = sums.values()
    yesterday_us = (now_ms - DAY_MS) // DAY_MS * DAY_MS * 1_000
    assert (parse_instant_us(total.start), total.events, Decimal(total.spend)) == (yesterday_us, 1, Decimal(2))
