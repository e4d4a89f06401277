"""What every bench stands on: one broker for the whole run, deployments on it, processes that are watched and ended."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import orjson
from aiokafka.admin import NewTopic

from meterproof.deployment import DataFolder
from meterproof.kafka.connection import admin_client
from meterproof.kafka.price_books import publish_price_book
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof.log_key import LogKey
from meterproof_local.broker import LocalBroker
from meterproof_local.child import Child
from meterproof_local.java import BENCHMARK_OPTIONS, LAPTOP_OPTIONS
from meterproof_schemas.fold import LogState
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice
from meterproof_schemas.topics import TOPICS, Topic
from tests.bench import cores
from tests.bench.load import DEPLOYMENT, PARTITIONS, Expected, registry
from tests.bench.publish import Job, Kind
from tests.bench.rate import Sample, both, rate_of
from tests.bench.result import Run

PATIENCE_S: Final = 600.0
"""How long one process may take for anything."""
METERPROOF: Final = str(Path(sys.executable).with_name("meterproof"))
"""The command."""
_SAMPLE_INTERVAL_S: Final = 0.02
_LOOK_INTERVAL_S: Final = 0.2
_SHOWN_LINES: Final = 15
_ROOT: Final = Path(__file__).resolve().parents[2]

Say = Callable[[str], None]
"""Told what is being done now, in a few words."""


class BenchFailed(Exception):
    """A process ended, stood still or gave a wrong result: there is no figure."""


class NotHere(Exception):
    """This machine lacks what a measurement needs: it is left out, with the reason."""


@dataclass
class Rig:
    """A folder, and one broker for all that ask for it; lives as long as the run of the bench."""

    folder: Path
    say: Say
    measured_cores: list[int]
    """Of the measured process; broker and bench have another."""
    all_cores: list[int]
    quick: bool
    """Whether what is too short to be measured passes all the same."""
    _open: ExitStack
    _number: int = field(default=0)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, say: Say, *, quick: bool = False) -> Iterator[Self]:
        """Everything that is started ends with the block."""
        usable = cores.available()
        own, measured = (usable[:1], usable[1:2]) if len(usable) > 1 else ([], [])
        with cores.started_on(own), ExitStack() as stack:
            yield cls(folder, say, measured, usable, quick, stack)

    @cached_property
    def broker(self) -> LocalBroker:
        """Started when first asked for."""
        self.say("starting Kafka")
        options = LAPTOP_OPTIONS if self.quick else BENCHMARK_OPTIONS
        return self._open.enter_context(LocalBroker(self.folder / "kafka", java_options=options))

    def new_prefix(self) -> str:
        """A prefix for topics that nothing in this run has."""
        self._number += 1
        return f"bench{self._number}."

    @asynccontextmanager
    async def deployment(self, *, priced: bool = False) -> AsyncIterator["BenchDeployment"]:
        """Fresh topics and a fresh data folder; the topics are deleted with the block.

        `priced` publishes price book 1, with prices for all that the load reports.
        """
        prefix = self.new_prefix()
        kafka = KafkaSettings(bootstrap=self.broker.bootstrap, topic_prefix=prefix)
        data = self.folder / f"{prefix}data"
        places = DataFolder(data)
        places.keys.mkdir(parents=True)
        places.registry.write_bytes(registry())
        LogKey(bytes(32)).save(places.log_key)
        deployment = Deployment("meter.example.com/bench", DEPLOYMENT, PARTITIONS)
        await create_topics(kafka, deployment, now_ms=time.time_ns() // 1_000_000, random_bytes=os.urandom)
        if priced:
            await publish_price_book(kafka, price_book())
        try:
            yield BenchDeployment(self, kafka, data, 1 if priced else 0)
        finally:
            await self.delete_topics([kafka.topic(spec.topic) for spec in TOPICS])

    def run_of(self, output: Iterable[tuple[float, int]], *processes: "Process", factor: float = 1.0) -> Run:
        """What a measurement found: see `rate_of`; each event put out stands for `factor` events that came in.

        What all the processes used of the processor, and their memory, is added up.
        """
        samples = processes[0].samples
        for other in processes[1:]:
            samples = both(samples, other.samples)
        rate = rate_of(output, samples, short=self.quick)
        return Run.of(rate.scaled(factor), sum(process.peak_mib for process in processes))

    async def create_topics(self, names: Sequence[str]) -> None:
        """Plain topics with as many partitions as the deployments have."""
        async with admin_client(KafkaSettings(bootstrap=self.broker.bootstrap)) as admin:
            await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])

    async def delete_topics(self, names: Sequence[str]) -> None:
        """Give the disk free."""
        async with admin_client(KafkaSettings(bootstrap=self.broker.bootstrap)) as admin:
            await admin.delete_topics(list(names))

    async def publish(
        self,
        kafka: KafkaSettings,
        kind: Kind,
        *,
        batch: int,
        events: int,
        price_book: int = 0,
        batches_per_s: float = 0,
    ) -> list[Expected]:
        """Publish a load by a process of its own; what a right worker makes of it, by partition."""
        self.say("publishing the load")
        job = Job(kafka.bootstrap, kafka.topic_prefix, kind, batch, events, price_book, batches_per_s)
        command = [sys.executable, "-m", "tests.bench.publish", orjson.dumps(asdict(job)).decode()]
        with self.started(command, measured=not batches_per_s) as process:  # at a rate, others are measured meanwhile
            return [Expected(**one) for one in orjson.loads(await process.end())]

    @contextmanager
    def started(
        self,
        command: Sequence[str],
        *,
        measured: bool = False,
        everywhere: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator["Process"]:
        """Start a process: on the measured core, on all, or on the bench's; killed with the block if still there."""
        self._number += 1
        path = self.folder / f"process{self._number}.log"
        usable = self.measured_cores if measured else self.all_cores if everywhere else cores.available()
        with path.open("wb") as log, cores.started_on(usable):
            child = Child(command, folder=_ROOT, environment=os.environ | (environment or {}), output=log)
        process = Process(child, path, command)
        try:
            yield process
        finally:
            child.kill()


@dataclass
class BenchDeployment:
    """A deployment's topics and data folder, for one measurement."""

    rig: Rig
    kafka: KafkaSettings
    data: Path
    price_book: int

    async def publish(self, kind: Kind, *, batch: int, events: int, batches_per_s: float = 0) -> list[Expected]:
        """Publish a load to it, at a rate or as fast as it goes."""
        return await self.rig.publish(
            self.kafka, kind, batch=batch, events=events, price_book=self.price_book, batches_per_s=batches_per_s
        )

    @contextmanager
    def worker(self, *arguments: str) -> Iterator["Process"]:
        """Start `meterproof …` as the measured process."""
        command = [
            METERPROOF,
            *arguments,
            f"--data={self.data}",
            f"--bootstrap={self.kafka.bootstrap}",
            f"--prefix={self.kafka.topic_prefix}",
        ]
        with self.rig.started(command, measured=True) as process:
            yield process

    async def fold_log(self, on_record: Callable[[int, LogRecord], None]) -> list[LogState]:
        """Fold every log from its genesis, re-deriving what it claims; `on_record` gets append time and record."""
        self.rig.say("checking the result")
        states = []
        for partition in range(PARTITIONS):
            state = LogState()
            async with PartitionReader(self.kafka, self.kafka.topic(Topic.LOG), partition) as reader:
                async for chunk in reader.read(*await reader.bounds()):
                    for record in chunk:
                        accepted = state.offer(record.offset, record.value)
                        if accepted is not None:
                            on_record(record.timestamp_ms, accepted)
            states.append(state)
        return states


class Process:
    """A process of a bench: what it uses is sampled while it is waited for. Ended by who started it."""

    def __init__(self, child: Child, log: Path, command: Sequence[str]) -> None:
        self._child = child
        self._log = log
        self._command = command
        self.samples: list[Sample] = []
        self.peak_mib = 0
        """Largest resident memory seen, in MiB."""

    async def end(self) -> str:
        """Wait until it ends by itself; what it printed.

        Raises:
            BenchFailed: it ended with another code than 0.
        """
        while (code := self._child.poll()) is None:
            self._sample()
            await asyncio.sleep(_SAMPLE_INTERVAL_S)
        if code:
            raise BenchFailed(self._last_words(f"ended with {code}"))
        return self.printed()

    async def until(self, done: Callable[[], Any], *, interval_s: float = _LOOK_INTERVAL_S) -> None:
        """Sample it until `done` (awaited, asked at the interval) is true.

        Raises:
            BenchFailed: it ended before that, or it took longer than `PATIENCE_S`.
        """
        deadline_s = time.monotonic() + PATIENCE_S
        asked_s = 0.0
        while True:
            self._sample()
            now_s = time.monotonic()
            if now_s - asked_s >= interval_s:
                asked_s = now_s
                if await done():
                    self._sample()
                    return
            if (code := self._child.poll()) is not None:
                raise BenchFailed(self._last_words(f"ended with {code} before its work was done"))
            if now_s > deadline_s:
                raise BenchFailed(self._last_words(f"was not done within {PATIENCE_S:g} s"))
            await asyncio.sleep(_SAMPLE_INTERVAL_S)

    async def stop(self) -> None:
        """Ask it to stop (SIGTERM) and wait for its end.

        Raises:
            BenchFailed: it ended with another code than 0.
        """
        self._child.send_signal(signal.SIGTERM)
        await self.end()

    def printed(self) -> str:
        """Standard output and error so far."""
        return self._log.read_text("utf-8", "replace")

    def _sample(self) -> None:
        """Note its memory, and the processor time of all its threads (proc(5): /proc/PID/stat fields 14 and 15)."""
        try:
            stat = Path(f"/proc/{self._child.pid}/stat").read_text("ascii", "replace")
            status = Path(f"/proc/{self._child.pid}/status").read_text("utf-8", "replace")
        except OSError:  # it has just ended
            return
        fields = stat.rpartition(")")[2].split()
        used_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        mib = {}
        for line in status.splitlines():
            name, _, value = line.partition(":")
            if name in {"VmHWM", "VmRSS"}:
                mib[name] = int(value.split()[0]) / 1024
        self.samples.append(Sample(time.time_ns() / 1_000_000, used_s, mib.get("VmRSS", 0)))
        self.peak_mib = max(self.peak_mib, round(mib.get("VmHWM", 0)))

    def _last_words(self, what: str) -> str:
        lines = "\n".join(f"  {line}" for line in self.printed().splitlines()[-_SHOWN_LINES:])
        return f"{subprocess.list2cmdline(self._command)[:300]} {what}; its last words:\n{lines or '  (none)'}"


def expect(what: str, found: object, expected: object) -> None:
    """Refuse a wrong result: the speed of something wrong is worth nothing.

    Raises:
        BenchFailed: they differ.
    """
    if found != expected:
        raise BenchFailed(f"{what}: found {found}, expected {expected}")


def price_book() -> PriceBook:
    """Prices for all that the load reports."""
    return PriceBook(
        version=1,
        currency="USD",
        meters=DEFAULT_METERS,
        prices=(
            UnitPrice(meter="input_tokens", model="gpt-*", amount="2.50", per="1000000"),
            UnitPrice(meter="input_tokens", amount="3.00", per="1000000"),
            UnitPrice(meter="output_tokens", amount="15.00", per="1000000"),
            UnitPrice(meter="requests", amount="0.0001"),
        ),
    )
