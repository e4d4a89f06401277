"""No sum is written before the alerts that follow from it, however they are sent."""

import asyncio
from typing import cast

import pytest

from meterproof.kafka.errors import DeliveryRefused
from meterproof.kafka.producer import Delivery, Posted, RecordProducer
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.chain import LogChain
from meterproof_schemas.log_record import Limits, decode_record, make_genesis
from meterproof_stream.budget_follower import BudgetFollower
from meterproof_stream.budget_ledger import BudgetLedger
from meterproof_stream.budgets import BudgetLane
from meterproof_stream.raised_alerts import RaisedAlerts
from tests.builders import NOW_MS
from tests.unit.stream.test_budget_sums import BOOK, BUDGETS, DEFINITION, HORIZON_MS, LOGS, Log, origin

PATIENCE_S = 60
ALERTS, SUMS = "usage.alerts", "usage.budget-state"


class Producer:
    """Notes what it is given; its answers come when they are let go, for Kafka's cannot be made to wait or to fail."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.answers = asyncio.Event()
        self.refuses = False

    async def send(
        self, topic: str, partition: int, value: bytes | None, key: bytes | None = None
    ) -> "asyncio.Future[Delivery]":
        del value, key
        self.topics.append(topic)
        return asyncio.ensure_future(self._answer(topic, partition))

    async def post(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> Posted:
        return Posted(await self.send(topic, partition, value, key), 0, NOW_MS)

    async def _answer(self, topic: str, partition: int) -> Delivery:
        await self.answers.wait()
        if self.refuses:
            raise DeliveryRefused(topic, partition, "no")
        return Delivery(topic, partition, 0, NOW_MS)


def lane_of(producer: Producer) -> BudgetLane:
    limits = Limits(
        line_bytes_max=1, batch_bytes_max=1, batch_lines_max=1, future_tolerance_ms=1, horizon_ms=1, corrections=True
    )
    value = make_genesis(
        name="meter.example.com/test",
        epoch="0f" * 16,
        deployment="d",
        source_topic="usage.batches",
        partition=0,
        partitions=LOGS,
        limits=limits,
        created_ms=0,
    )
    genesis = decode_record(value).header.genesis
    assert genesis is not None
    kafka, chain = KafkaSettings(), LogChain()
    chain.log_offset = 0
    return BudgetLane(
        chain=chain,
        genesis=genesis,
        ledger=BudgetLedger(origin(0), HORIZON_MS, BUDGETS, lambda _: BOOK),
        raised=RaisedAlerts(),
        definition=DEFINITION,
        producer=cast("RecordProducer", producer),
        kafka=kafka,
        follower=BudgetFollower(kafka, BUDGETS, HORIZON_MS, {}),
        marker=None,
        read_to=0,
    )


def log_of(agents: int) -> Log:
    """One record for each agent, by which it spends all that it may."""
    log = Log(0)
    for number in range(agents):
        event = {"agent": f"agent-{number}", "customer": "acme", "team": None, "time_ms": NOW_MS}
        log.append([{**event, "usage": {"requests": 12}}], NOW_MS)
    return log


async def settled(producer: Producer, sent: int) -> None:
    """Wait until so many records were handed over, and whoever can go on has gone on."""
    async with asyncio.timeout(PATIENCE_S):
        while len(producer.topics) < sent:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)


async def test_alerts_are_sent_at_once_and_all_of_them_before_the_first_sum() -> None:
    producer, (first, second) = Producer(), log_of(2).records
    lane = lane_of(producer)
    lane.take(0, first)
    await settled(producer, 3)
    assert producer.topics == [ALERTS] * 3
    lane.take(1, second)  # whose alerts find others on their way
    flushing = asyncio.create_task(lane.flush())
    await settled(producer, 3)
    assert producer.topics == [ALERTS] * 3
    producer.answers.set()
    await asyncio.wait_for(flushing, PATIENCE_S)
    assert producer.topics[:6] == [ALERTS] * 6
    assert set(producer.topics[6:]) == {SUMS}


async def test_alerts_that_were_refused_let_no_sum_be_written() -> None:
    producer, (first, second) = Producer(), log_of(2).records
    producer.refuses = True
    producer.answers.set()
    lane = lane_of(producer)
    lane.take(0, first)
    await settled(producer, 3)
    lane.take(1, second)
    for _ in range(2):
        with pytest.raises(DeliveryRefused):
            await asyncio.wait_for(lane.flush(), PATIENCE_S)
    assert set(producer.topics) == {ALERTS}
