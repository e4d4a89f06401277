"""A deployment on the shared broker, and stream workers as real processes on it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson
import pytest

from meterproof.kafka.producer import Delivery, RecordProducer
from meterproof.kafka.reader import PartitionReader, Record
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof.status import read_status
from meterproof_schemas.event import entry_of
from meterproof_schemas.fold import LogState, fold
from meterproof_schemas.topics import Topic
from meterproof_stream.runtime import Runtime
from tests.builders import DEPLOYMENT, SigningPair, agent_in, make_batch, make_event, make_key, make_registry_file

PATIENCE_S = 150.0
"""How long a worker may take for anything before a test fails."""

whatever_runs_it = pytest.mark.parametrize("runtime", list(Runtime))
"""For what every runtime must promise."""


@dataclass
class Pipeline:
    """Topics, a registry, and what a producer has been acknowledged, for one test."""

    kafka: KafkaSettings
    data: Path
    partitions: int
    runtime: Runtime = Runtime.FAUST
    """Of its workers, unless one is told otherwise."""
    key: SigningPair = field(default_factory=make_key)
    sequences: dict[int, int] = field(default_factory=dict)
    events: dict[int, list[bytes]] = field(default_factory=dict)
    """Distinct right events that were acknowledged, by partition."""

    @classmethod
    async def create(
        cls,
        bootstrap: str,
        prefix: str,
        data: Path,
        *,
        partitions: int = 2,
        runtime: Runtime = Runtime.FAUST,
        **settings: Any,
    ) -> Self:
        kafka = KafkaSettings(bootstrap=bootstrap, topic_prefix=prefix)
        pipeline = cls(kafka, data, partitions, runtime)
        (data / "keys").mkdir(parents=True)
        (data / "keys" / "registry.json").write_bytes(make_registry_file(pipeline.key))
        await pipeline.create_topics(**settings)
        return pipeline

    async def create_topics(self, **settings: Any) -> None:
        named = settings.pop("deployment", DEPLOYMENT)
        deployment = Deployment("meter.example.com/test", named, self.partitions, **settings)
        await create_topics(self.kafka, deployment, now_ms=time.time_ns() // 1_000_000, random_bytes=os.urandom)

    def worker(
        self,
        *arguments: str,
        stage: str = "sequencer",
        instance: str = "one",
        runtime: Runtime | None = None,
        **environment: str,
    ) -> "Worker":
        """Start `meterproof <stage> run`."""
        return Worker(
            [
                stage,
                "run",
                f"--data={self.data}",
                f"--bootstrap={self.kafka.bootstrap}",
                f"--prefix={self.kafka.topic_prefix}",
                f"--instance={instance}",
                f"--runtime={runtime or self.runtime}",
                *arguments,
            ],
            self.data,
            environment,
        )

    def new_events(self, partition: int, count: int) -> list[bytes]:
        """Right events of now that were not made before."""
        made = self.events.setdefault(partition, [])
        first = len(made)
        now_ms = time.time_ns() // 1_000_000
        agents = [agent_in(partition, self.partitions, number) for number in range(3)]
        lines = [
            make_event(f"e{number}", subject=agents[number % 3], time_ms=now_ms)
            for number in range(first, first + count)
        ]
        made.extend(lines)
        return lines

    def batch(self, partition: int, lines: list[bytes], *, key: SigningPair | None = None, **header: Any) -> bytes:
        sequence = self.sequences.get(partition, 0)
        self.sequences[partition] = sequence + 1
        return make_batch(
            lines,
            key or self.key,
            partition=partition,
            sequence=sequence,
            topic=self.kafka.topic(Topic.BATCHES),
            **header,
        )

    async def send(self, partition: int, values: Sequence[bytes | None]) -> list[Delivery]:
        """Append source records as they are; returns when all are acknowledged."""
        async with RecordProducer(self.kafka) as producer:
            futures = [
                await producer.send(self.kafka.topic(Topic.BATCHES), partition, value, key=None if value else b"-")
                for value in values
            ]
            return [await future for future in futures]

    async def records(self, topic: Topic, partition: int) -> list[Record]:
        async with self._reader(topic, partition) as reader:
            return [record async for chunk in reader.read(*await reader.bounds()) for record in chunk]

    async def log(self, partition: int) -> LogState:
        """The fold of a partition's log as it stands now."""
        return fold((record.offset, record.value) for record in await self.records(Topic.LOG, partition))

    async def source_end(self, partition: int) -> int:
        async with self._reader(Topic.BATCHES, partition) as reader:
            return (await reader.bounds())[1]

    async def wait_until_sequenced(self, worker: "Worker | None" = None) -> None:
        """Return when every source record has its log record."""
        deadline_s = time.monotonic() + PATIENCE_S
        for partition in range(self.partitions):
            async with self._reader(Topic.BATCHES, partition) as source, self._reader(Topic.LOG, partition) as log:
                state, begin = LogState(), (await log.bounds())[0]
                while True:
                    ended = worker is not None and worker.process.poll() is not None
                    end, log_end = (await source.bounds())[1], (await log.bounds())[1]
                    async for chunk in log.read(begin, log_end):
                        fold(((record.offset, record.value) for record in chunk), state)
                    begin = log_end
                    if state.next_source_offset >= end:
                        break
                    if ended and worker is not None:
                        raise AssertionError(f"the worker ended with {worker.process.poll()}:\n{worker.log()}")
                    if time.monotonic() > deadline_s:
                        so_far = f"partition {partition}: {state.next_source_offset} of {end} sequenced"
                        raise AssertionError(f"{so_far}\n{'' if worker is None else worker.log()}")
                    await asyncio.sleep(0.05)

    async def check(self) -> None:
        """Every acknowledged event is accepted exactly once, and nothing else is."""
        for partition in range(self.partitions):
            state = LogState()
            lines: list[bytes] = []
            for record in await self.records(Topic.LOG, partition):
                accepted = state.offer(record.offset, record.value)
                lines.extend(accepted.lines if accepted is not None else ())
            expected = self.events.get(partition, [])
            counted, sent = Counter(map(entry_of, lines)), Counter(map(entry_of, expected))
            lost, too_many = (sent - counted).total(), (counted - sent).total()
            assert (lost, too_many) == (0, 0), f"partition {partition}: {lost} events lost, {too_many} too many"
            assert state.position == len(expected)

    def _reader(self, topic: Topic, partition: int) -> PartitionReader:
        return PartitionReader(self.kafka, self.kafka.topic(topic), partition)


class Worker:
    """A worker process; ended when the block ends."""

    def __init__(self, arguments: list[str], data: Path, environment: dict[str, str]) -> None:
        self.data = data
        self._instance = next(
            argument.removeprefix("--instance=") for argument in arguments if "--instance=" in argument
        )
        self._log_path = data / f"worker-{time.monotonic_ns()}.log"
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("meterproof")), *arguments],
                stdout=log,
                stderr=log,
                env=os.environ | environment,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """The exit code of a worker that ends by itself."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not end:\n{self.log()}") from None

    def log(self) -> str:
        return self._log_path.read_text()

    def events(self) -> list[dict[str, Any]]:
        """Its log lines, without one that is being written."""
        whole = self.log().rpartition("\n")[0]
        return [orjson.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def status(self) -> dict[str, Any] | None:
        return read_status(self.data / "status", self._instance)

    def wait_until_running(self) -> None:
        """Return when it has taken its partitions over, which may be none."""
        self.wait_until(lambda status: status["state"] == "running")

    def wait_until_holding(self) -> None:
        """Return when it holds partitions."""
        self.wait_until(lambda status: status["state"] == "running" and bool(status["partitions"]))

    def wait_until_without_lag(self) -> None:
        """Return when it has taken all that the broker has."""
        self.wait_until(lambda status: {part["lag"] for part in status["partitions"].values()} == {0})

    def wait_until(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Return when its status is such."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            ended = self.process.poll() is not None  # before the look: what it said last counts
            status = self.status()
            if status is not None and status["pid"] == self.process.pid and holds(status):
                return
            if ended or time.monotonic() > deadline_s:
                raise AssertionError(f"the worker does not run (exit code {self.process.poll()}):\n{self.log()}")
            time.sleep(0.05)
