"""How long one event takes: from its batch's record to its log record, and from there to the alert that it raises.

All moments are the broker's append times, so nobody's clock but the broker's is asked. Sequencer and budgets run as
real processes while a third one offers events at a fixed rate, far below what the sequencer can do.
"""

import asyncio
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Final

from meterproof.deployment import DataFolder
from meterproof.kafka.reader import PartitionReader, Record
from meterproof.status import read_status
from meterproof_schemas.budget import Budget, BudgetFile, decode_alert
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.topics import Topic
from tests.bench.load import PARTITIONS
from tests.bench.rig import BenchDeployment, BenchFailed, Process, Rig, expect

OFFERED_PER_S: Final = 20_000
"""Events."""
BATCH: Final = 100
P99_TARGET_MS: Final = 250
_FLUSH_INTERVAL_S: Final = 0.1
"""Of budgets: how often alerts are looked for."""
_WARM_UP_SHARE: Final = 0.2
"""What came before this share of the records is start-up."""
_THRESHOLDS: Final = tuple(str(percent) for percent in range(5, 101, 5))


@dataclass(frozen=True, slots=True)
class Latency:
    """One way of an event, over all runs."""

    name: str
    values_ms: list[int]

    def percentile_ms(self, percent: int) -> float:
        """By linear interpolation."""
        return quantiles(self.values_ms, n=100, method="inclusive")[percent - 1]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "count": len(self.values_ms),
            "p50_ms": round(self.percentile_ms(50), 1),
            "p99_ms": round(self.percentile_ms(99), 1),
            "max_ms": max(self.values_ms),
        }


async def measure_latency(rig: Rig, *, seconds: float) -> list[Latency]:
    """Offer events for so long; every one of them must have come through."""
    async with rig.deployment(priced=True) as deployment:
        # Spread over the run: an agent spends about 1 cent with each event.
        per_agent = OFFERED_PER_S * seconds / 1_000
        budget = Budget(
            name="daily",
            scope="agent",
            subject="agent-00*",
            window="day",
            limit=f"{max(0.01, per_agent * 0.01):.2f}",
            currency="USD",
            thresholds=_THRESHOLDS,
        )
        places = DataFolder(deployment.data)
        places.budgets.write_bytes(BudgetFile(version=1, budgets=(budget,)).model_dump_json().encode())
        with (
            deployment.worker("sequencer", "run", "--instance=bench") as sequencer,
            deployment.worker("budgets", "run", "--instance=budgets", f"--interval-s={_FLUSH_INTERVAL_S}") as budgets,
        ):
            rig.say("waiting for the workers")

            async def ready() -> bool:
                return all(_status(deployment, name).get("state") == "running" for name in ("bench", "budgets"))

            await budgets.until(ready)
            publishing = asyncio.ensure_future(
                deployment.publish(
                    "batches", batch=BATCH, events=int(OFFERED_PER_S * seconds), batches_per_s=OFFERED_PER_S / BATCH
                )
            )

            async def published() -> bool:
                return publishing.done()

            await asyncio.gather(sequencer.until(published), budgets.until(published))
            expected = await publishing
            used = {"sequencer": _share(sequencer, seconds), "budgets": _share(budgets, seconds)}
            rig.say("waiting for the last; of a core: " + ", ".join(f"{name} {one:.0%}" for name, one in used.items()))

            async def through() -> bool:
                partitions = _status(deployment, "budgets").get("partitions", {})
                return all(
                    partitions.get(str(one.partition), {}).get("position", 0) >= one.accepted for one in expected
                )

            await budgets.until(through)
            await budgets.stop()  # it makes durable what it has taken
            await sequencer.stop()
        return await _read(deployment, [one.accepted for one in expected])


def _share(process: Process, seconds: float) -> float:
    """What a process used of a core during the last so many seconds that it was watched."""
    last = process.samples[-1]
    first = next(sample for sample in process.samples if sample.at_ms >= last.at_ms - 1000 * seconds)
    return (last.used_s - first.used_s) * 1000 / (last.at_ms - first.at_ms)


def _status(deployment: BenchDeployment, instance: str) -> dict[str, Any]:
    return read_status(deployment.data / "status", instance) or {}


async def _read(deployment: BenchDeployment, accepted: list[int]) -> list[Latency]:
    to_log: list[int] = []
    origins: list[str] = []
    ends: dict[str, list[int]] = defaultdict(list)  # of each log, behind each record: its size
    moments: dict[str, list[int]] = defaultdict(list)  # and the append time of the record
    waits: dict[str, list[int]] = defaultdict(list)  # and how long after its source record that is
    warm_ms: dict[str, int] = {}

    def note(append_ms: int, record: LogRecord) -> None:
        header = record.header
        if header.genesis is not None:
            origins.append(header.genesis.origin)
            return
        ends[origins[-1]].append(header.size)
        moments[origins[-1]].append(append_ms)
        waits[origins[-1]].append(append_ms - header.append_ms)

    states = await deployment.fold_log(note)
    for state, count in zip(states, accepted, strict=True):
        expect("events in the log", state.position, count)
    for name, values in waits.items():
        begin = int(len(values) * _WARM_UP_SHARE)
        to_log += values[begin:]
        warm_ms[name] = moments[name][begin]
    to_alert: list[int] = []
    for partition in range(PARTITIONS):
        for record in await _alerts(deployment, partition):
            alert = decode_alert(record.value)
            logged_ms = moments[alert.log][bisect_right(ends[alert.log], alert.position)]
            if logged_ms >= warm_ms[alert.log]:
                to_alert.append(record.timestamp_ms - logged_ms)
    if len(to_alert) < len(to_log) // 100 or len(to_log) < 2 or len(to_alert) < 2:
        raise BenchFailed(f"latency: only {len(to_alert)} alerts for {len(to_log)} records; offer for longer")
    return [Latency("record to log", to_log), Latency("log to alert", to_alert)]


async def _alerts(deployment: BenchDeployment, partition: int) -> list[Record]:
    async with PartitionReader(deployment.kafka, deployment.kafka.topic(Topic.ALERTS), partition) as reader:
        return [record async for chunk in reader.read(*await reader.bounds()) for record in chunk]
