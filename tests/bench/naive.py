"""A naive Faust app on the same broker, for comparison; see `naive_faust.py`."""

import sys
from pathlib import Path

from tests.bench.forwarding import measure_forwarding
from tests.bench.result import Run
from tests.bench.rig import Rig


async def measure_naive(rig: Rig, *, events: int) -> Run:
    """Drain a topic of single events; the rate is of input events, by the append time of what was forwarded."""
    faust = str(Path(sys.executable).with_name("faust"))
    command = [faust, "-A", "tests.bench.naive_faust", "worker", "--without-web", "--loglevel", "warn"]
    return await measure_forwarding(rig, command, kind="events", events=events)
