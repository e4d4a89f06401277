"""What is sent while faults strike: real meters at a steady pace, and a ledger of what they recorded."""

import asyncio
import contextlib
import json
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from meterproof import Meter
from meterproof._kafka_transport import KafkaTransport
from meterproof._series import Series
from meterproof.deployment import DataFolder
from meterproof.errors import DeliveryFailed
from meterproof.kafka.producer import Delivery
from meterproof.kafka.settings import KafkaSettings
from meterproof.keys import ProducerKey
from meterproof.settings import MeterSettings
from meterproof_local.ledger import Ledger
from meterproof_local.simulation import AGENTS, Agent
from meterproof_schemas.partitioner import partition_of
from meterproof_schemas.topics import Topic

_TICK_S = 0.1
_BATCH_INTERVAL_S = 0.25
"""How long a meter gathers: what faults meet is batches under way, and each costs every stage as much as its events."""
_FLUSH_INTERVAL_S = 3.0
_DUPLICATE_PERCENT = 10
_REPEATABLE = 5_000
"""A duplicate repeats one of this many events before it."""
_RETRY_S = 0.3


@dataclass(slots=True)
class Sent:
    """What was handed to Kafka until a moment."""

    waiting: set[asyncio.Future[Delivery]]
    """Deliveries that were not acknowledged then."""
    ends: dict[int, int]
    """By partition, the offset behind the last record acknowledged then."""

    def targets(self) -> dict[int, int] | None:
        """By partition, the source offset behind all of it; None while something is not acknowledged yet."""
        ends = dict(self.ends)
        for one in self.waiting:
            if not one.done():
                return None
            if not one.cancelled() and one.exception() is None:  # a refused batch is sent again, as something new
                place = one.result()
                ends[place.partition] = max(ends.get(place.partition, 0), place.offset + 1)
        return ends


@dataclass(slots=True)
class Deliveries:
    """All that is handed to Kafka by anybody here. Lives as long as the load."""

    waiting: set[asyncio.Future[Delivery]] = field(default_factory=set)
    ends: dict[int, int] = field(default_factory=dict)
    refused: int = 0
    """Deliveries that failed; what they held was sent again."""

    def add(self, delivery: asyncio.Future[Delivery]) -> None:
        self.waiting.add(delivery)
        delivery.add_done_callback(self._done)

    def _done(self, delivery: asyncio.Future[Delivery]) -> None:
        self.waiting.discard(delivery)
        if delivery.cancelled() or delivery.exception() is not None:
            self.refused += 1
        else:
            self.acknowledged(delivery.result().partition, delivery.result().offset)

    def acknowledged(self, partition: int, offset: int) -> None:
        self.ends[partition] = max(self.ends.get(partition, 0), offset + 1)

    def sent(self) -> Sent:
        return Sent(set(self.waiting), dict(self.ends))


class _Watched(KafkaTransport):
    """The meter's transport, whose deliveries are written down."""

    def __init__(self, settings: KafkaSettings, deliveries: Deliveries) -> None:
        super().__init__(settings)
        self._deliveries = deliveries

    async def send(self, partition: int, value: bytes) -> asyncio.Future[Delivery]:
        delivery = await super().send(partition, value)
        self._deliveries.add(delivery)
        return delivery


class Load:
    """Sends events of known content from `start` to `stop`, and what faults ask for between.

    Promises: whatever is in `ledger` was acknowledged by Kafka when `stop` returns. An event is written down before it
    is recorded, so nothing is accepted that is not there.
    """

    def __init__(self, folder: DataFolder, kafka: KafkaSettings, ledger: Ledger, *, seed: int, rate: int) -> None:
        """Describe a load.

        Args:
            folder: of the deployment.
            kafka: how it is reached.
            ledger: written by this load.
            seed: of everything drawn.
            rate: events a second, all agents together.

        """
        self.folder = folder
        self.ledger = ledger
        self.deliveries = Deliveries()
        self.deployment = folder.deployment()
        self.topic = kafka.topic(Topic.BATCHES)
        self._kafka = kafka
        self._seed = seed
        self._rate = rate
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._agent(agent), name=agent.name) for agent in AGENTS]

    async def stop(self) -> None:
        """Return when everything recorded is acknowledged; raises what any sender raised."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    def check(self) -> None:
        """Raise what a sender raised, if one ended."""
        for task in self._tasks:
            if task.done() and not self._stopping.is_set():
                task.result()
                message = f"{task.get_name()} ended by itself"
                raise RuntimeError(message)

    async def cancel(self) -> None:
        """End at once; what the ledger says is not certain then."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _agent(self, agent: Agent) -> None:
        draw = random.Random(f"load/{self._seed}/{agent.name}")
        sent: deque[bytes] = deque(maxlen=_REPEATABLE)
        per_tick, number, owed = self._rate * agent.share / 100 * _TICK_S, 0, 0.0
        async with self._meter(agent.service) as meter:
            flushing = asyncio.create_task(_keep_flushing(meter))
            try:
                while not self._stopping.is_set():
                    owed += per_tick
                    while owed >= 1:
                        owed -= 1
                        if sent and draw.randrange(100) < _DUPLICATE_PERCENT:
                            line = draw.choice(sent)
                        else:
                            line = event(agent, f"{agent.name}-{number:08}", draw)
                            number += 1
                            sent.append(line)
                        self.ledger.good(line)
                        await meter.record_line(line)
                    await asyncio.sleep(_TICK_S)
            finally:
                flushing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await flushing
            await _flush(meter)

    def _meter(self, producer: str) -> Meter:
        settings = MeterSettings(
            deployment=self.deployment.deployment,
            producer=producer,
            source=producer,
            key_file=self.folder.keys / f"{producer}.key",
            partitions=self.deployment.partitions,
            batch_lines_max=100,
            flush_interval_s=_BATCH_INTERVAL_S,
            room_timeout_s=120,
        )
        return Meter(settings, _Watched(self._kafka, self.deliveries))

    # --- what faults send ---

    def partition(self, agent: Agent) -> int:
        """Where an agent's events go."""
        return partition_of(agent.name, self.deployment.partitions)

    def series(self, agent: Agent, draw: random.Random) -> Series:
        """An honest series of batches, by a new instance of the agent's service."""
        return Series(
            audience=self.deployment.deployment,
            topic=self.topic,
            partition=self.partition(agent),
            producer=agent.service,
            instance=draw.randbytes(16).hex(),
            key=ProducerKey.load(self.folder.keys / f"{agent.service}.key"),
        )

    def good_batch(self, agent: Agent, draw: random.Random, series: Series, events: int = 5) -> bytes:
        """A batch of new events, written down as sent."""
        lines = [event(agent, f"{agent.name}-{draw.getrandbits(64):016x}", draw) for _ in range(events)]
        for line in lines:
            self.ledger.good(line)
        return series.seal(lines, now_us())

    @contextlib.asynccontextmanager
    async def producer(self, **arguments: Any) -> AsyncIterator[AIOKafkaProducer]:
        """A producer of the library itself; waits until a broker answers."""
        arguments = {"enable_idempotence": True, "acks": "all", "max_request_size": 256 << 20} | arguments
        producer = AIOKafkaProducer(**self._kafka.client_args(), **arguments)
        while True:
            try:
                await producer.start()
                break
            except KafkaError:
                await producer.stop()
                await asyncio.sleep(_RETRY_S)
                producer = AIOKafkaProducer(**self._kafka.client_args(), **arguments)
        try:
            yield producer
        finally:
            await producer.stop()

    async def produce(
        self,
        partition: int,
        values: Sequence[bytes | None],
        *,
        headers: Sequence[tuple[str, bytes]] = (),
        **arguments: Any,
    ) -> None:
        """Append records as they are to the source topic; returns when they are acknowledged."""
        async with self.producer(**arguments) as producer:
            for value in values:
                place = await producer.send_and_wait(
                    self.topic,
                    value,
                    key=None if value else b"-",  # a record needs a value or a key
                    partition=partition,
                    headers=list(headers),
                )
                self.deliveries.acknowledged(partition, place.offset)


def event(agent: Agent, event_id: str, draw: random.Random, **changed: Any) -> bytes:
    """A right event of now, as a line."""
    return json.dumps(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": agent.service,
            "type": "meterproof.usage.v1",
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "subject": agent.name,
            "data": {
                "customer": agent.customer,
                "usage": _usage(agent, draw),
                "provider": agent.provider,
                "model": agent.model,
                "salt": draw.randbytes(16).hex(),
                **changed,
            },
        },
        separators=(",", ":"),
    ).encode()


def _usage(agent: Agent, draw: random.Random) -> Mapping[str, int]:
    return {
        "input_tokens": draw.randrange(agent.input_tokens // 2, agent.input_tokens * 3 // 2),
        "output_tokens": draw.randrange(agent.output_tokens // 2, agent.output_tokens * 3 // 2),
    }


def now_us() -> int:
    """Microseconds since 1970."""
    return int(datetime.now(UTC).timestamp() * 1_000_000)


async def _keep_flushing(meter: Meter) -> None:
    """Send again what was refused, for as long as the load lasts."""
    while True:
        await asyncio.sleep(_FLUSH_INTERVAL_S)
        with contextlib.suppress(DeliveryFailed):
            await meter.flush()


async def _flush(meter: Meter) -> None:
    """Return when everything is acknowledged."""
    while True:
        try:
            await meter.flush()
            return
        except DeliveryFailed:
            await asyncio.sleep(_RETRY_S)
