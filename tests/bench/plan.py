"""Which measurements a run makes, in which order, and how much load each of them gets."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from tests.bench.alerts import measure_webhook
from tests.bench.bare_loop import measure_bare_loop
from tests.bench.clickhouse_queries import measure_queries
from tests.bench.drain import Sink, measure_rebuild, measure_sink, measure_stage
from tests.bench.findings import Findings
from tests.bench.freshness import measure_freshness
from tests.bench.growth import SIZES, SIZES_QUICK, measure_growth
from tests.bench.latency import measure_latency
from tests.bench.meter import measure_meter
from tests.bench.naive import measure_naive
from tests.bench.peers.kafka_streams import measure_kafka_streams
from tests.bench.peers.quix import measure_quix
from tests.bench.result import Result, Run
from tests.bench.rig import Rig
from tests.bench.sequencer import measure_sequencer
from tests.bench.steps import measure_steps
from tests.bench.tlog import measure_tlog

BENCHES: Final = (
    *("profile", "bare", "meter", "sequencer", "asyncio", "rocksdb", "naive", "quix", "kafka-streams"),
    *("clickhouse", "audit", "checkpointer", "budgets", "latency"),
    *("clickhouse-http", "webhook", "freshness", "rebuild", "queries", "tlog", "growth"),
)
ASKED_FOR: Final = (
    *("quix", "kafka-streams", "clickhouse-http", "webhook"),
    *("freshness", "rebuild", "queries", "tlog", "growth"),
)
"""Only where they are asked for: they take packages from registries, minutes, or gigabytes of disk."""
PEERS: Final = ("sequencer", "asyncio", "naive", "quix", "kafka-streams")
"""The sequencer beside what people would pick instead."""
MEMORY: Final = ("sequencer", "rocksdb", "clickhouse", "audit", "checkpointer", "budgets", "webhook")
"""Every worker, for as long as it takes to see whether its memory grows."""
QUICK_EVENTS: Final = 12_000
_SHARE_OF_EVENTS: Final = {1: 1 / 12, 10: 1 / 2, 100: 1.0, 500: 1.0}
"""Small batches cost more per event: fewer events take as long."""
_METER_SHARE: Final = 1 / 8
_NAIVE_SHARE: Final = 1 / 20
_ALERTS_SHARE: Final = 1 / 1_000
"""Each is sent by itself, and recorded before the next."""
_REBUILD_SHARE: Final = 4
"""A rebuild is of many events; beside few of them its start and the tables would be half of it."""
_PROFILE_EVENTS: Final = 20_000
_PROFILE_PASSES: Final = 5
_LATENCY_S: Final = 20.0
_LATENCY_QUICK_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Task:
    """One measurement."""

    bench: str
    name: str
    measure: Callable[[Rig], Coroutine[None, None, None]]
    """Makes it once and adds what it found."""
    every_round: bool = True
    """Otherwise only in the first."""


def plan(chosen: Sequence[str], findings: Findings, *, events: int, batches: Sequence[int], quick: bool) -> list[Task]:
    """The tasks of one round, in the order of `BENCHES`; each adds to `findings`.

    Args:
        chosen: the benches.
        findings: where results go.
        events: at batches of 100; others take a fixed share of it.
        batches: sizes of batches for the benches that have several.
        quick: the least that shows that everything works.
    """
    plan_ = _Plan(findings, events, batches, quick=quick)
    for name in sorted(chosen, key=BENCHES.index):
        plan_.add(name)
    return plan_.tasks


class _Plan:
    """Tasks as they come together."""

    def __init__(self, findings: Findings, events: int, batches: Sequence[int], *, quick: bool) -> None:
        self.tasks: list[Task] = []
        self._findings = findings
        self._events = events
        self._batches = batches
        self._quick = quick

    def add(self, bench: str) -> None:
        """Add all that one bench measures."""
        events, quick = self._events, self._quick
        match bench:
            case "profile":
                self._once(bench, self._profile)
            case "growth":
                self._once(bench, self._growth)
            case "freshness" | "rebuild" | "queries" | "tlog":
                self._figures(bench)
            case "latency":
                self.tasks.append(Task(bench, "", self._latency))
            case "meter":
                self._each(self._meter, self._batches)
            case "sequencer" | "asyncio":
                self._each(partial(self._sequencer, bench), self._batches)
            case "rocksdb":
                self._sequencer(bench, 100)
            case "bare":
                self._rate(bench, _of(100), 100, lambda rig: measure_bare_loop(rig, batch=100, events=events))
            case "naive":
                count = int(events * _NAIVE_SHARE)
                self._rate(bench, "Faust table", None, lambda rig: measure_naive(rig, events=count))
            case "quix":
                self._rate(bench, "exactly once", None, lambda rig: measure_quix(rig, events=events))
            case "kafka-streams":
                self._each(self._kafka_streams, (100,) if quick else (1, 100))
            case "clickhouse" | "clickhouse-http" | "audit":
                self._sink(bench)
            case "checkpointer" | "budgets":
                self._stage(bench)
            case "webhook":
                count = int(events * _ALERTS_SHARE)
                self._rate(bench, "one endpoint", None, lambda rig: measure_webhook(rig, alerts=count), "alerts")

    @staticmethod
    def _each(add: Callable[[int], None], batches: Sequence[int]) -> None:
        for batch in batches:
            add(batch)

    def _rate(
        self,
        bench: str,
        variant: str,
        batch: int | None,
        measure: Callable[[Rig], Coroutine[None, None, Run]],
        unit: str = "events",
    ) -> None:
        result = Result(bench, variant, unit, batch, [])
        self._findings.results.append(result)

        async def task(rig: Rig) -> None:
            result.runs.append(await measure(rig))

        self.tasks.append(Task(bench, variant, task))

    def _figures(self, bench: Literal["freshness", "rebuild", "queries", "tlog"]) -> None:
        async def task(rig: Rig) -> None:
            if bench == "freshness":
                found = await measure_freshness(rig, seconds=_LATENCY_QUICK_S if self._quick else _LATENCY_S)
            elif bench == "rebuild":
                share = 1 if self._quick else _REBUILD_SHARE
                found = await measure_rebuild(rig, batch=100, events=self._events * share)
            elif bench == "tlog":
                found = await measure_tlog(rig.say, quick=self._quick)
            else:
                found = await measure_queries(rig)
            for figure in found:
                self._findings.add_figure(figure)

        self.tasks.append(Task(bench, "", task))

    def _once(self, bench: str, measure: Callable[[Rig], Coroutine[None, None, None]]) -> None:
        self.tasks.append(Task(bench, "", measure, every_round=False))

    def _meter(self, batch: int) -> None:
        events = int(self._events * _SHARE_OF_EVENTS[batch] * (_METER_SHARE if batch > 1 else 1))
        self._rate("meter", _of(batch), batch, lambda rig: measure_meter(rig, batch=batch, events=events))

    def _sequencer(self, bench: Literal["sequencer", "asyncio", "rocksdb"], batch: int) -> None:
        events = int(self._events * _SHARE_OF_EVENTS[batch])
        runtime: Literal["faust", "asyncio"] = "asyncio" if bench == "asyncio" else "faust"
        index: Literal["memory", "rocksdb"] = "rocksdb" if bench == "rocksdb" else "memory"
        self._rate(
            bench,
            _of(batch),
            batch,
            lambda rig: measure_sequencer(rig, batch=batch, events=events, runtime=runtime, index=index),
        )

    def _kafka_streams(self, batch: int) -> None:
        variant = "single events" if batch == 1 else f"records of {batch}"
        self._rate(
            "kafka-streams",
            variant,
            batch,
            lambda rig: measure_kafka_streams(rig, batch=batch, events=self._events),
        )

    def _sink(self, sink: Sink) -> None:
        unit = "lines" if sink == "audit" else "rows"
        self._rate(sink, _of(100), 100, lambda rig: measure_sink(rig, sink, batch=100, events=self._events), unit)

    def _stage(self, stage: Literal["checkpointer", "budgets"]) -> None:
        self._rate(stage, _of(100), 100, lambda rig: measure_stage(rig, stage, batch=100, events=self._events))

    async def _profile(self, rig: Rig) -> None:
        rig.say("timing the steps")
        sizes = {1: _PROFILE_EVENTS // 10, 100: _PROFILE_EVENTS}
        self._findings.steps = measure_steps(sizes, passes=1 if self._quick else _PROFILE_PASSES)

    async def _growth(self, rig: Rig) -> None:
        for index in ("memory", "rocksdb"):
            for identities in SIZES_QUICK if self._quick else SIZES:
                self._findings.growth.append(await measure_growth(rig, index, identities))

    async def _latency(self, rig: Rig) -> None:
        for found in await measure_latency(rig, seconds=_LATENCY_QUICK_S if self._quick else _LATENCY_S):
            self._findings.add_latency(found)


def _of(batch: int) -> str:
    return f"batches of {batch}"
