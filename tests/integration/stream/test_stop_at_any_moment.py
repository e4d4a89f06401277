"""SIGTERM ends a sequencer whatever it is doing, and costs nothing: seeded moments from its first instant on.

That it ends within 20 s is the deadline of the watchdog (`stop_deadline_s`), which a test of its own holds to it while
nothing else would end the process; here every stop must end by itself, or say that the deadline ended it.
"""

import asyncio
import random
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from meterproof.exit_codes import CLEAN, UNEXPECTED
from meterproof_local.broker import LocalBroker
from meterproof_stream.runtime import Runtime
from tests.integration.stream.steady_load import steady_load
from tests.integration.stream.workers import Pipeline, Worker, whatever_runs_it

pytestmark = [pytest.mark.broker, pytest.mark.slow]

SEED = 20
MOMENTS = 5
LATEST_S = 3.0
"""By then a sequencer runs, on a machine that is not busy: moments of the start and of the run are both among them."""
PARTITIONS = 2
LOAD_INTERVAL_S = 0.3


def load(pipeline: Pipeline) -> AbstractAsyncContextManager[None]:
    """Batches for every partition, until the end of the block."""

    async def send() -> None:
        for partition in range(PARTITIONS):
            await pipeline.send(partition, [pipeline.batch(partition, pipeline.new_events(partition, 2))])

    return steady_load(send, LOAD_INTERVAL_S)


async def must_end(worker: Worker) -> None:
    code = await asyncio.to_thread(worker.stop)
    # The interpreter itself may not have got to our code yet.
    assert code in {CLEAN, -signal.SIGTERM} or (code == UNEXPECTED and "asked to stop" in worker.log()), worker.log()


@whatever_runs_it
async def test_sigterm_ends_a_sequencer_at_any_moment_and_costs_nothing(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    """Another one runs beside it, so that its moments are also those of rebalances; that one is stopped in one."""
    pipeline = await Pipeline.create(
        broker.bootstrap, topic_prefix, tmp_path / "data", partitions=PARTITIONS, runtime=runtime
    )
    rng = random.Random(SEED)
    async with load(pipeline):
        with pipeline.worker(instance="beside") as beside:
            await asyncio.to_thread(beside.wait_until_holding)
            for _ in range(MOMENTS):
                with pipeline.worker("--leave", instance="stopped") as stopped:
                    await asyncio.sleep(rng.uniform(0, LATEST_S))
                    await must_end(stopped)
            rebalances = (beside.status() or {})["rebalances"]
            with pipeline.worker("--leave", instance="stopped") as stopped:
                await asyncio.to_thread(
                    beside.wait_until, lambda status: status["state"] != "running" or status["rebalances"] > rebalances
                )
                await must_end(beside)
                await must_end(stopped)
    with pipeline.worker(instance="beside") as again:
        await pipeline.wait_until_sequenced(again)
        await must_end(again)
    await pipeline.check()
