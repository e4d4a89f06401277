"""What the demo sends: four agents through real meters, repeats, and everything that must be refused.

Each event is written into the ledger by whoever sends it, before anything of the pipeline has looked at it.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from meterproof import Meter
from meterproof._kafka_transport import KafkaTransport
from meterproof._series import Series
from meterproof.deployment import DataFolder
from meterproof.kafka.producer import Delivery, RecordProducer
from meterproof.kafka.settings import KafkaSettings
from meterproof.keys import ProducerKey
from meterproof.settings import MeterSettings
from meterproof_local.ledger import Ledger
from meterproof_local.setup import ProducerWish
from meterproof_schemas.limits import LINE_BYTES_MAX
from meterproof_schemas.partitioner import partition_of
from meterproof_schemas.topics import Topic

_CHUNK: Final = 40
"""Events that an agent sends without a pause."""


@dataclass(frozen=True, slots=True)
class Agent:
    """How a simulated agent behaves."""

    name: str
    customer: str
    provider: str
    model: str
    share: int
    """Percent of all events."""
    input_tokens: int
    """On average."""
    output_tokens: int

    @property
    def service(self) -> str:
        """The service that reports for it: producer and source of its events."""
        return f"{self.name}-service"


AGENTS: Final = (
    Agent("researcher", "acme", "anthropic", "claude-sonnet", 20, 2_000, 400),
    Agent("planner", "globex", "self-hosted", "llama-70b", 20, 2_000, 400),
    Agent("coder", "acme", "openai", "gpt-4o", 20, 2_000, 400),
    Agent("rogue", "globex", "openai", "gpt-4o", 40, 7_000, 1_600),
)
"""One per partition where there are four. The rogue spends several times its budget."""
PRODUCERS: Final = tuple(
    ProducerWish(agent.service, (agent.service,), (agent.name,), (agent.customer,)) for agent in AGENTS
)
"""Each service may report for its own agent only."""
LIMIT_PER_EVENT: Final = Decimal("0.004")
"""A daily budget of this much per event of the whole demo is out of reach of every agent but the rogue."""


def budget_file(events: int) -> bytes:
    """The budgets that the rogue will burst: its own, and that of its customer, whose agents lie in several logs."""
    limit = LIMIT_PER_EVENT * events
    common = {"subject": "*", "window": "day", "currency": "USD", "thresholds": ["50", "80", "100"]}
    budgets = [
        {"name": "agents-daily", "scope": "agent", "limit": format(limit, "f")} | common,
        {"name": "customers-daily", "scope": "customer", "limit": format(2 * limit, "f")} | common,
    ]
    return json.dumps({"version": 1, "budgets": budgets}, indent=2).encode() + b"\n"


def of_one_day(now: Callable[[], datetime]) -> Callable[[], datetime]:
    """A clock that stands still at the end of the day on which it was made: what bursts a daily budget is one day's."""
    end = now().replace(hour=23, minute=59, second=59, microsecond=999_999)
    return lambda: min(now(), end)


class Traffic:
    """Sends to one pipeline and writes down what it sent. Lives as long as the sending."""

    def __init__(
        self,
        folder: DataFolder,
        kafka: KafkaSettings,
        ledger: Ledger,
        *,
        seed: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        deployment = folder.deployment()
        self.ledger = ledger
        self._folder = folder
        self._kafka = kafka
        self._deployment = deployment.deployment
        self._partitions = deployment.partitions
        self._topic = kafka.topic(Topic.BATCHES)
        self._seed = seed
        self._now = of_one_day(now)
        self._random = random.Random(seed)  # noqa: S311 - replayable simulation, not a secret
        self._batches: list[tuple[int, bytes]] = []
        """Batches that meters sent, to send one of them again."""

    # --- good events ---

    async def agents(self, events: int, duplicates: float, *, turn: Callable[[], Awaitable[None]]) -> None:
        """All four agents at once, each through its own meter; each awaits `turn` after some events."""
        async with asyncio.TaskGroup() as group:
            for agent in AGENTS:
                group.create_task(self._agent(agent, events * agent.share // 100, duplicates, turn))

    async def _agent(self, agent: Agent, events: int, duplicates: float, turn: Callable[[], Awaitable[None]]) -> None:
        draw = random.Random(f"{self._seed}/{agent.name}")  # noqa: S311 - replayable simulation
        sent: list[bytes] = []
        async with self._meter(agent.service) as meter:
            for number in range(events):
                line = self._event(agent, number, draw)
                sent.append(line)
                await self._record(meter, line)
                if duplicates and (number == 0 or draw.random() < duplicates):  # a retry after an answer that was lost
                    await self._record(meter, draw.choice(sent))
                if number % _CHUNK == _CHUNK - 1:
                    await turn()

    async def trace(self, lines: Sequence[bytes], producer: str, *, turn: Callable[[], Awaitable[None]]) -> None:
        """Lines that exist already, through one meter."""
        async with self._meter(producer) as meter:
            for number, line in enumerate(lines):
                await self._record(meter, line)
                if number % _CHUNK == _CHUNK - 1:
                    await turn()

    async def _record(self, meter: Meter, line: bytes) -> None:
        self.ledger.good(line)
        await meter.record_line(line)

    def _meter(self, producer: str) -> Meter:
        settings = MeterSettings(
            deployment=self._deployment,
            producer=producer,
            source=producer,
            key_file=self._folder.keys / f"{producer}.key",
            partitions=self._partitions,
            batch_lines_max=100,
            room_timeout_s=60,
        )
        return Meter(settings, _Remembering(self._kafka, self._batches))

    def _event(self, agent: Agent, number: int, draw: random.Random) -> bytes:
        return self._line(
            agent,
            f"{agent.name}-{number:06}",
            {
                "input_tokens": draw.randrange(agent.input_tokens // 2, agent.input_tokens * 3 // 2),
                "output_tokens": draw.randrange(agent.output_tokens // 2, agent.output_tokens * 3 // 2),
            },
            salt=draw.randbytes(16).hex(),
        )

    def _line(self, agent: Agent, event_id: str, usage: dict[str, Any], **changed: Any) -> bytes:  # noqa: ANN401
        time = changed.pop("time", None) or self._now()
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": event_id,
            "source": agent.service,
            "type": "meterproof.usage.v1",
            "time": time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "subject": changed.pop("subject", agent.name),
            "data": {
                "customer": agent.customer,
                "usage": usage,
                "operation": "completion",
                "surface": "llm",
                "status": "ok",
                "provider": agent.provider,
                "model": agent.model,
                "tags": {"team": agent.customer},
                **changed,
            },
        }
        return json.dumps(event, separators=(",", ":")).encode()

    # --- what must not count ---

    async def repeat_batch(self) -> int:
        """A whole batch again, byte for byte, as a producer does that never got its answer; returns its events."""
        partition, value = self._random.choice(self._batches)
        lines = value.split(b"\n")[2:-1]
        for line in lines:
            self.ledger.good(line)
        await self._produce(partition, value)
        return len(lines)

    async def attack(self) -> None:
        """Everything that must be refused, once, written to the source topic past every meter.

        Call it when what the meters sent is acknowledged: a conflicting id conflicts only with an earlier event.
        """
        rogue = next(agent for agent in AGENTS if agent.name == "rogue")
        partition = partition_of(rogue.name, self._partitions)
        key = ProducerKey.load(self._folder.keys / f"{rogue.service}.key")
        fresh = [self._line(rogue, f"forged-{number}", {"input_tokens": 1}) for number in range(10)]

        def series(**other: Any) -> Series:  # noqa: ANN401 - what differs from an honest one
            honest: dict[str, Any] = {
                "audience": self._deployment,
                "topic": self._topic,
                "partition": partition,
                "producer": rogue.service,
                "instance": self._random.randbytes(16).hex(),
                "key": key,
            }
            return Series(**honest | other)

        async def send(sealed: bytes, reason: str, to: int = partition) -> None:
            self.ledger.bad(reason, len(sealed.split(b"\n")) - 3)
            await self._produce(to, sealed)

        # By nobody we know; with a stolen name.
        await send(self._seal(series(key=ProducerKey(self._random.randbytes(32))), fresh), "unknown_key")
        # By a known key, for another producer's name.
        await send(self._seal(series(producer="coder-service"), fresh), "key_not_allowed")
        # A line changed under way.
        await send(self._seal(series(), fresh).replace(b'"input_tokens":1}', b'"input_tokens":0}', 1), "bad_root")
        # The header changed under way.
        sealed = self._seal(series(), fresh)
        await send(sealed.replace(b'"sent_at":"20', b'"sent_at":"19', 1), "bad_signature")
        # Signed for another deployment; for another partition.
        await send(self._seal(series(audience="somebody-else"), fresh), "wrong_audience")
        if self._partitions > 1:
            await send(self._seal(series(), fresh), "wrong_partition", (partition + 1) % self._partitions)
        # Two batches under one number.
        instance = self._random.randbytes(16).hex()
        first = [self._line(rogue, f"first-{number}", {"input_tokens": 100}) for number in range(10)]
        for line in first:
            self.ledger.good(line)
        await self._produce(partition, self._seal(series(instance=instance), first))
        await send(self._seal(series(instance=instance), fresh), "producer_fork")
        # Not batches at all.
        self.ledger.bad("malformed_batch")
        await self._produce(partition, b"GET / HTTP/1.1\r\n\r\n")
        self.ledger.bad("unreadable_record")
        await self._produce(partition, None)
        # One batch, honestly signed, whose lines a meter would not have taken.
        lines = self._refused_lines(rogue)
        good = self._line(rogue, "between-bad-ones", {"input_tokens": 100})
        self.ledger.good(good)
        for _, reason in lines:
            self.ledger.bad(reason)
        await self._produce(partition, self._seal(series(), [good, *(line for line, _ in lines)]))

    def _refused_lines(self, rogue: Agent) -> list[tuple[bytes, str]]:
        """Lines that are refused one by one, with the reason."""
        now, usage = self._now(), {"input_tokens": 1}
        bad = [
            (b'{"specversion":"1.0","id":', "malformed_event"),
            (self._line(rogue, "float", {"input_tokens": 1.5}), "malformed_event"),
            (self._line(rogue, "twice", usage).replace(b'{"spec', b'{"id":"other","spec', 1), "malformed_event"),
            (self._line(rogue, "negative", {"input_tokens": -1}), "malformed_event"),
            (self._line(rogue, "large", usage, tags={"text": "x" * LINE_BYTES_MAX}), "too_large"),
            (self._line(rogue, "meter", {"gold_bars": 1}), "unknown_meter"),
            (self._line(rogue, "future", usage, time=now + timedelta(hours=1)), "in_future"),
            (self._line(rogue, "late", usage, time=now - timedelta(days=2)), "too_late"),
            (self._line(rogue, "rogue-000000", usage), "conflicting_id"),
            (
                self._line(rogue, "fix", usage, corrects={"id": "rogue-000001", "kind": "void"}),
                "correction_not_allowed",
            ),
        ]
        elsewhere = next(agent.name for agent in AGENTS if agent is not rogue)
        stranger = next(
            name
            for name in map("stranger-{}".format, range(1000))
            if partition_of(name, self._partitions) == partition_of(rogue.name, self._partitions)
        )
        bad.append((self._line(rogue, "stranger", usage, subject=stranger), "key_not_allowed"))
        if partition_of(elsewhere, self._partitions) != partition_of(rogue.name, self._partitions):
            bad.append((self._line(rogue, "elsewhere", usage, subject=elsewhere), "wrong_partition"))
        return bad

    def _seal(self, series: Series, lines: list[bytes]) -> bytes:
        return series.seal(lines, int(self._now().timestamp() * 1_000_000))

    async def _produce(self, partition: int, value: bytes | None) -> None:
        async with RecordProducer(self._kafka) as producer:
            # A record needs a value or a key.
            await (await producer.send(self._topic, partition, value, None if value is not None else b"nothing"))


class _Remembering(KafkaTransport):
    """The meter's transport, which also keeps what it sent."""

    def __init__(self, settings: KafkaSettings, batches: list[tuple[int, bytes]]) -> None:
        super().__init__(settings)
        self._batches = batches

    async def send(self, partition: int, value: bytes) -> asyncio.Future[Delivery]:
        """Keep the batch and hand it over."""
        self._batches.append((partition, value))
        return await super().send(partition, value)
