"""A sequencer that keeps its index on disk: the folder may be anything, the log is the same."""

import asyncio
import random
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from meterproof_local.broker import LocalBroker
from meterproof_schemas.log_record import record_digest
from meterproof_schemas.topics import Topic
from meterproof_stream.kept_state import KeptState
from meterproof_stream.take_over import fold_log
from tests.integration.stream.workers import Pipeline, Worker

pytestmark = pytest.mark.broker


class OnDisk:
    """A pipeline with one sequencer after the other, each of them killed."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.chance = random.Random(7)
        self.folder = pipeline.data / "cache" / "one" / "index" / "p0"

    async def run(self, *, batches: int = 12) -> Worker:
        """Start, send new events and many that were sent before, wait until all is in the log, kill."""
        pipeline = self.pipeline
        values: list[bytes | None] = []
        for _ in range(batches):
            lines = pipeline.new_events(0, 200)
            values.append(pipeline.batch(0, [*lines, *self.chance.sample(pipeline.events[0], 50)]))
        with pipeline.worker("--index=rocksdb") as worker:
            await pipeline.send(0, [*values, values[-1]])
            await pipeline.wait_until_sequenced(worker)
            end = await pipeline.source_end(0)
            await asyncio.to_thread(worker.wait_until, lambda status: _knows(status, end))
            worker.kill()
        await pipeline.check()
        return worker


def _knows(status: dict[str, Any], end: int) -> bool:
    """Whether it knows by its status that all records up to this end of the source are on the log."""
    return status["in_flight"]["records"] == 0 and {part["next"] for part in status["partitions"].values()} == {end}


@pytest.fixture
async def on_disk(broker: LocalBroker, topic_prefix: str, tmp_path: Path) -> OnDisk:
    return OnDisk(await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1))


def event(worker: Worker, name: str) -> dict[str, Any] | None:
    return next((found for found in worker.events() if found["event"] == name), None)


@pytest.mark.slow
async def test_killed_it_goes_on_from_its_folder_and_whatever_became_of_the_folder_the_log_is_right(
    on_disk: OnDisk, tmp_path: Path
) -> None:
    first = await on_disk.run()
    assert event(first, "index_new") is not None
    second = await on_disk.run()
    resumed = event(second, "index_resumed")
    assert resumed is not None
    assert resumed["log_offset"] > 3
    assert (event(second, "log_folded") or {})["begin"] == resumed["log_offset"] + 1
    shutil.copytree(on_disk.folder, tmp_path / "older")

    shutil.rmtree(on_disk.folder)
    deleted = await on_disk.run()
    assert event(deleted, "index_new") is not None

    shutil.rmtree(on_disk.folder)
    shutil.copytree(tmp_path / "older", on_disk.folder)
    older = await on_disk.run()
    resumed = event(older, "index_resumed")
    assert resumed is not None
    assert resumed["log_offset"] < (await on_disk.pipeline.log(0)).log_offset - 13

    (on_disk.folder / "CURRENT").write_bytes(b"noise")
    damaged = await on_disk.run()
    assert event(damaged, "index_thrown_away") is not None

    with on_disk.pipeline.worker("--index=rocksdb") as worker:
        worker.wait_until_holding()
        await on_disk.pipeline.wait_until_sequenced(worker)
        assert worker.stop() == 0
        status = worker.status()
    assert status is not None
    state = await on_disk.pipeline.log(0)
    assert status["partitions"]["0"]["counts"] == dict(state.counts)
    assert status["partitions"]["0"]["position"] == state.position
    assert status["partitions"]["0"]["index_disk_bytes"] > len(state.index) * 52
    with on_disk.pipeline.worker() as worker:  # in memory again: the log alone is enough
        worker.wait_until_holding()
        assert worker.stop() == 0


async def test_a_folder_of_another_log_is_thrown_away(
    on_disk: OnDisk, broker: LocalBroker, topic_prefix: str, tmp_path: Path
) -> None:
    """Of another deployment, and of another partition."""
    await on_disk.run(batches=2)
    other = await Pipeline.create(broker.bootstrap, f"{topic_prefix}b.", tmp_path / "other", partitions=2)
    for partition in range(2):
        foreign = tmp_path / "other" / "cache" / "one" / "index" / f"p{partition}"
        shutil.copytree(on_disk.folder, foreign)
    with other.worker("--index=rocksdb") as worker:
        worker.wait_until_holding()
        for partition in range(2):
            await other.send(partition, [other.batch(partition, other.new_events(partition, 20))])
        await other.wait_until_sequenced(worker)
        reasons = {found["partition"]: found["reason"] for found in worker.events() if "reason" in found}
        worker.kill()
    await other.check()
    assert "epoch" in reasons[0]
    assert reasons[1] == "it is of partition 0"
    assert len(await other.records(Topic.LOG, 1)) == 2


@pytest.mark.parametrize(("shift", "reason"), [(1, "another record"), (1000, "the log holds offsets 0 to")])
async def test_a_folder_that_names_what_the_log_does_not_hold_is_thrown_away(
    on_disk: OnDisk, tmp_path: Path, shift: int, reason: str
) -> None:
    """As after the loss of acknowledged records, or on a mirror with other offsets."""
    await on_disk.run(batches=2)
    state = KeptState(tmp_path / "p0")
    *records, last = await on_disk.pipeline.records(Topic.LOG, 0)
    for record in records:
        state.offer(record.offset + shift, record.value)
    state.close()
    with capture_logs() as told:
        folded = await fold_log(on_disk.pipeline.kafka, 0, folder=tmp_path / "p0")
    assert any(reason in found.get("reason", "") for found in told if found["event"] == "index_thrown_away")
    assert folded.state.digest == record_digest(last.value or b"")
    folded.state.close()
    again = await fold_log(on_disk.pipeline.kafka, 0, folder=tmp_path / "p0")
    assert (again.state.digest, again.last, again.end) == (folded.state.digest, folded.last, folded.end)
    again.state.close()


async def test_a_full_disk_under_the_index_ends_the_process_and_nothing_is_lost_or_doubled(on_disk: OnDisk) -> None:
    """What Kafka has acknowledged is in the log; the folder that could not follow is thrown away by the next start."""
    pipeline = on_disk.pipeline
    with pipeline.worker("--index=rocksdb") as worker:
        await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 3))])
        await pipeline.wait_until_sequenced(worker)
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 500)) for _ in range(6)])
        assert await asyncio.to_thread(worker.wait) == 70
    assert "File too large" in (on_disk.folder / "DAMAGED").read_text()
    again = await on_disk.run(batches=1)
    assert event(again, "index_thrown_away") is not None
