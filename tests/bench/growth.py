"""What an event costs when the dedupe index holds millions already; `python -m tests.bench.growth JOB` for each.

The index is filled with identities that no event has: records of 100 are added and acknowledged, the last fifth of them
looked up before, as the sequencer does. The ingest clock goes over a quarter more than the time that an identity is
kept, so the first of them are forgotten again. Then the sequencer's pure class judges and records batches of 100 on top
of it, each record acknowledged at once. No broker and no runtime: what grows is the index alone.

Processor time is that of all threads, also of those that write files behind it. Before the class begins these are at
rest, and it ends when they are; what they cost over a long time stands in the price of filling, over its last fifth.
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
from meterproof_schemas.log_record import decode_record
from meterproof_schemas.series import SeriesRow
from meterproof_stream.judge import genesis_of, judge
from meterproof_stream.kept_state import KeptState, encode_row
from meterproof_stream.record_builder import append_record
from meterproof_stream.rocksdb_index import RocksdbIndex
from tests.bench.rig import Rig
from tests.bench.steps import Steps

SIZES: Final = (1_000_000, 10_000_000, 50_000_000)
"""Identities held."""
SIZES_QUICK: Final = (20_000,)
SLOWER_TARGET: Final = 2.0
"""The largest may cost at most this many times what the smallest costs."""
_BATCH: Final = 100
_INSTANCES: Final = 50
"""Producers' instances that the held identities came from."""
_EVENTS: Final = 100_000
_EVENTS_QUICK: Final = 2_000
_FIFTHS: Final = 5
"""Of the filling; all but one of them are kept."""
_MEMORY_BYTES: Final = 130
"""What an identity takes in memory at most: what would not fit is not tried."""
_FREE_SHARE: Final = 0.5
_DISK_LOOK: Final = 200
"""Records between two looks at the folder."""
_REST_LOOK_S: Final = 0.5
_REST_SHARE: Final = 0.02
"""Of the time between two looks: below it the threads behind an index are at rest."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One kind of index at one size."""

    index: str
    identities: int
    events_per_cpu_s: float | None
    """None: not measured."""
    peak_mib: int
    """Of the whole process."""
    add_us: float = 0.0
    """CPU of all threads for looking up and adding one new identity, over the last fifth of the filling."""
    add_thread_us: float = 0.0
    """The same of the calling thread alone."""
    disk_mib: int = 0
    """At most, looked at every few records."""
    start_s: float = 0.0
    """CPU of a start on what was closed: opening it, and bringing the state back that belongs to it."""
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
        return Growth(index, identities, None, 0, why=f"needs about {gib:.0f} GiB of memory")
    rig.say(f"{index}, {identities:,} identities")
    events = _EVENTS_QUICK if rig.quick else _EVENTS
    job = orjson.dumps({"index": index, "identities": identities, "events": events, "folder": str(rig.folder)}).decode()
    with rig.started([sys.executable, "-m", "tests.bench.growth", job], measured=True) as process:
        found: Mapping[str, Any] = orjson.loads((await process.end()).splitlines()[-1])
    return Growth(**found)


def main(index: str, identities: int, events: int, folder: str) -> None:
    """Fill, measure, print."""
    steps = Steps(_BATCH, events)
    last = b""
    with tempfile.TemporaryDirectory(dir=folder) as kept:
        state = KeptState(Path(kept) / "p0") if index == "rocksdb" else LogState()
        state.offer(0, steps.genesis)
        filled = _fill(state, identities, steps.now_ms)
        gc.collect()
        gc.freeze()
        _wait_for_rest()
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
            last = append_record(
                state, judgement, log_offset=offset + 1, source_offset=offset, in_force=steps.in_force
            ).value
            state.acknowledge(offset + 1)
        _wait_for_rest()
        used_s = time.process_time() - began_s
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        state.close()
        start_s = _started_s(Path(kept) / "p0", state, last) if index == "rocksdb" else 0.0
    found = Growth(
        index,
        identities,
        _BATCH * len(steps.values) / used_s,
        peak_mib,
        start_s=start_s,
        **filled,
    )
    sys.stdout.write(orjson.dumps(found.as_json()).decode() + "\n")


def _fill(state: LogState, identities: int, end_ms: int) -> dict[str, Any]:
    """Put so many, and a quarter more, into the index as records would; the last of them at `end_ms`."""
    index: Any = state.index
    keep_ms = genesis_of(state).limits.identities_kept_ms
    disk_bytes, making_s, all_s, thread_s = 0, 0.0, 0.0, 0.0
    records = identities // _BATCH
    measured = records // (_FIFTHS - 1)
    for number in range(-measured, records):
        if number == records - measured:
            _wait_for_rest()
            making_s, all_s, thread_s = 0.0, time.process_time(), time.thread_time()
        clock_ms = end_ms - (records - 1 - number) * keep_ms // records
        began_s = time.thread_time()
        raw = os.urandom((16 + 32) * _BATCH)
        made, entries = raw[: 16 * _BATCH], raw[16 * _BATCH :]
        sequence = number + measured
        row = SeriesRow(clock_ms, "gateway", f"instance-{sequence % _INSTANCES}", sequence, raw[:32], sequence + 1, [])
        state.series.restore(row)
        state.series.evict(clock_ms)
        encoded = encode_row(row)
        making_s += time.thread_time() - began_s
        if number >= records - measured:
            index.repeats(made, entries)
        index.evict(clock_ms)
        index.add(made, entries, clock_ms)
        if isinstance(index, RocksdbIndex):
            index.acknowledge((encoded,), {})
            if number % _DISK_LOOK == 0:
                disk_bytes = max(disk_bytes, index.disk_bytes())
    thread_s = time.thread_time() - thread_s
    _wait_for_rest()
    us_per_identity = 1e6 / (measured * _BATCH)
    return {
        "add_us": (time.process_time() - all_s - making_s) * us_per_identity,
        "add_thread_us": (thread_s - making_s) * us_per_identity,
        "disk_mib": disk_bytes >> 20,
    }


def _started_s(folder: Path, state: LogState, last_record: bytes) -> float:
    """CPU of bringing back what `state` was, from the folder and the last record of the log."""
    began_s = time.process_time()
    index = RocksdbIndex.open(folder)
    if index is None:
        raise SystemExit("what was closed is not there again")
    again = KeptState.resume_at(folder, index, decode_record(last_record))
    used_s = time.process_time() - began_s
    again.close()
    if (again.position, len(again.series.roots())) != (state.position, len(state.series.roots())):
        raise SystemExit("what was closed is not what is there again")
    return used_s


def _wait_for_rest() -> None:
    """Until no thread of the process has work."""
    used_s = 1.0
    while used_s > _REST_LOOK_S * _REST_SHARE:
        began_s = time.process_time()
        time.sleep(_REST_LOOK_S)
        used_s = time.process_time() - began_s


if __name__ == "__main__":
    main(**orjson.loads(sys.argv[1]))
