"""Nothing is lost, doubled or forked, whatever is killed, frozen, cut, deleted or sent."""

import os
from itertools import islice
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.run import QUICK_RATE, Outcome, run
from tests.chaos.schedule import schedule

SEED = int(os.environ.get("METERPROOF_SEED", "12"))
"""One order of faults for every run of the tests, so that a failure is a change's and can be repeated."""


def test_a_schedule_follows_from_its_seed_and_holds_every_fault() -> None:
    times = {name: fault.times for name, fault in FAULTS.items()}
    round_ = sum(times.values())
    first, second = (list(islice(schedule(7, times), 2 * round_)) for _ in range(2))
    assert first == second
    assert {planned.fault for planned in first[:round_]} == {planned.fault for planned in first[round_:]} == set(times)
    assert [planned.fault for planned in islice(schedule(8, times), round_)] != [one.fault for one in first[:round_]]


@pytest.mark.broker
@pytest.mark.clickhouse
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.flaky(reruns=1, rerun_except=["AssertionError"])  # what was lost, doubled or forked once is enough
async def test_every_fault_once_and_nothing_is_lost_doubled_or_forked(tmp_path: Path) -> None:
    """All that recover quickly, in the order of one seed; `./dev chaos --quick --seed S` runs any other."""
    outcome = Outcome(SEED)
    times = {name: 1 for name, fault in FAULTS.items() if not fault.slow}
    faults = len(times)
    print(f"seed {outcome.seed}")  # noqa: T201 - pytest shows it with a failure
    try:
        await run(tmp_path / "data", outcome, times, rate=QUICK_RATE, faults=faults, say=print)
    except BaseException as error:
        error.add_note(f"seed {outcome.seed}")
        raise
    assert outcome.differences == {}, f"seed {outcome.seed}"
    assert outcome.holds
    assert len(outcome.recoveries) == faults >= 30
    assert outcome.events > faults
    assert outcome.restarts > 0
    assert outcome.broker_restarts > 0
