"""What every runtime promises its engine, whatever the engine is."""

from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from meterproof.exit_codes import CLEAN, UNEXPECTED
from meterproof_local.broker import LocalBroker
from meterproof_schemas.topics import Topic
from meterproof_stream.runtime import Runtime
from tests.integration.stream.noting_process import NotingWorker
from tests.integration.stream.workers import Pipeline, whatever_runs_it

pytestmark = pytest.mark.broker


async def ten_records(broker: LocalBroker, prefix: str, data: Path) -> Pipeline:
    pipeline = await Pipeline.create(broker.bootstrap, prefix, data, partitions=1)
    await pipeline.send(0, [b"%d" % number for number in range(10)])
    return pipeline


async def committed(pipeline: Pipeline) -> int | None:
    args, group = pipeline.kafka.client_args(), f"{pipeline.kafka.topic_prefix}noting"
    async with AIOKafkaConsumer(**args, group_id=group, enable_auto_commit=False) as consumer:
        offset: int | None = await consumer.committed(TopicPartition(pipeline.kafka.topic(Topic.BATCHES), 0))
    return offset


@whatever_runs_it
async def test_reading_begins_where_the_engine_says_after_a_take_over_of_any_length(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    """The take-over outlasts the session; the group does not notice, and no record comes before its end."""
    pipeline = await ten_records(broker, topic_prefix, tmp_path / "data")
    with NotingWorker(pipeline, runtime, begin=3, take_over_s=12, settings={"session_timeout_s": 10}) as worker:
        worker.wait_until(lambda: bool(worker.notes("take over")))
        await pipeline.send(0, [b"10"])
        worker.wait_until(lambda: bool(worker.notes("taken over")))
        worker.wait_until(lambda: len(worker.fed()) >= 8)
        assert [(found["offset"], found["value"]) for found in worker.notes("feed")] == [
            (offset, str(offset)) for offset in range(3, 11)
        ]
        assert len(worker.notes("take over")) == 1
        worker.process.terminate()
        assert worker.end() == CLEAN, worker.log()
        assert len(worker.notes("stop")) == 1
    assert await committed(pipeline) == 11


@whatever_runs_it
async def test_a_stop_does_not_wait_for_a_take_over(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    pipeline = await ten_records(broker, topic_prefix, tmp_path / "data")
    with NotingWorker(pipeline, runtime, take_over_s=50) as worker:
        worker.wait_until(lambda: bool(worker.notes("take over")))
        worker.process.terminate()
        assert worker.end() == CLEAN, worker.log()
        assert not worker.notes("taken over")
        assert not worker.fed()


@whatever_runs_it
async def test_nothing_is_acknowledged_behind_a_record_that_fails(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    pipeline = await ten_records(broker, topic_prefix, tmp_path / "data")
    with NotingWorker(pipeline, runtime, fail_at=5) as worker:
        assert worker.end() == UNEXPECTED
        assert worker.fed() == [0, 1, 2, 3, 4]
        assert not worker.notes("stop")
        assert "cannot stand it" in worker.log()
    assert (await committed(pipeline) or 0) <= 5


@whatever_runs_it
async def test_a_stop_that_takes_too_long_is_cut_short(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, runtime: Runtime
) -> None:
    pipeline = await ten_records(broker, topic_prefix, tmp_path / "data")
    with NotingWorker(pipeline, runtime, stop_s=50, settings={"stop_deadline_s": 1}) as worker:
        worker.wait_until(lambda: len(worker.fed()) == 10)
        worker.process.terminate()
        assert worker.end() == UNEXPECTED
        assert "WorkerStalled" in worker.log()
