"""One run: a pipeline under load, faults by a schedule, and the verdict."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Final

from meterproof_local.comparison import Check
from tests.chaos.faults import FAULTS
from tests.chaos.judge import judge
from tests.chaos.recovery import Recovery, RecoveryWatch
from tests.chaos.rig import Rig
from tests.chaos.schedule import schedule

QUICK_RATE: Final = 100
"""Events a second of a short run."""
_FIRST_S: Final = 2.0
"""Load alone, before the first fault."""
_INJECTION_LIMIT_S: Final = 240.0
_DRAINS_IN_S: Final = 180.0


@dataclass(slots=True)
class Outcome:
    """What a run found. Grows while it runs."""

    seed: int
    recoveries: list[Recovery] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    events: int = 0
    """Different events that were acknowledged."""
    seconds: float = 0.0
    restarts: int = 0
    """Of workers, after unexpected ends."""
    broker_restarts: int = 0

    @property
    def differences(self) -> dict[str, int]:
        """What is not as it must be."""
        return {check.name: check.difference for check in self.checks if check.difference}

    @property
    def holds(self) -> bool:
        """Whether it was judged, and every difference is 0."""
        return bool(self.checks) and not self.differences

    def by_fault(self) -> dict[str, dict[str, Any]]:
        """Per fault: how often, and seconds of recovery, median and maximum, in the log and everywhere."""
        table: dict[str, dict[str, Any]] = {}
        for name in FAULTS:
            found = [one for one in self.recoveries if one.planned.fault == name]
            log_s = [one.log_s for one in found if one.log_s is not None]
            everywhere_s = [one.everywhere_s for one in found if one.everywhere_s is not None]
            if log_s and everywhere_s:
                table[name] = {
                    "times": len(found),
                    "log_median_s": round(median(log_s), 2),
                    "log_max_s": round(max(log_s), 2),
                    "everywhere_median_s": round(median(everywhere_s), 2),
                    "everywhere_max_s": round(max(everywhere_s), 2),
                }
        return table

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "seed": self.seed,
            "faults": len(self.recoveries),
            "events": self.events,
            "seconds": round(self.seconds, 1),
            "worker_restarts": self.restarts,
            "broker_restarts": self.broker_restarts,
            "holds": self.holds,
            "recovery": self.by_fault(),
            "schedule": [
                {
                    "number": one.planned.number,
                    "fault": one.planned.fault,
                    "detail": one.detail,
                    "log_s": None if one.log_s is None else round(one.log_s, 2),
                    "everywhere_s": None if one.everywhere_s is None else round(one.everywhere_s, 2),
                }
                for one in self.recoveries
            ],
            "checks": [
                {"name": one.name, "expected": one.expected, "found": one.found, "difference": one.difference}
                for one in self.checks
            ],
        }


async def run(
    folder: Path,
    outcome: Outcome,
    times: Mapping[str, int],
    *,
    rate: int,
    faults: int | None = None,
    minutes: float | None = None,
    say: Callable[[str], None],
) -> None:
    """Run until `faults` were injected or `minutes` have passed, whichever is given; what it finds goes into `outcome`.

    `times` says which faults, and how often each strikes in one round of the schedule.

    1. Pipeline and load. 2. Faults, as the seed has it: each when the pipeline has recovered from the one before, or
    meanwhile. 3. Everything recovers, the load stops, everything arrives. 4. Judgement.

    Raises:
        TimeoutError: the pipeline did not recover from a fault in time.
        LocalError: something did not start, or needs a person.
    """
    async with Rig(folder, seed=outcome.seed, rate=rate, say=lambda text: say(f"  {text}")) as rig:  # 1
        watch = RecoveryWatch(rig)
        outcome.recoveries = watch.recoveries
        watch.start()
        began_s = time.monotonic()
        try:
            await asyncio.sleep(_FIRST_S)
            for planned in schedule(outcome.seed, times):  # 2
                enough = faults is not None and planned.number > faults
                if enough or (minutes is not None and time.monotonic() - began_s > 60 * minutes):
                    break
                await asyncio.sleep(planned.pause_s)
                async with asyncio.timeout(_INJECTION_LIMIT_S):
                    detail = await FAULTS[planned.fault].inject(rig, Random(planned.seed))
                recovery = watch.begin(planned, detail)
                say(f"{planned.number}. {planned.fault}: {detail}")
                if planned.wait:
                    await _recovered(rig, watch, recovery, say)
            for recovery in watch.recoveries:  # 3
                await _recovered(rig, watch, recovery, say)
            await rig.load.stop()
            await rig.supervisor.wait_until_drained(patience_s=_DRAINS_IN_S)
            outcome.seconds = time.monotonic() - began_s
        finally:
            await watch.stop()
        say("everything has arrived; judging")
        outcome.checks = await judge(rig)  # 4
        outcome.events = len(rig.load.ledger.unique)
        outcome.restarts = sum(worker.restarts for worker in rig.supervisor.workers.values())
        outcome.broker_restarts = rig.supervisor.broker_restarts


async def _recovered(rig: Rig, watch: RecoveryWatch, recovery: Recovery, say: Callable[[str], None]) -> None:
    if recovery.everywhere_s is not None and FAULTS[recovery.planned.fault].recovered(rig):
        return
    await watch.recovered(recovery)
    name = recovery.planned.fault
    await rig.supervisor.wait_until(lambda: FAULTS[name].recovered(rig), f"recovery from {name}")
    say(
        f"   {recovery.planned.number}. recovered: log {recovery.log_s:.1f} s, everywhere {recovery.everywhere_s:.1f} s"
    )
