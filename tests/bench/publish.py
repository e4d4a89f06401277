"""A process that makes the load and publishes it before anything is measured: `python -m tests.bench.publish JOB`.

JOB is a `Job` in JSON; what a right worker makes of the load is printed as JSON, one `Expected` per partition.
"""

import asyncio
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Final, Literal

import orjson

from meterproof.kafka.producer import Delivery, RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.fold import LogState
from meterproof_schemas.keys import parse_registry
from meterproof_schemas.price_book import DEFAULT_METERS
from meterproof_schemas.topics import Topic
from meterproof_stream.judge import judge
from meterproof_stream.record_builder import InForce, append_record
from tests.bench.load import PARTITIONS, Expected, PartitionLoad, SignedSeries, agent_of, cut, registry

BARE_TOPIC: Final = "events"
"""Topic of bare events, for apps that are not ours."""
_IN_FLIGHT_MAX: Final = 2_000
_MAKING_MS: Final = 120_000
"""Making and offering a load takes less."""

Kind = Literal["batches", "log", "events", "bare-batches"]


@dataclass(frozen=True, slots=True)
class Job:
    """What to publish where."""

    bootstrap: str
    prefix: str
    kind: Kind
    """What stands in a record.

    `batches`: a signed batch, on `usage.batches`. `log`: a log record as the sequencer makes it, on `usage.log`.
    `events`: one bare event, keyed by its agent. `bare-batches`: the events of a batch, one per line, and no more.
    """
    batch: int
    """Events per batch."""
    events: int
    price_book: int = 0
    """Version that log records state to be in force."""
    batches_per_s: float = 0
    """Records offered per second, all made before the first is sent; 0: as fast as it goes."""

    @property
    def kafka(self) -> KafkaSettings:
        """The deployment."""
        return KafkaSettings(bootstrap=self.bootstrap, topic_prefix=self.prefix)


async def publish(job: Job) -> list[Expected]:
    """Make the load, publish it, and return when Kafka has acknowledged all of it."""
    now_ms = time.time_ns() // 1_000_000
    loads = [PartitionLoad(partition, now_ms=now_ms) for partition in range(PARTITIONS)]
    records = [0] * PARTITIONS
    topic = {
        "batches": job.kafka.topic(Topic.BATCHES),
        "log": job.kafka.topic(Topic.LOG),
    }.get(job.kind, job.prefix + BARE_TOPIC)
    in_flight: deque[asyncio.Future[Delivery]] = deque()
    async with RecordProducer(job.kafka) as producer:

        async def send(partition: int, value: bytes, key: bytes | None = None) -> None:
            in_flight.append(await producer.send(topic, partition, value, key))
            records[partition] += 1
            while len(in_flight) > _IN_FLIGHT_MAX:
                await in_flight.popleft()

        if job.kind == "events":
            for partition, batch in cut(job.events, job.batch):
                for line in loads[partition].lines(batch):
                    await send(partition, line, agent_of(line))
        elif job.kind == "bare-batches":
            for partition, batch in cut(job.events, job.batch):
                await send(partition, b"\n".join(loads[partition].lines(batch)))
        else:
            series = [
                SignedSeries(partition, job.kafka.topic(Topic.BATCHES), now_ms=now_ms)
                for partition in range(PARTITIONS)
            ]
            logs = [await _Log.begin(job, partition) for partition in range(PARTITIONS)] if job.kind == "log" else []
            made: list[tuple[int, bytes]] = []
            # What is offered at a rate is no backlog for who reads it, however long making it took.
            append_ms = now_ms + (_MAKING_MS if job.batches_per_s else 0)
            for partition, batch in cut(job.events, job.batch):
                value = series[partition].seal(loads[partition].lines(batch))
                if logs:
                    value = logs[partition].append(value, append_ms)
                if job.batches_per_s:
                    made.append((partition, value))
                else:
                    await send(partition, value)
            began_s = time.monotonic()
            for number, (partition, value) in enumerate(made):
                await asyncio.sleep(max(0, began_s + number / job.batches_per_s - time.monotonic()))
                await send(partition, value)
        for delivery in in_flight:
            await delivery
    return [load.expected(count) for load, count in zip(loads, records, strict=True)]


class _Log:
    """Sequences one partition without a broker: the same pure steps as the sequencer, in this process."""

    def __init__(self, state: LogState, price_book: int) -> None:
        self._state = state
        self._registry = parse_registry(registry())
        self._meters = frozenset(meter.name for meter in DEFAULT_METERS)
        self._in_force = InForce(self._registry.digest, price_book, writer="00" * 16, generation=1)

    @classmethod
    async def begin(cls, job: Job, partition: int) -> "_Log":
        """Behind the genesis that stands on the topic."""
        state = LogState()
        async with PartitionReader(job.kafka, job.kafka.topic(Topic.LOG), partition) as reader:
            genesis = await reader.at(0)
        state.offer(0, None if genesis is None else genesis.value)
        return cls(state, job.price_book)

    def append(self, value: bytes, now_ms: int) -> bytes:
        """The log record of the next source record."""
        state, offset = self._state, self._state.next_source_offset
        partition = 0 if state.genesis is None else state.genesis.partition
        judgement = judge(
            value,
            partition=partition,
            offset=offset,
            append_ms=now_ms,
            state=state,
            registry=self._registry,
            meters=self._meters,
        )
        built = append_record(
            state, judgement, log_offset=state.log_offset + 1, source_offset=offset, in_force=self._in_force
        )
        return built.value


if __name__ == "__main__":
    expected = asyncio.run(publish(Job(**orjson.loads(sys.argv[1]))))
    sys.stdout.write(orjson.dumps([asdict(one) for one in expected]).decode())
