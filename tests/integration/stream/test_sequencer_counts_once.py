"""Every event that Kafka acknowledged is in the log exactly once, whatever happens to the sequencer in between."""

import asyncio
import random
import signal
from pathlib import Path

import pytest

from meterproof_local.broker import LocalBroker
from meterproof_stream.runtime import Runtime
from tests.integration.stream.workers import Pipeline, whatever_runs_it

pytestmark = pytest.mark.broker


@whatever_runs_it
async def test_duplicates_count_once_over_a_crash(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", runtime=runtime)
    chance = random.Random(1)
    with pipeline.worker() as worker:
        worker.wait_until_running()
        for partition in range(2):
            values: list[bytes | None] = []
            for _ in range(25):
                lines = pipeline.new_events(partition, 40)
                again = chance.sample(pipeline.events[partition], 10)
                values.append(pipeline.batch(partition, lines + again))
                if chance.random() < 0.2:
                    values.append(values[-1])
            await pipeline.send(partition, values)
        worker.kill()
    with pipeline.worker() as worker:
        await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 10))])
        await pipeline.wait_until_sequenced(worker)
        await asyncio.to_thread(worker.wait_until_without_lag)
        worker.process.send_signal(signal.SIGINT)
        assert worker.wait() == 0, worker.log()
        status = worker.status()
        assert status is not None
        assert status["state"] == "stopped"
        assert sum(part["position"] for part in status["partitions"].values()) == 2010
    await pipeline.check()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Runtime.FAUST, Runtime.FAUST),
        (Runtime.ASYNCIO, Runtime.ASYNCIO),
        pytest.param(Runtime.ASYNCIO, Runtime.FAUST, marks=pytest.mark.slow),
    ],
)
async def test_partitions_move_between_workers(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, first: Runtime, second: Runtime
) -> None:
    """A second worker joins, one is killed, one stops; records keep coming all the while. Runtimes may be mixed."""
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=4)
    session = {"METERPROOF_WORKER_SESSION_TIMEOUT_S": "6"}

    enough = asyncio.Event()

    async def load() -> None:
        while not enough.is_set():
            for partition in range(4):
                values: list[bytes | None] = [
                    pipeline.batch(partition, pipeline.new_events(partition, 5)) for _ in range(3)
                ]
                await pipeline.send(partition, [*values, values[0]])
            await asyncio.sleep(0.3)

    with pipeline.worker(instance="one", runtime=first, **session) as one:
        await asyncio.to_thread(one.wait_until_running)
        loading = asyncio.create_task(load())
        with pipeline.worker(instance="two", runtime=second, **session) as two:
            await asyncio.to_thread(two.wait_until_holding)
            one.kill()
        with pipeline.worker(instance="one", runtime=first, **session) as one_again:
            await asyncio.to_thread(one_again.wait_until_holding)
            await asyncio.sleep(1)
            enough.set()
            await loading  # to its end, so that every event made was acknowledged
            await pipeline.wait_until_sequenced(one_again)
            assert await asyncio.to_thread(one_again.stop) == 0, one_again.log()
    await pipeline.check()


@whatever_runs_it
async def test_a_stopped_clock_writes_nothing_that_counts(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    """A worker that stood still for longer than its session wakes up and writes; readers ignore it, and it ends."""
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1, runtime=runtime)
    session = {"METERPROOF_WORKER_SESSION_TIMEOUT_S": "6"}
    with pipeline.worker(instance="one", runtime=runtime, **session) as one:
        await asyncio.to_thread(one.wait_until_holding)
        await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 5)) for _ in range(500)])
        one.process.send_signal(signal.SIGSTOP)
        with pipeline.worker(instance="two", runtime=runtime, **session) as two:
            await pipeline.wait_until_sequenced(two)
            await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 5)) for _ in range(20)])
            one.process.send_signal(signal.SIGCONT)
            await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 5)) for _ in range(20)])
            await pipeline.wait_until_sequenced()
    await pipeline.check()
