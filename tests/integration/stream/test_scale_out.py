"""Partitions spread over workers, move in moments, and come back: what a change of workers costs is measured here.

A pause is the longest gap between two records appended to a partition's log under a steady load. The figures are
printed (`-s` shows them). Asserted is what no slow machine changes: no change costs a session timeout, which is long
here; a worker that is killed or stopped and comes back takes its partitions over once, and nobody else's are touched.
"""

import asyncio
import itertools
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meterproof.exit_codes import CLEAN
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.topic_ends import TopicEnds
from meterproof_local.broker import LocalBroker
from meterproof_schemas.topics import Topic
from meterproof_stream.runtime import Runtime
from tests.integration.stream.steady_load import steady_load
from tests.integration.stream.workers import PATIENCE_S, Pipeline, Worker, whatever_runs_it

pytestmark = [pytest.mark.broker, pytest.mark.slow]

PARTITIONS = 4
SESSION_S = 180
LOAD_INTERVAL_S = 0.1
SETTLED_S = 1.0
"""Load behind each change, so that its last pause has an end."""


@dataclass
class Load:
    """A record for each partition, again and again, and when what happened meanwhile."""

    pipeline: Pipeline
    changes: list[tuple[str, float, float]] = field(default_factory=list)
    """Name, begin and end, in milliseconds of the wall clock."""

    @asynccontextmanager
    async def steady(self) -> AsyncIterator[None]:
        topic = self.pipeline.kafka.topic(Topic.BATCHES)
        async with RecordProducer(self.pipeline.kafka) as producer:

            async def send() -> None:
                for partition in range(PARTITIONS):
                    value = self.pipeline.batch(partition, self.pipeline.new_events(partition, 1))
                    await producer.send(topic, partition, value)

            async with steady_load(send, LOAD_INTERVAL_S):
                yield

    @asynccontextmanager
    async def change(self, name: str) -> AsyncIterator[None]:
        """Something is done to the workers until the end of the block."""
        begin_ms = time.time() * 1000
        yield
        await self.moves_everywhere()
        await asyncio.sleep(SETTLED_S)
        self.changes.append((name, begin_ms, time.time() * 1000))

    async def moves_everywhere(self) -> None:
        """Return when every log grows."""
        ends = TopicEnds(self.pipeline.kafka, self.pipeline.kafka.topic(Topic.LOG))
        before = now = await ends.ask(range(PARTITIONS))
        deadline_s = time.monotonic() + PATIENCE_S
        while any(now[partition] <= end for partition, end in before.items()):
            assert time.monotonic() < deadline_s, "a partition stands still"
            await asyncio.sleep(0.1)
            now = await ends.ask(range(PARTITIONS))
        await ends.stop()

    async def pauses_ms(self) -> dict[str, list[int]]:
        """By change, the longest gap of each partition."""
        found: dict[str, list[int]] = {name: [] for name, _, _ in self.changes}
        for partition in range(PARTITIONS):
            appended_ms = [record.timestamp_ms for record in await self.pipeline.records(Topic.LOG, partition)]
            for name, begin_ms, end_ms in self.changes:
                gaps = [
                    second - first for first, second in itertools.pairwise(appended_ms) if begin_ms <= second <= end_ms
                ]
                found[name].append(max(gaps))
        return found


async def until(worker: Worker, partitions: int) -> None:
    """Return when the worker holds so many partitions."""
    await asyncio.to_thread(
        worker.wait_until, lambda status: status["state"] == "running" and len(status["partitions"]) == partitions
    )


def taken(worker: Worker) -> Counter[int]:
    """How often a worker has taken each partition over."""
    return Counter(found["partition"] for found in worker.events() if found["event"] == "partition_taken")


async def stopped(worker: Worker) -> None:
    assert await asyncio.to_thread(worker.stop) == CLEAN


def leave(pipeline: Pipeline, instance: str) -> subprocess.CompletedProcess[str]:
    """`meterproof sequencer leave`."""
    command = [str(Path(sys.executable).with_name("meterproof")), "sequencer", "leave", instance]
    command += [f"--data={pipeline.data}", f"--bootstrap={pipeline.kafka.bootstrap}"]
    command += [f"--prefix={pipeline.kafka.topic_prefix}"]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@whatever_runs_it
async def test_what_changes_of_workers_cost(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    pipeline = await Pipeline.create(
        broker.bootstrap, topic_prefix, tmp_path / "data", partitions=PARTITIONS, runtime=runtime
    )

    def start(instance: str, *arguments: str) -> Worker:
        return pipeline.worker(*arguments, instance=instance, METERPROOF_WORKER_SESSION_TIMEOUT_S=str(SESSION_S))

    load = Load(pipeline)
    with start("one") as one:
        await until(one, PARTITIONS)
        async with load.steady():
            await load.moves_everywhere()
            async with load.change("nothing"):
                await asyncio.sleep(SETTLED_S)
            async with load.change("joins"):
                two = start("two")
                await until(two, PARTITIONS // 2)
                await until(one, PARTITIONS // 2)
            of_one, its_own = taken(one), set(taken(two))
            async with load.change("kill -9 and restart"):
                two.kill()
                two = start("two")
                await until(two, PARTITIONS // 2)
            assert taken(two) == dict.fromkeys(its_own, 1)
            async with load.change("SIGTERM and restart"):
                await stopped(two)
                two = start("two")
                await until(two, PARTITIONS // 2)
            assert taken(two) == dict.fromkeys(its_own, 1)
            assert taken(one) == of_one, "who stays goes on undisturbed"
            await stopped(two)
            async with load.change("leave"):
                left = await asyncio.to_thread(leave, pipeline, "two")
                assert left.returncode == 0, left.stderr
                await until(one, PARTITIONS)
            again = await asyncio.to_thread(leave, pipeline, "two")
            assert (again.returncode, again.stdout) == (1, "")
            assert "two is no member of group" in again.stderr
            two = start("two", "--leave")
            await until(two, PARTITIONS // 2)
            async with load.change("SIGTERM with --leave"):
                await stopped(two)
                await until(one, PARTITIONS)
        await pipeline.wait_until_sequenced(one)
        assert one.process.poll() is None
    pauses_ms = await load.pauses_ms()
    sys.stdout.write(f"\npauses under {runtime}, longest gap of each partition in ms:\n")
    for name, gaps_ms in pauses_ms.items():
        sys.stdout.write(f"  {name:24}{gaps_ms}\n")
    for name, gaps_ms in pauses_ms.items():
        assert max(gaps_ms) < SESSION_S * 1000, name
    await pipeline.check()
