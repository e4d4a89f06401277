"""Topics replaced or cut off under a running pipeline: every stage stops for a person, and nothing is signed."""

import asyncio
import signal
import time
from pathlib import Path
from random import Random

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from meterproof import Meter
from meterproof._kafka_transport import KafkaTransport
from meterproof.deployment import DataFolder
from meterproof.kafka.connection import admin_client
from meterproof.kafka.reader import PartitionReader, Record
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof.settings import MeterSettings
from meterproof_local.broker import LocalBroker
from meterproof_local.setup import SetupWish
from meterproof_local.simulation import AGENTS, PRODUCERS
from meterproof_local.supervisor import Supervisor
from meterproof_local.worker import State
from meterproof_schemas.fold import fold
from meterproof_schemas.topics import Topic
from meterproof_stream.source_watch import SOURCE_PAUSE_S
from tests.chaos.load import event
from tests.integration.stream.workers import Pipeline

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.slow]

PARTITIONS = 2
PATIENCE_S = 180.0
LOOKED_AT_S = 15.0
"""How long a sequencer is watched that need not end by itself."""


async def delete(kafka: KafkaSettings, topic: Topic) -> None:
    """Delete a topic; returns when it is gone."""
    async with admin_client(kafka) as admin:
        await admin.delete_topics([kafka.topic(topic)])
        while kafka.topic(topic) in await admin.list_topics():
            pass


async def replace(pipeline: Supervisor, topic: Topic) -> None:
    """Delete a topic and create it again, as `meterproof topics create` does."""
    await delete(pipeline.kafka, topic)
    stated = pipeline.folder.deployment()
    again = Deployment(name=stated.name, deployment=stated.deployment, partitions=stated.partitions)
    await create_topics(pipeline.kafka, again, now_ms=time.time_ns() // 1_000_000, random_bytes=Random(1).randbytes)


async def delete_records(pipeline: Supervisor, topic: Topic) -> None:
    """Delete everything that stands on a topic; its offsets go on."""
    async with admin_client(pipeline.kafka) as admin:
        await admin.delete_records(
            {
                TopicPartition(pipeline.kafka.topic(topic), partition): RecordsToDelete(before_offset=-1)
                for partition in range(PARTITIONS)
            }
        )


async def send(pipeline: Supervisor, run: str) -> None:
    """20 events of each agent, acknowledged."""
    draw = Random(run)
    for agent in AGENTS:
        settings = MeterSettings(
            deployment=pipeline.folder.deployment().deployment,
            producer=agent.service,
            source=agent.service,
            key_file=pipeline.folder.keys / f"{agent.service}.key",
            batch_lines_max=5,
        )
        async with Meter(settings, KafkaTransport(pipeline.kafka)) as meter:
            for number in range(20):
                await meter.record_line(event(agent, f"{run}-{number}", draw))


async def records(pipeline: Supervisor, topic: Topic, partition: int = 0) -> list[Record]:
    async with PartitionReader(pipeline.kafka, pipeline.kafka.topic(topic), partition) as reader:
        return [record async for chunk in reader.read(*await reader.bounds()) for record in chunk]


async def until_all_need_a_person(pipeline: Supervisor) -> None:
    """Wait until every worker has stopped for good."""
    deadline_s = time.monotonic() + PATIENCE_S
    while left := [worker for worker in pipeline.workers.values() if worker.state is not State.NEEDS_YOU]:
        if time.monotonic() > deadline_s:
            words = [f"{one.spec.name}: {one.state}, {one.exit_code}: {one.last_words(2)}" for one in left]
            raise AssertionError("still at work: " + "; ".join(words))
        await asyncio.sleep(0.2)


async def test_a_log_replaced_under_running_workers_stops_them_all_and_nothing_is_signed(tmp_path: Path) -> None:
    wish = SetupWish(partitions=PARTITIONS, producers=PRODUCERS)
    async with Supervisor(DataFolder(tmp_path / "data"), wish) as pipeline:
        await send(pipeline, "first")
        await pipeline.wait_until_drained()
        positions = {name: parts_of(pipeline, name) for name in pipeline.workers}
        await replace(pipeline, Topic.LOG)
        signed = [record.value for record in await records(pipeline, Topic.CHECKPOINTS)]
        await send(pipeline, "second")
        await until_all_need_a_person(pipeline)
        for name, worker in pipeline.workers.items():
            assert "log_diverged" in "".join(worker.last_words(1)), name
        assert [record.value for record in await records(pipeline, Topic.CHECKPOINTS)] == signed
        for partition in range(PARTITIONS):
            log = await records(pipeline, Topic.LOG, partition)
            assert fold((record.offset, record.value) for record in log).position == 0
        for name in ("clickhouse", "audit"):
            assert (parts_of(pipeline, name) or positions[name]) == positions[name], name


async def test_a_log_cut_off_below_every_cursor_stops_every_stage_at_its_next_start(tmp_path: Path) -> None:
    wish = SetupWish(partitions=PARTITIONS, producers=PRODUCERS)
    async with Supervisor(DataFolder(tmp_path / "data"), wish) as pipeline:
        await send(pipeline, "first")
        await pipeline.wait_until_drained()
        await delete_records(pipeline, Topic.LOG)
        signed = [record.value for record in await records(pipeline, Topic.CHECKPOINTS)]
        for name in pipeline.workers:
            await pipeline.restart(name)
        await until_all_need_a_person(pipeline)
        for name, worker in pipeline.workers.items():
            assert "log_diverged" in "".join(worker.last_words(1)), name
        assert [record.value for record in await records(pipeline, Topic.CHECKPOINTS)] == signed
        assert [await records(pipeline, Topic.LOG, partition) for partition in range(PARTITIONS)] == [[], []]


def parts_of(pipeline: Supervisor, name: str) -> dict[str, int]:
    """By partition, the position that a worker's status shows."""
    parts = (pipeline.status(name) or {}).get("partitions", {})
    return {partition: part["position"] for partition, part in parts.items()}


@pytest.mark.parametrize("runtime", ["faust", "asyncio"])
@pytest.mark.parametrize("frozen", [False, True])
async def test_a_source_replaced_under_a_running_sequencer_is_not_taken_for_the_old_one(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: str, frozen: bool
) -> None:
    """Its new records have offsets that the log has answered before, so going on would lose those in silence."""
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 2)) for _ in range(5)])
    with pipeline.worker("--runtime", runtime) as worker:
        await pipeline.wait_until_sequenced(worker)
        await asyncio.to_thread(worker.wait_until_without_lag)
        if frozen:
            worker.process.send_signal(signal.SIGSTOP)
        await delete(pipeline.kafka, Topic.BATCHES)
        await pipeline.create_topics()
        await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 2)) for _ in range(8)])
        await asyncio.sleep(SOURCE_PAUSE_S)  # a topic that is replaced within less is noticed some seconds later only
        worker.process.send_signal(signal.SIGCONT)
        deadline_s = time.monotonic() + LOOKED_AT_S
        while worker.process.poll() is None and time.monotonic() < deadline_s:
            assert (await pipeline.log(0)).position == 10, worker.log()
            await asyncio.sleep(0.2)
        assert worker.process.poll() in {None, 75, 78}, worker.log()
    # Under its own name it would be given back what the group last gave it, which may be nothing.
    with pipeline.worker("--runtime", runtime, instance="two") as worker:
        assert await asyncio.to_thread(worker.wait) == 78, worker.log()
        assert worker.events()[-1]["stop_reason"] == "source_diverged"
    assert (await pipeline.log(0)).position == 10
