"""The stages behind the log, as real processes: checkpoints that follow from the lines, budgets equal to the fold."""

import asyncio
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import orjson
import pytest

from meterproof.exit_codes import CLEAN, STOPPED
from meterproof.kafka.connection import admin_client
from meterproof.kafka.price_books import publish_price_book
from meterproof.log_key import LogKey
from meterproof_local.broker import LocalBroker
from meterproof_proofs.checkpoint import open_checkpoint
from meterproof_schemas.accounts import Accounts
from meterproof_schemas.budget import Alert, Marker, PartialSum, decode_alert, decode_budget_state
from meterproof_schemas.checkpoint_record import CheckpointRecord, decode_checkpoint_record
from meterproof_schemas.correction import correction_line
from meterproof_schemas.fold import LogState
from meterproof_schemas.log_record import decode_record
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice
from meterproof_schemas.topics import Topic
from meterproof_stream.runtime import Runtime
from tests.integration.stream.workers import Pipeline, Worker, whatever_runs_it

PATIENCE_S = 120
BOOK = PriceBook(
    version=1,
    currency="USD",
    meters=DEFAULT_METERS,
    prices=tuple(UnitPrice(meter=meter.name, amount="0.25") for meter in DEFAULT_METERS),
)
BUDGETS = {
    "version": 1,
    "budgets": [
        {"name": "month", "scope": "agent", "subject": "*", "window": "month", "limit": "20", "currency": "USD"},
        {"name": "minute", "scope": "agent", "subject": "*", "window": "minute", "limit": "9", "currency": "USD"},
    ],
}


async def deployment(
    broker: LocalBroker, prefix: str, data: Path, runtime: Runtime = Runtime.FAUST, *, partitions: int = 2
) -> Pipeline:
    """Topics, keys, a price book and budgets."""
    pipeline = await Pipeline.create(broker.bootstrap, prefix, data, runtime=runtime, partitions=partitions)
    await publish_price_book(pipeline.kafka, BOOK)
    LogKey(bytes(32)).save(data / "keys" / "log.key")
    (data / "budgets.json").write_bytes(orjson.dumps(BUDGETS))
    return pipeline


async def sequenced(pipeline: Pipeline, rounds: int = 5, *, correct: bool = False) -> None:
    """Batches of new events through a sequencer to the end of the log; some are taken back or replaced at once."""
    with pipeline.worker() as sequencer:
        for _ in range(rounds):
            for partition in range(pipeline.partitions):
                lines = pipeline.new_events(partition, 20)
                corrections = _corrections_of(lines) if correct else []
                await pipeline.send(partition, [pipeline.batch(partition, [*lines, *corrections])])
        await pipeline.wait_until_sequenced(sequencer)
        assert sequencer.stop() == CLEAN


_SPEND = {"void": Decimal("-0.25"), "again": Decimal(0), "replace": Decimal("0.25")}
"""What a line adds to spend, by the first word of its id; an event adds 0.25."""


def _corrections_of(lines: list[bytes]) -> list[bytes]:
    """A void, one more of the same event, and a replacement."""
    documents = [orjson.loads(line) for line in lines[:2]]
    twice = {meter: 2 * int(quantity) for meter, quantity in documents[1]["data"]["usage"].items()}
    return [
        correction_line(lines[0], correction_id=f"void {documents[0]['id']}", kind="void", salt="0" * 32),
        correction_line(lines[0], correction_id=f"again {documents[0]['id']}", kind="void", salt="0" * 32),
        correction_line(
            lines[1], correction_id=f"replace {documents[1]['id']}", kind="replace", salt="0" * 32, usage=twice
        ),
    ]


async def checkpoints(pipeline: Pipeline) -> list[CheckpointRecord]:
    """All checkpoints on the topic."""
    return [
        decode_checkpoint_record(record.value)
        for record in await pipeline.records(Topic.CHECKPOINTS, 0)
        if not (record.key or b"").endswith(b"|genesis")
    ]


async def budget_state(pipeline: Pipeline, partition: int) -> tuple[dict[bytes, PartialSum], Marker | None]:
    """The newest sums by key, and the newest marker."""
    sums: dict[bytes, PartialSum] = {}
    marker: Marker | None = None
    for record in await pipeline.records(Topic.BUDGET_STATE, partition):
        stored = decode_budget_state(record.value)
        if isinstance(stored, Marker):
            marker = stored
        else:
            sums[record.key or b""] = stored
    return sums, marker


async def alerts(pipeline: Pipeline) -> list[tuple[bytes, Alert]]:
    """All alerts with their keys, repeats included."""
    return [
        (record.key or b"", decode_alert(record.value))
        for partition in range(pipeline.partitions)
        for record in await pipeline.records(Topic.ALERTS, partition)
    ]


async def wait_for(worker: Worker, pipeline: Pipeline, field: str) -> None:
    """Return when the worker's status says that it made every log durable to its end."""
    for partition in range(pipeline.partitions):
        state = await pipeline.log(partition)
        wanted = state.position if field == "signed_size" else state.log_offset
        async with asyncio.timeout(PATIENCE_S):
            while True:
                status = worker.status()
                held = (status or {}).get("partitions", {}).get(str(partition))
                if held is not None and held[field] >= wanted:
                    break
                assert worker.process.poll() is None, worker.log()
                await asyncio.sleep(0.1)


@pytest.mark.broker
@whatever_runs_it
async def test_checkpoints_follow_from_the_log_across_a_kill(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    pipeline = await deployment(broker, topic_prefix, tmp_path, runtime)
    for instance in ("first", "second"):
        await sequenced(pipeline)
        with pipeline.worker("--interval-s=0.1", stage="checkpointer", instance=instance) as checkpointer:
            await wait_for(checkpointer, pipeline, "signed_size")
            checkpointer.kill()
    assert await check_checkpoints(pipeline) == [200, 200]


async def check_checkpoints(pipeline: Pipeline) -> list[int]:
    """Hold every checkpoint to the fold of its log, and the newest to the log's end; the size of each log."""
    found, positions = await checkpoints(pipeline), []
    for partition in range(pipeline.partitions):
        by_size: dict[int, str] = {}
        state = LogState()
        for record in await pipeline.records(Topic.LOG, partition):
            taken = state.offer(record.offset, record.value)
            if taken is not None:
                by_size[taken.header.size] = taken.header.root
        assert state.genesis is not None
        verifier = LogKey(bytes(32)).signer(state.genesis.origin).verifier
        own = [record for record in found if record.header.origin == state.genesis.origin]
        sizes = [(record.header.records.size, record.header.size) for record in own if record.header.records]
        assert len(sizes) == len(own)
        assert sizes == sorted(set(sizes))
        assert sizes[-1][1] == state.position
        positions.append(state.position)
        for signed_record in own:
            signed = open_checkpoint(signed_record.note, [verifier], origin=state.genesis.origin)
            assert by_size[signed.size] == signed.root.hex()
    return positions


@pytest.mark.broker
@whatever_runs_it
async def test_budgets_equal_the_fold_across_a_kill_and_alert_once(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    pipeline = await deployment(broker, topic_prefix, tmp_path, runtime)
    for instance in ("first", "second"):
        await sequenced(pipeline, correct=True)
        with pipeline.worker("--interval-s=0.05", stage="budgets", instance=instance) as budgets:
            await wait_for(budgets, pipeline, "marked")
            budgets.kill()
    expected: set[tuple[str, str]] = set()
    for partition in range(pipeline.partitions):
        accounts = Accounts({1: BOOK})
        state, spend = LogState(accounts=accounts), defaultdict[str, Decimal](Decimal)
        for stored in await pipeline.records(Topic.LOG, partition):
            record = state.offer(stored.offset, stored.value)
            for line in record.lines if record else ():
                event = orjson.loads(line)
                spend[event["subject"]] += _SPEND.get(event["id"].partition(" ")[0], Decimal("0.25"))
                for threshold in ("50", "80", "100"):
                    if spend[event["subject"]] >= 20 * Decimal(threshold) / 100:
                        expected.add((event["subject"], threshold))
        assert spend == {agent: account.spend for agent, account in accounts.agents.items()}
        assert state.counts["correction:applied"] == 20
        assert state.counts["correction:already_corrected"] == 10
        assert sum(account.events for account in accounts.agents.values()) == 190
        await check_sums(pipeline, partition, state, accounts)
    raised = await alerts(pipeline)
    assert len({key for key, _ in raised}) == len(raised)
    monthly = {(alert.subject, alert.threshold) for _, alert in raised if alert.budget == "month"}
    assert monthly == expected
    assert expected
    for _, alert in raised:
        assert Decimal(alert.spend) >= Decimal(alert.limit) * Decimal(alert.threshold) / 100


async def check_sums(pipeline: Pipeline, partition: int, state: LogState, accounts: Accounts) -> None:
    """Hold the sums of a partition, and how far they say they go, to the fold of its log."""
    sums, marker = await budget_state(pipeline, partition)
    assert marker is not None
    assert (marker.log_offset, marker.digest, marker.position) == (state.log_offset, state.digest, state.position)
    for window in ("month", "minute"):
        by_agent: defaultdict[str, Decimal] = defaultdict(Decimal)
        events = 0
        for total in sums.values():
            if total.window == window:
                by_agent[total.subject] += Decimal(total.spend)
                events += total.events
        assert by_agent == {agent: account.spend for agent, account in accounts.agents.items()}
        assert events == sum(account.events for account in accounts.agents.values())


@pytest.mark.broker
async def test_an_agents_alert_waits_for_no_flush_and_is_not_raised_again_by_a_start_that_has_no_sums(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path
) -> None:
    pipeline = await deployment(broker, topic_prefix, tmp_path)
    daily = {"name": "daily", "scope": "agent", "subject": "*", "window": "day", "limit": "0.5", "currency": "USD"}
    (tmp_path / "budgets.json").write_bytes(orjson.dumps({"version": 1, "budgets": [daily]}))
    await sequenced(pipeline, rounds=1)
    agents = set()
    for partition in range(pipeline.partitions):
        for record in await pipeline.records(Topic.LOG, partition):
            agents |= {orjson.loads(line)["subject"] for line in decode_record(record.value).lines}
    with pipeline.worker("--interval-s=3600", stage="budgets", instance="budgets") as budgets:
        async with asyncio.timeout(PATIENCE_S):
            while {alert.subject for _, alert in await alerts(pipeline)} != agents:
                assert budgets.process.poll() is None, budgets.log()
                await asyncio.sleep(0.1)
        for partition in range(pipeline.partitions):
            assert await budget_state(pipeline, partition) == ({}, None)
        budgets.kill()
    with pipeline.worker("--interval-s=0.05", stage="budgets", instance="budgets") as budgets:
        await wait_for(budgets, pipeline, "marked")
        assert budgets.stop() == CLEAN
    raised = [key for key, _ in await alerts(pipeline)]
    assert len(raised) == len(set(raised)) == 3 * len(agents)


@pytest.mark.broker
@pytest.mark.parametrize(("stage", "field"), [("checkpointer", "signed_size"), ("budgets", "marked")])
async def test_a_re_created_log_stops_the_stage(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, stage: str, field: str
) -> None:
    pipeline = await deployment(broker, topic_prefix, tmp_path)
    await sequenced(pipeline, rounds=1)
    with pipeline.worker(stage=stage, instance=stage) as worker:
        await wait_for(worker, pipeline, field)
        assert worker.stop() == CLEAN
    async with admin_client(pipeline.kafka) as admin:
        await admin.delete_topics([pipeline.kafka.topic(Topic.LOG)])
    await pipeline.create_topics()
    with pipeline.worker(stage=stage, instance=stage) as worker:
        assert worker.wait() == STOPPED
        assert "log_diverged" in worker.log()
