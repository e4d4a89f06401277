"""What it costs to make a log durable and publish it as tiles, to prove an entry, to check a proof, to verify all.

A log is written by the audit sink's own writer on a real disk: every append is fsynced, and beside the appends both
trees are published (tiles, bundles, checkpoints, all fsynced) as often as a checkpoint is due. The clock stops when the
published checkpoint covers the last entry. Records are made before. Tessera's POSIX writer does its own work in the
same run, turn by turn: entries of 300 bytes, the same batches and checkpoint interval, in process; where Go is not
here, its figures are missing. Compare entries per CPU second: entries per second say more of the disk, and of who else
uses it.
"""

import asyncio
import gc
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Final, Literal

from meterproof_proofs.checkpoint_comparison import read_tlog
from meterproof_proofs.note import Verifier
from meterproof_proofs.published_log import verify_published_log
from meterproof_proofs.tile_proofs import TileTree
from meterproof_proofs.tiles import TileEdge
from meterproof_proofs.tree import verify_inclusion
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.keys import parse_registry
from meterproof_sinks.audit_sink import AuditSink
from meterproof_sinks.audit_tree import SignedPair
from meterproof_sinks.verification import verify_folder
from meterproof_sinks.verification_inputs import Producers
from tests.bench.figure import Figure
from tests.bench.rig import BenchFailed
from tests.builders import make_registry_file
from tests.interop.tools import NotHere, program
from tests.log_builder import LogBuilder, signed_pair
from tests.published_log import publish, vkey_of

BATCHES: Final = {100: 50_000, 1_000: 150_000, 10_000: 150_000}
"""Entries by entries per append; a record holds at most 1,000, so the last is ten records at once."""
LARGEST: Final = 10_000_000
"""Entries of the log that single ones are proved of."""
_RATIO_MIN: Final = 1.5
_COMPARED: Final = (1_000, 10_000)
_PROOF_MS_MAX: Final = 5.0
_CHECK_MS_MAX: Final = 100.0
_VERIFIED_PER_S_MIN: Final = 200_000
_INTERVAL_S: Final = 0.5
_RECORD_MAX: Final = 1_000
_PROOFS: Final = 300
_CHECKS: Final = 20
_CHUNK: Final = 1 << 16
_QUICK_SHARE: Final = 1 / 50

_Target = tuple[Literal["≤", "≥"], float]


@dataclass(frozen=True, slots=True)
class Written:
    """One log, made durable and published."""

    entries: int
    seconds: float
    """Until the published checkpoint covered the last entry."""
    cpu_s: float


async def measure_tlog(say: Callable[[str], None], *, quick: bool = False) -> list[Figure]:
    """Measure all of it once.

    Args:
        say: is told what is being done.
        quick: with the least entries that show that it works.

    Raises:
        BenchFailed: something that was written or proved does not hold.
    """
    share = _QUICK_SHARE if quick else 1
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="meterproof-bench-") as temporary:
        folder = Path(temporary)
        for batch, entries in BATCHES.items():
            count = max(batch, int(entries * share) // batch * batch)
            say(f"writing {count:,} entries, {batch:,} at once")
            ours = await write(folder / f"ours-{batch}", batch, count)
            found += _rates("the audit sink", batch, ours)
            try:
                theirs = write_tessera(folder / f"tessera-{batch}", batch, count)
            except NotHere as reason:
                say(f"without Tessera: {reason}")
                continue
            found += _rates("Tessera", batch, theirs)
            ratio = (ours.entries / ours.cpu_s) / (theirs.entries / theirs.cpu_s)
            target: _Target | None = ("≥", _RATIO_MIN) if batch in _COMPARED else None
            found.append(
                _figure(f"the audit sink : Tessera per CPU second, appends of {batch:,}", "times", ratio, target)
            )
        largest = int(LARGEST * share)
        say(f"proving entries of {largest:,}")
        for what, spent_ms in zip(("", " of CPU"), prove(folder / "largest", largest), strict=True):
            for percent in (50, 99):
                name = f"proof of one of {largest:,} entries, p{percent}{what}"
                found.append(_figure(name, "ms", spent_ms[len(spent_ms) * percent // 100], ("≤", _PROOF_MS_MAX)))
        say("checking a proof")
        found.append(
            _figure("check of one proof, from the start of its process", "ms", check(folder), ("≤", _CHECK_MS_MAX))
        )
        say("verifying")
        found += verify(folder, int(150_000 * share))
    return found


def _figure(name: str, unit: str, value: float, target: _Target | None = None) -> Figure:
    return Figure("tlog", name, unit, target, [value])


def _rates(who: str, batch: int, written: Written) -> list[Figure]:
    what = f"{who}, appends of {batch:,}"
    return [
        _figure(what, "entries/s", written.entries / written.seconds),
        _figure(what, "entries/CPU s", written.entries / written.cpu_s),
    ]


async def write(folder: Path, batch: int, entries: int) -> Written:
    """Write and publish a log by the audit sink's own writer."""
    log = LogBuilder()
    size = min(batch, _RECORD_MAX)
    for _ in range(entries // size):
        log.batch(size, after_ms=1)
    step = max(1, batch // size)
    ends = list(range(1, len(log.records), step))
    pairs = list(_pairs(log, [end + step - 1 for end in ends]))
    sink, stop = AuditSink(folder, verifiers=[log.signer.verifier]), asyncio.Event()
    await sink.write(0, log.genesis, log.records[:1])
    published = asyncio.create_task(sink.publish_until(stop))
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    signed_s = began_s
    for end, pair in zip(ends, pairs, strict=True):
        await sink.write(0, log.genesis, log.records[end : end + step])
        if time.perf_counter() - signed_s >= _INTERVAL_S or end == ends[-1]:
            sink.offer_checkpoints(pair.events.note, pair.records.note if pair.records else None)
            signed_s = time.perf_counter()
    stop.set()
    await published
    seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    (written,) = sink.logs().values()
    if written.checkpoint is None or written.checkpoint.size != entries:
        raise BenchFailed("the last entry was not published")
    await sink.close()
    return Written(entries, seconds, cpu_s)


def _pairs(log: LogBuilder, numbers: list[int]) -> Iterator[SignedPair]:
    """Signed before the clock starts, as the checkpointer would: all of the last, and one for each append."""
    step = max(1, len(numbers) // 40)
    made = {number: signed_pair(log, number) for number in {*numbers[::step], numbers[-1]}}
    kept = min(made.values(), key=lambda pair: pair.sizes)
    for number in numbers:
        kept = made.get(number, kept)
        yield kept


def write_tessera(folder: Path, batch: int, entries: int) -> Written:
    """Write and publish a log by Tessera's POSIX storage.

    Raises:
        NotHere: there is no Go, or Tessera cannot be had.
    """
    options = "-entries", str(entries), "-batch", str(batch), "-interval", f"{_INTERVAL_S}s"
    command = [*program("write-tessera"), *options, str(folder), str(folder.with_suffix(".vkey"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    if said["size"] != entries:
        raise BenchFailed("Tessera did not publish the last entry")
    return Written(entries, said["seconds"], said["cpu_s"])


def prove(folder: Path, entries: int) -> tuple[list[float], list[float]]:
    """Milliseconds for an inclusion proof at a random place of a log of so many entries, from the files of its tiles.

    By the clock, and of the processor: where they differ, others had it. Both in ascending order.

    Nothing is kept from one proof to the next, and each hash is verified against the root. The files were just
    written, so they come from the system's memory.
    """
    edge = TileEdge()
    for first in range(0, entries, _CHUNK):
        chunk = [number.to_bytes(32) for number in range(first, min(first + _CHUNK, entries))]
        for tile, content in edge.extend(leaf_hashes(chunk)):
            _put(folder / tile.path, content)
    for tile, content in edge.partials():
        _put(folder / tile.path, content)
    root, read = edge.root(), read_tlog(folder)
    spent_ms, cpu_ms = list[float](), list[float]()
    gc.collect()
    gc.freeze()  # what this process holds is no part of the work
    for index in random.Random(1).sample(range(entries), _PROOFS):
        began_s, began_cpu_s = time.perf_counter(), time.thread_time()
        proof = TileTree(entries, root, read).inclusion_proof(index)
        spent_ms.append((time.perf_counter() - began_s) * 1e3)
        cpu_ms.append((time.thread_time() - began_cpu_s) * 1e3)
        leaf = sha256(b"\0" + index.to_bytes(32)).digest()
        verify_inclusion(leaf=leaf, index=index, size=entries, proof=proof, root=root)
    gc.unfreeze()
    return sorted(spent_ms), sorted(cpu_ms)


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def check(folder: Path) -> float:
    """Milliseconds that `meterproof check` of a proof takes, start and end of its process included: the median."""
    log = LogBuilder()
    log.batch(300)
    publish(folder / "audit", log)
    proof, log_key, producer_key = folder / "e7.proof", folder / "log.vkey", folder / "producer.key"
    log_key.write_text(vkey_of(log))
    producer_key.write_text(log.key.entry.public_key or "")
    meterproof = str(Path(sys.executable).with_name("meterproof"))
    made = [meterproof, "prove", "e7", "--data", str(folder), "--out", str(proof)]
    subprocess.run(made, check=True, capture_output=True)
    command = [meterproof, "check", str(proof), "--vkey", str(log_key), "--producer-key", str(producer_key)]
    spent_ms = []
    for _ in range(_CHECKS):
        began_s = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        spent_ms.append((time.perf_counter() - began_s) * 1e3)
    return median(spent_ms)


def verify(folder: Path, entries: int) -> list[Figure]:
    """Verify a whole log: an audit folder with everything in it; its published files alone, beside others' programs."""
    log = LogBuilder()
    for _ in range(max(1, entries // _RECORD_MAX)):
        log.batch(_RECORD_MAX, after_ms=1)
    place = publish(folder / "verified", log)
    keys = [Verifier.parse(vkey_of(log))]
    producers = Producers(parse_registry(make_registry_file(log.key)), frozenset())
    began_s = time.process_time()
    report = verify_folder(place, keys, producers)
    spent_s = time.process_time() - began_s
    if not report.holds:
        raise BenchFailed(f"the folder does not verify: {report.all_faults}")
    events = report.logs[0].events
    found = [
        _figure("verify: lines, signatures, both trees", "events/CPU s", events / spent_s, ("≥", _VERIFIED_PER_S_MIN))
    ]
    began_s = time.process_time()
    if not verify_published_log(place / "tlog", keys).holds:
        raise BenchFailed("the published log does not verify")
    found.append(_figure("tlog verify: a published log", "entries/CPU s", events / (time.process_time() - began_s)))
    (folder / "verified.vkey").write_text(vkey_of(log))
    for tool in ("verify-xmod", "verify-torchwood", "verify-fsck"):
        try:
            command = [*program(tool), str(place / "tlog"), str(folder / "verified.vkey")]
        except NotHere:
            continue
        before_s = _children_cpu_s()
        subprocess.run(command, check=True, capture_output=True)
        found.append(_figure(f"{tool} (Go): the same", "entries/CPU s", events / (_children_cpu_s() - before_s)))
    return found


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    for figure in asyncio.run(measure_tlog(lambda text: print(text, file=sys.stderr), quick="--quick" in sys.argv)):
        print(f"{figure.name:70} {figure.value:>14,.2f} {figure.unit}")
