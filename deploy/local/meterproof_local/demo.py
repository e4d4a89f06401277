"""The demo: a real pipeline, honest and dishonest traffic, a crash in the middle, and a count of everything."""

import asyncio
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from meterproof.deployment import DataFolder
from meterproof.replay import ColumnMapping, Format, InvalidTrace, event_lines, read_rows, with_duplicates
from meterproof_local.comparison import Check, Measured, checks, measure_folders, measure_kafka
from meterproof_local.errors import SetupRefused
from meterproof_local.jars import Progress, kafka_version
from meterproof_local.ledger import Ledger
from meterproof_local.setup import REPLAY, SetupWish, replace
from meterproof_local.simulation import PRODUCERS, Traffic, budget_file
from meterproof_local.supervisor import Supervisor

PARTITIONS: Final = 4
_HALF_PERCENT: Final = 50
_KILL_PERCENT: Final = 55
_VICTIM: Final = "sequencer-0"
_AGENT_PAUSE_S: Final = 0.05
_STARTS_IN_S: Final = 90.0
_DRAINS_IN_S: Final = 180.0
_REPEATED_BATCHES: Final = 2


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to run."""

    data: Path
    """Folder to make; must not hold a deployment."""
    events: int = 12_000
    """Different events that the agents send."""
    duplicates: Decimal = Decimal("0.1")
    """Share of events that are sent again."""
    trace: Path | None = None
    """A trace to send instead of agents, and without attacks."""
    trace_format: Format = "azure-llm"
    seed: int = 1
    sequencers: int = 1
    kill: bool = True


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What was sent and what every stage has of it."""

    folder: DataFolder
    ledger: Ledger
    measured: Measured
    checks: list[Check]
    broker: str
    seconds: float
    """From the first event sent to the last stage that had everything."""
    example: str
    """Id of an event that it is worth to look at."""

    @property
    def holds(self) -> bool:
        """Whether every difference is 0."""
        return not any(check.difference for check in self.checks)

    @property
    def events_per_second(self) -> int:
        """Events sent, by the seconds until all had arrived everywhere; the crash is in it."""
        return round(self.ledger.sent / self.seconds)

    def as_json(self) -> dict[str, Any]:
        """For programs; figures are what was found, `sent` and `unique` what was sent."""
        measured = self.measured
        return {
            "sent": self.ledger.sent,
            "unique": len(self.ledger.unique),
            "accepted": measured.accepted.total(),
            "duplicates": measured.verdicts["duplicate"],
            "rejected": dict(sorted(measured.refused.items())),
            "clickhouse_rows": measured.clickhouse_rows,
            "audit_lines": measured.audit_lines.total(),
            "alerts": len(measured.alerts),
            "checkpoints": measured.checkpoints,
            "differences": {check.name: check.difference for check in self.checks},
            "broker": self.broker,
            "events_per_second": self.events_per_second,
        }

    def commands(self, program: str, folder: str) -> list[tuple[str, str]]:
        """What to look at next: (what it shows, command), each working on the data as it lies there."""
        data = shlex.quote(folder)
        spend = "SELECT agent, count() AS events, sum(cost) AS usd FROM usage GROUP BY agent ORDER BY usd DESC LIMIT 5"
        vkey = shlex.quote(f"{folder}/keys/log.vkey")
        return [
            ("Spend by agent, in SQL", f'{program} query "{spend}" --data {data}'),
            ("Prove the audit log, offline", f"{program} verify {data} --vkey {vkey}"),
            ("One event through every stage", f"{program} trace {shlex.quote(self.example)} --data {data}"),
            ("Start it again on this data", f"{program} up --data {data}"),
        ]


@dataclass(slots=True)
class Progression:
    """Where everything is, for whoever looks on."""

    sent: int = 0
    to_send: int = 0
    sequenced: dict[str, int] = field(default_factory=dict)
    """Verdicts so far, as the sequencers say: `accepted`, `duplicate`, `refused`."""
    stages: dict[str, int] = field(default_factory=dict)
    """Events that each stage has, as it says itself."""


class Demo:
    """One run. Lives as long as it."""

    def __init__(
        self,
        options: DemoOptions,
        *,
        say: Callable[[str], None] = lambda _: None,
        on_download: Callable[[Progress], None] | None = None,
    ) -> None:
        self._options = options
        self._say = say
        self._folder = DataFolder(options.data)
        self._trace = self._read_trace()
        self._killed = asyncio.Event()
        if not options.kill:
            self._killed.set()
        self._to_send = len(self._trace) or int(options.events * (1 + options.duplicates))
        self._ledger = Ledger({}, [])
        self._last_parts: dict[str, dict[str, Any]] = {}
        self._supervisor = Supervisor(
            self._folder,
            SetupWish(deployment="demo", name="localhost/demo", partitions=PARTITIONS, producers=(REPLAY, *PRODUCERS)),
            sequencers=options.sequencers,
            say=say,
            on_download=on_download,
        )

    async def run(self) -> DemoResult:
        """Run it, in this order.

        1. Files, broker, topics, workers.
        2. Traffic; past half of it, one sequencer is killed with SIGKILL.
        3. Wait until everything has arrived everywhere.
        4. Count, in Kafka, ClickHouse and the audit folder.
        5. Stop everything.

        Raises:
            LocalError: something did not start, or nothing moves any more.
        """
        self._make_files()
        async with self._supervisor as supervisor:  # 1
            ledger = self._ledger = Ledger.open(self._folder.price_book, self._folder.budgets)
            await supervisor.wait_until_ready(patience_s=_STARTS_IN_S)
            self._say("All workers are ready")
            started_s = time.monotonic()
            example = await self._send(ledger)  # 2
            self._say(f"All is sent: {ledger.sent:,} events. Waiting until everything has arrived everywhere")
            await supervisor.wait_until_drained(patience_s=_DRAINS_IN_S)  # 3
            seconds = time.monotonic() - started_s
            self._say("Everything has arrived; counting")
            measured = Measured()  # 4
            await measure_kafka(supervisor.kafka, supervisor.partitions, self._folder, measured)
            await asyncio.to_thread(measure_folders, self._folder, measured)
            self._say("Stopping: workers first, Kafka last")
        return DemoResult(  # 5
            self._folder,
            ledger,
            measured,
            checks(ledger, measured),
            f"Apache Kafka {kafka_version()}",
            seconds,
            example,
        )

    def progression(self) -> Progression:
        """Where it is now, as the workers' status files say."""
        supervisor, seen = self._supervisor, Progression(self._ledger.sent, max(self._to_send, self._ledger.sent))
        for name in supervisor.workers:
            # A worker that has just been started knows nothing yet; what its predecessor made durable is still there.
            parts = (supervisor.status(name) or {}).get("partitions") or self._last_parts.get(name, {})
            self._last_parts[name] = parts
            if name.startswith("sequencer"):
                for part in parts.values():
                    for verdict, count in part["counts"].items():
                        kind = verdict if verdict in {"accepted", "duplicate"} else "refused"
                        seen.sequenced[kind] = seen.sequenced.get(kind, 0) + count
            else:
                seen.stages[name] = sum(part.get("signed_size", part["position"]) for part in parts.values())
        return seen

    def _make_files(self) -> None:
        folder = self._folder
        if folder.deployment_file.exists() or folder.kafka.exists():
            raise SetupRefused(f"{folder.root} holds a deployment already; give --data a new folder")
        folder.root.mkdir(parents=True, exist_ok=True)
        if self._options.trace is None:
            replace(folder.budgets, budget_file(self._options.events))

    def _read_trace(self) -> list[bytes]:
        options = self._options
        if options.trace is None:
            return []
        rows = read_rows(options.trace, options.trace_format, ColumnMapping())
        if not rows:
            raise InvalidTrace(f"{options.trace} has no rows")
        shift_us = time.time_ns() // 1000 - max(row.time_us for row in rows)
        lines = list(event_lines(rows, source=REPLAY.producer, run="trace", shift_us=shift_us))
        return with_duplicates(lines, options.duplicates, options.seed)

    async def _send(self, ledger: Ledger) -> str:
        """Send everything; returns the id of an event that it is worth to look at."""
        options = self._options
        traffic = Traffic(self._folder, self._supervisor.kafka, ledger, seed=options.seed)
        if self._trace:
            await traffic.trace(self._trace, REPLAY.producer, turn=self._turn)
            await self._kill_past(0)
            return next(event_id for _, event_id in ledger.unique)
        self._say("Four agents at work, each through its own meter; one of them is a rogue")
        await traffic.agents(options.events, float(options.duplicates), turn=self._turn)
        await self._kill_past(0)
        self._say(f"Sending {_REPEATED_BATCHES} whole batches again, byte for byte")
        for _ in range(_REPEATED_BATCHES):
            await traffic.repeat_batch()
        self._say("Sending forged, tampered, misdirected and malformed batches")
        await traffic.attack()
        return "rogue-000000"

    async def _turn(self) -> None:
        """Called by each sender now and then: keeps the pace, and kills a sequencer in the middle of the traffic.

        Half of the traffic waits for the sequencer to have written something, so that there is a middle.
        """
        if not self._killed.is_set() and self._percent() >= _HALF_PERCENT:
            await self._wait_for_sequencer()
            await self._kill_past(_KILL_PERCENT)
        await asyncio.sleep(0 if self._trace else _AGENT_PAUSE_S)

    async def _kill_past(self, percent: int) -> None:
        """Kill a sequencer, once, if more than this of the traffic is sent."""
        if self._killed.is_set() or self._percent() < percent:
            return
        await self._wait_for_sequencer()
        if self._killed.is_set():  # by another sender, meanwhile
            return
        self._killed.set()
        pid = self._supervisor.workers[_VICTIM].pid
        self._supervisor.kill(_VICTIM)
        self._say(f"kill -9 {pid}: that was {_VICTIM}, in the middle of its work")

    def _percent(self) -> int:
        return 100 * self._ledger.sent // self._to_send

    async def _wait_for_sequencer(self) -> None:
        await self._supervisor.wait_until(self._has_begun, "the sequencer's first event", patience_s=_STARTS_IN_S)

    def _has_begun(self) -> bool:
        return self.progression().sequenced.get("accepted", 0) > 0
