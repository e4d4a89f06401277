"""`python -m tests.bench.tlog`: what it costs to make a log durable, publish it as tiles, and prove an entry of it.

A log is written by the audit sink's own writer on a real disk: every append is fsynced, and beside the appends both
trees are published (tiles, bundles, checkpoints, all fsynced) as often as the checkpointer signs. The clock stops when
the published checkpoint covers the last entry. Records are made before. Compare entries per CPU second: entries per
second say more of the disk, and of who else uses it.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Final

from meterproof_proofs.frontier import leaf_hashes
from meterproof_proofs.tile_proofs import TileTree
from meterproof_proofs.tiles import TileEdge
from meterproof_proofs.tree import verify_inclusion
from meterproof_sinks.audit_sink import AuditSink
from meterproof_sinks.audit_tree import SignedPair
from tests.log_builder import LogBuilder, signed_pair

BATCHES: Final = {100: 60_000, 1_000: 150_000, 10_000: 150_000}
"""Entries by events per append; a record holds at most 1,000, so the last is ten records at once."""
_INTERVAL_S: Final = 0.5
_RECORD_MAX: Final = 1_000
_PROOFS: Final = 300
_CHUNK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Written:
    """One run."""

    batch: int
    entries: int
    seconds: float
    """Until the published checkpoint covered the last entry."""
    cpu_s: float
    publications: int


async def write(folder: Path, batch: int, entries: int) -> Written:
    """Write and publish a log."""
    log = LogBuilder()
    size = min(batch, _RECORD_MAX)
    for _ in range(entries // size):
        log.batch(size, after_ms=1)
    step = max(1, batch // size)
    ends = list(range(1, len(log.records), step))
    pairs = list(_pairs(log, [end + step - 1 for end in ends]))
    sink, stop = AuditSink(folder, verifiers=[log.signer.verifier]), asyncio.Event()
    await sink.write(0, log.genesis, log.records[:1])
    publications = 0
    published = asyncio.create_task(sink.publish_until(stop))
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    signed_s = began_s
    for end, pair in zip(ends, pairs, strict=True):
        await sink.write(0, log.genesis, log.records[end : end + step])
        if time.perf_counter() - signed_s >= _INTERVAL_S or end == ends[-1]:
            sink.offer_checkpoints(pair.events.note, pair.records.note if pair.records else None)
            signed_s = time.perf_counter()
            publications += 1
    stop.set()
    await published
    seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    (written,) = sink.logs().values()
    if written.checkpoint is None or written.checkpoint.size != entries:
        raise SystemExit("the last entry was not published")
    await sink.close()
    return Written(batch, entries, seconds, cpu_s, publications)


def _pairs(log: LogBuilder, numbers: list[int]) -> Iterator[SignedPair]:
    """Signed before the clock starts, as the checkpointer would: all of the last, and one for each append."""
    step = max(1, len(numbers) // 40)
    made = {number: signed_pair(log, number) for number in {*numbers[::step], numbers[-1]}}
    kept = min(made.values(), key=lambda pair: pair.sizes)
    for number in numbers:
        kept = made.get(number, kept)
        yield kept


def prove(entries: int) -> list[float]:
    """Milliseconds for an inclusion proof at a random place of a log of so many entries, nothing of it read before."""
    edge, files = TileEdge(), {}
    for first in range(0, entries, _CHUNK):
        chunk = [number.to_bytes(32) for number in range(first, min(first + _CHUNK, entries))]
        files.update({tile.path: content for tile, content in edge.extend(leaf_hashes(chunk))})
    files.update({tile.path: content for tile, content in edge.partials()})
    root, spent_ms = edge.root(), []
    for index in random.Random(1).sample(range(entries), _PROOFS):
        began_s = time.perf_counter()
        proof = TileTree(entries, root, files.get).inclusion_proof(index)
        spent_ms.append((time.perf_counter() - began_s) * 1e3)
        leaf = sha256(b"\0" + index.to_bytes(32)).digest()
        verify_inclusion(leaf=leaf, index=index, size=entries, proof=proof, root=root)
    return sorted(spent_ms)


def main(largest: int = 10_000_000) -> None:
    """Measure and print."""
    for batch, entries in BATCHES.items():
        with tempfile.TemporaryDirectory(prefix="meterproof-bench-") as folder:
            one = asyncio.run(write(Path(folder) / "audit", batch, entries))
        sys.stdout.write(
            f"appends of {batch:>6,}: {one.entries / one.seconds:>9,.0f} entries/s  "
            f"{one.entries / one.cpu_s:>9,.0f} entries per CPU second  ({one.publications} publications)\n"
        )
    spent_ms = prove(largest)
    sys.stdout.write(
        f"inclusion proof, {largest:,} entries, cold: p50 {median(spent_ms):.2f} ms, "
        f"p99 {spent_ms[len(spent_ms) * 99 // 100]:.2f} ms\n"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
