"""Every event that Kafka acknowledged is in the log exactly once, whatever happens to the sequencer in between."""

import random
from pathlib import Path

import pytest

from meterproof_local.broker import LocalBroker
from tests.integration.stream.workers import Pipeline

pytestmark = pytest.mark.broker


async def test_duplicates_count_once_over_a_crash(broker: LocalBroker, topic_prefix: str, tmp_path: Path) -> None:
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data")
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
        assert worker.stop() == 0, worker.log()
    await pipeline.check()
