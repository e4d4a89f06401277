"""A rolling restart from an earlier build to this one, and back: both are members of one group, under load."""

import asyncio
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meterproof.exit_codes import CLEAN
from meterproof.kafka.topic_ends import TopicEnds
from meterproof_local.broker import LocalBroker
from meterproof_proofs.tree import root_of
from meterproof_schemas.accounts import Accounts
from meterproof_schemas.event import entry_of
from meterproof_schemas.fold import LogState, fold
from meterproof_schemas.log_record import decode_record
from meterproof_schemas.topics import Topic
from meterproof_stream.runtime import Runtime
from tests.builders import make_key
from tests.integration.stream.earlier_build import lay_out
from tests.integration.stream.steady_load import steady_load
from tests.integration.stream.test_checkpointer_and_budgets import (
    BOOK,
    alerts,
    check_checkpoints,
    check_sums,
    deployment,
    wait_for,
)
from tests.integration.stream.workers import PATIENCE_S, Pipeline, Worker

pytestmark = [pytest.mark.broker, pytest.mark.slow]

PARTITIONS = 2
LOAD_INTERVAL_S = 0.1
EVENTS = 60
"""By partition and round: any two rounds reach a threshold of the month, whether or not a minute ends between them."""
OLDEST = "d2cdd41"
"""The first with an index on disk."""
LATE = "442f58e"
"""The last that knew no topic by its id."""
FOLDER_IS = {OLDEST: "index_thrown_away", LATE: "index_resumed"}
"""What becomes of that build's index on disk where this one starts over it."""
SESSION = {"METERPROOF_WORKER_SESSION_TIMEOUT_S": "180"}
"""So that a slow start costs no worker its place."""
STRANGER = make_key("stranger")
"""In no registry."""


@dataclass
class Load:
    """Right events, events that were sent before, batches that were, and batches that nobody vouches for."""

    pipeline: Pipeline
    counts: dict[int, Counter[str]] = field(default_factory=dict)
    """By partition, the verdicts that are due."""

    async def send(self) -> None:
        """Some of each to every partition; they are acknowledged then."""
        for partition in range(PARTITIONS):
            await self._send(partition)

    async def _send(self, partition: int) -> None:
        pipeline, counts = self.pipeline, self.counts.setdefault(partition, Counter())
        lines = pipeline.new_events(partition, 4)
        again = pipeline.events[partition][::7][-3:]
        batch = pipeline.batch(partition, [*lines, *again])
        await pipeline.send(partition, [batch, batch, pipeline.batch(partition, again, key=STRANGER)])
        counts["accepted"] += len(lines)
        counts["duplicate"] += len(lines) + 2 * len(again)
        counts["record:unknown_key"] += 1

    async def moves_everywhere(self, *workers: Worker) -> None:
        """Return when every log has grown by some records, written by these workers."""
        ends = TopicEnds(self.pipeline.kafka, self.pipeline.kafka.topic(Topic.LOG))
        before = now = await ends.ask(range(PARTITIONS))
        async with asyncio.timeout(PATIENCE_S):
            while any(now[partition] < end + 6 for partition, end in before.items()):
                for worker in workers:
                    assert worker.process.poll() is None, worker.log()
                await asyncio.sleep(0.1)
                now = await ends.ask(range(PARTITIONS))
        await ends.stop()


def tokens(worker: Worker) -> set[str]:
    """What stands as `writer` in the records that it may have written."""
    return {found["writer"] for found in worker.events() if found["event"] == "partition_taken"}


@pytest.mark.parametrize(("commit", "runtime"), [(OLDEST, Runtime.ASYNCIO), (LATE, Runtime.FAUST)])
async def test_sequencers_of_two_builds_count_every_event_once(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, commit: str, runtime: Runtime
) -> None:
    """Each is replaced by the other under its name and over its folder, stopped as killed."""
    earlier = lay_out(commit, tmp_path / commit)
    pipeline = await Pipeline.create(
        broker.bootstrap, topic_prefix, tmp_path / "data", partitions=PARTITIONS, runtime=runtime
    )
    load, workers = Load(pipeline), ExitStack()
    of_earlier: list[Worker] = []
    of_this: list[Worker] = []

    def start(instance: str, started: list[Worker]) -> Worker:
        environment = SESSION | (earlier if started is of_earlier else {})
        worker = pipeline.worker("--index=rocksdb", instance=instance, **environment)  # type: ignore[arg-type]
        started.append(workers.enter_context(worker))
        return worker

    async def at_work(*all_of_them: Worker) -> None:
        for worker in all_of_them:
            await asyncio.to_thread(worker.wait_until_holding)
        await load.moves_everywhere(*all_of_them)

    async def stopped(worker: Worker) -> None:
        assert await asyncio.to_thread(worker.stop) == CLEAN, worker.log()

    with workers:
        async with steady_load(load.send, LOAD_INTERVAL_S):
            one = start("one", of_earlier)
            await at_work(one)  # so it has a folder for every partition, whatever it will be given later
            two = start("two", of_earlier)
            await at_work(one, two)
            await stopped(one)
            one = start("one", of_this)
            await at_work(one, two)
            assert FOLDER_IS[commit] in one.log()
            two.kill()
            two = start("two", of_this)
            await at_work(one, two)
            await stopped(one)
            one = start("one", of_earlier)  # rolled back
            await at_work(one, two)
            assert "index_new" not in one.log()
            await stopped(one)
            one = start("one", of_this)
            await at_work(one, two)
        await pipeline.wait_until_sequenced(one)
        for worker in (one, two):
            await stopped(worker)

    await pipeline.check()
    for partition in range(PARTITIONS):
        state = await pipeline.log(partition)
        assert state.frontier.root() == root_of(map(entry_of, pipeline.events[partition]))
        assert +state.counts == load.counts[partition]
        written = {decode_record(record.value).header.writer for record in await pipeline.records(Topic.LOG, partition)}
        for started in (of_earlier, of_this):
            assert written & set().union(*map(tokens, started))


async def test_checkpointers_and_budgets_of_two_builds_go_on_from_one_another(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """Each is killed and the other takes its place, there and back; the sequencer is of this build."""
    earlier = lay_out(LATE, tmp_path / LATE)
    pipeline = await deployment(broker, topic_prefix, tmp_path, Runtime.ASYNCIO)
    with pipeline.worker() as sequencer:
        for environment in (earlier, {}, earlier):
            for partition in range(PARTITIONS):
                await pipeline.send(partition, [pipeline.batch(partition, pipeline.new_events(partition, EVENTS))])
            await pipeline.wait_until_sequenced(sequencer)
            with ExitStack() as stack:
                checkpointer, budgets = (
                    stack.enter_context(pipeline.worker(interval, stage=stage, instance=stage, **environment))  # type: ignore[arg-type]
                    for stage, interval in (("checkpointer", "--interval-s=0.1"), ("budgets", "--interval-s=0.05"))
                )
                await wait_for(checkpointer, pipeline, "signed_size")
                await wait_for(budgets, pipeline, "marked")
                checkpointer.kill()
                budgets.kill()
        assert await asyncio.to_thread(sequencer.stop) == CLEAN
    assert await check_checkpoints(pipeline) == [3 * EVENTS] * PARTITIONS
    for partition in range(PARTITIONS):
        accounts = Accounts({1: BOOK})
        state = LogState(accounts=accounts)
        fold(((record.offset, record.value) for record in await pipeline.records(Topic.LOG, partition)), state)
        await check_sums(pipeline, partition, state, accounts)
    raised = [key for key, _ in await alerts(pipeline)]
    assert raised
    assert len(raised) == len(set(raised))
