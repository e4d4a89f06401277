"""What an event costs when the dedupe index holds millions already; `python -m tests.bench.growth JOB` for each.

The index is filled directly, with identities that no event has; then the sequencer's pure class judges and records
batches of 100 on top of it, each record acknowledged at once. No broker and no runtime: what grows is the index alone.
"""

import gc
import os
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from meterproof_schemas.fold import LogState
from meterproof_stream.judge import judge
from meterproof_stream.kept_state import KeptState
from meterproof_stream.record_builder import append_record
from tests.bench.rig import Rig
from tests.bench.steps import Steps

SIZES: Final = (1_000_000, 10_000_000, 50_000_000)
"""Identities held."""
SIZES_QUICK: Final = (20_000,)
SLOWER_TARGET: Final = 2.0
"""The largest may cost at most this many times what the smallest costs."""
_BATCH: Final = 100
_EVENTS: Final = 40_000
_EVENTS_QUICK: Final = 2_000
_FILL: Final = 2_000
"""Identities per record of the filling."""
_MEMORY_BYTES: Final = 220
"""What an identity takes in memory, generously: what would not fit is not tried."""
_FREE_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Growth:
    """One kind of index at one size."""

    index: str
    identities: int
    events_per_cpu_s: float | None
    """None: not measured."""
    peak_mib: int
    why: str = ""
    """Why it was not measured."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


async def measure_growth(rig: Rig, index: str, identities: int) -> Growth:
    """One kind at one size, in a process of its own on the measured core."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if index == "memory" and identities * _MEMORY_BYTES > free * _FREE_SHARE:
        gib = identities * _MEMORY_BYTES / 2**30
        return Growth(index, identities, None, 0, f"needs about {gib:.0f} GiB of memory")
    rig.say(f"{index}, {identities:,} identities")
    events = _EVENTS_QUICK if rig.quick else _EVENTS
    job = orjson.dumps({"index": index, "identities": identities, "events": events, "folder": str(rig.folder)}).decode()
    with rig.started([sys.executable, "-m", "tests.bench.growth", job], measured=True) as process:
        found: Mapping[str, Any] = orjson.loads((await process.end()).splitlines()[-1])
    return Growth(index, identities, found["events_per_cpu_s"], found["peak_mib"])


def main(index: str, identities: int, events: int, folder: str) -> None:
    """Fill, measure, print."""
    steps = Steps(_BATCH, events)
    with tempfile.TemporaryDirectory(dir=folder) as kept:
        state = KeptState(Path(kept) / "p0") if index == "rocksdb" else LogState()
        state.offer(0, steps.genesis)
        _fill(state, identities, steps.now_ms)
        gc.collect()
        gc.freeze()
        began_s = time.process_time()
        for offset, value in enumerate(steps.values):
            judgement = judge(
                value,
                partition=0,
                offset=offset,
                append_ms=steps.now_ms,
                state=state,
                registry=steps.registry,
                meters=steps.meters,
            )
            append_record(state, judgement, log_offset=offset + 1, source_offset=offset, in_force=steps.in_force)
            state.acknowledge(offset + 1)
        used_s = time.process_time() - began_s
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        state.close()
    found = {"events_per_cpu_s": _BATCH * len(steps.values) / used_s, "peak_mib": peak_mib}
    sys.stdout.write(orjson.dumps(found).decode() + "\n")


def _fill(state: LogState, identities: int, now_ms: int) -> None:
    """Put identities straight into the index, as records would."""
    index: Any = state.index
    entry = bytes(32)
    for _ in range(identities // _FILL):
        raw = os.urandom(16 * _FILL)
        made = [raw[at : at + 16] for at in range(0, len(raw), 16)]
        # Each its own entry, since an index in memory would hold one object for all.
        index.add(made, [one + entry[16:] for one in made], now_ms)
        if isinstance(state, KeptState):
            index.acknowledge((), {})


if __name__ == "__main__":
    main(**orjson.loads(sys.argv[1]))
