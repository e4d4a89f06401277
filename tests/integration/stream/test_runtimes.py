"""What every runtime promises its engine, whatever the engine is."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from meterproof.exit_codes import CLEAN, UNEXPECTED
from meterproof_local.broker import LocalBroker
from meterproof_schemas.topics import Topic
from meterproof_stream.runtime import Runtime
from tests.integration.stream.noting_worker import Orders
from tests.integration.stream.workers import PATIENCE_S, Pipeline, whatever_runs_it

pytestmark = pytest.mark.broker


class NotingWorker:
    """The worker as a process; ended when the block ends."""

    def __init__(self, pipeline: Pipeline, runtime: Runtime, **orders: Any) -> None:
        kafka = pipeline.kafka
        told = Orders(kafka.bootstrap, kafka.topic_prefix, str(pipeline.data), runtime, **orders)
        self._output = pipeline.data / f"noting-{time.monotonic_ns()}.out"
        self._log = self._output.with_suffix(".log")
        with self._output.open("wb") as output, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.stream.noting_worker", orjson.dumps(asdict(told)).decode()],
                stdout=output,
                stderr=log,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def notes(self, call: str) -> list[dict[str, Any]]:
        """What it wrote down of one kind of call."""
        lines = [line for line in self._output.read_bytes().splitlines() if line.startswith(b"{")]
        return [found for found in map(orjson.loads, lines) if found["call"] == call]

    def fed(self) -> list[int]:
        """The offsets of all records fed."""
        return [found["offset"] for found in self.notes("feed")]

    def wait_until(self, holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds():
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                raise AssertionError(f"{self._output.read_text()}\n{self._log.read_text()}")
            time.sleep(0.05)

    def end(self) -> int:
        """Its exit code, when it ends by itself."""
        return self.process.wait(PATIENCE_S)

    def log(self) -> str:
        return self._log.read_text()


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
    with NotingWorker(pipeline, runtime, begin=3, take_over_s=9, settings={"session_timeout_s": 6}) as worker:
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
