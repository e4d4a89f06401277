"""A genuine log as an audit folder with both of its trees published, for tests of proofs."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from meterproof_proofs.bundle import encode_bundle
from meterproof_proofs.checkpoint import Checkpoint, sign_checkpoint
from meterproof_proofs.frontier import Frontier
from meterproof_proofs.note import Signer
from meterproof_proofs.tiles import TileEdge, bundles_of
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.event import entry_of
from meterproof_schemas.records_tree import head_entry, head_of
from meterproof_sinks.audit_folder import LogName, encode_log_name, log_folder_name
from meterproof_sinks.audit_segment import split_record
from tests import zstd
from tests.log_builder import LogBuilder

SEED = b"\7" * 32


def publish(audit: Path, log: LogBuilder, records: int | None = None, *, segment_records: int = 1_000_000) -> Path:
    """Write all records of a log, and both trees as they are after the first `records` of them (default: all).

    A new segment begins after so many records, unless the one at hand has no event.

    Written from the description of the formats, not by the sink: what reads it must read any writer's.
    """
    folder = audit / log_folder_name(log.origin)
    folder.mkdir(parents=True)
    (folder / "log.json").write_bytes(encode_log_name(LogName(version=1, origin=log.origin, partition=log.partition)))
    segments: dict[int, list[tuple[bytes, bytes]]] = {0: []}
    for offset, record in log.records:
        if len(segments[max(segments)]) >= segment_records and record.header.first > max(segments):
            segments[record.header.first] = []
        segments[max(segments)].append(split_record(offset, record))
    for first, parts in segments.items():
        (folder / f"{first:020}.jsonl").write_bytes(b"".join(events for events, _ in parts))
        (folder / f"{first:020}.records.jsonl").write_bytes(b"".join(heads for _, heads in parts))
    covered = [record for _, record in log.records[:records]]
    events = [entry_of(line) for record in covered for line in record.lines]
    publish_tree(folder, "", log.origin, events)
    publish_tree(folder, "records-", f"{log.origin}/records", [head_entry(head_of(record)) for record in covered])
    return folder


def publish_tree(folder: Path, prefix: str, origin: str, entries: Sequence[bytes]) -> bytes:
    """Write a tree's tiles, bundles and signed checkpoint; the checkpoint."""
    tlog = folder / f"{prefix}tlog"
    edge = TileEdge()
    files = {tile.path: content for tile, content in edge.extend(leaf_hashes(entries))}
    files |= {tile.path: content for tile, content in edge.partials()}
    for bundle in bundles_of(edge.size):
        first = 256 * bundle.index
        files[bundle.path] = encode_bundle(entries[first : first + bundle.width])
    note = sign_checkpoint(Checkpoint(origin, edge.size, edge.root()), [Signer(origin, SEED)])
    for path, content in files.items():
        (tlog / path).parent.mkdir(parents=True, exist_ok=True)
        (tlog / path).write_bytes(content)
    tlog.mkdir(exist_ok=True)
    (tlog / "checkpoint").write_bytes(note)
    (folder / f"{prefix}checkpoint").write_bytes(note)
    return note


def seal(folder: Path, log: LogBuilder) -> None:
    """Seal all segments but the last of a folder that `publish` wrote; from the description of the format, too."""
    firsts = sorted(int(path.name[:20]) for path in folder.glob("[0-9]*[0-9].jsonl"))
    previous, done, heads = "0" * 64, 0, Frontier()
    for number, first in enumerate(firsts[:-1]):
        frames = (folder / f"{first:020}.records.jsonl").read_bytes().split(b"\n")
        files = {}
        for name, suffix in (("events", ".jsonl"), ("records", ".records.jsonl")):
            plain = folder / f"{first:020}{suffix}"
            lines = plain.read_bytes()
            packed = zstd.compress(lines)
            (folder / f"{plain.name}.zst").write_bytes(packed)
            plain.unlink()
            files[name] = {
                "lines": lines.count(b"\n"),
                "bytes": len(lines),
                "sha256": sha256(lines).hexdigest(),
                "zst_bytes": len(packed),
                "zst_sha256": sha256(packed).hexdigest(),
            }
        mine = log.records[done : done + sum(line.startswith(b'{"log_offset":') for line in frames)]
        done += len(mine)
        offset, last = mine[-1]
        heads.extend(leaf_hashes([head_entry(head_of(record)) for _, record in mine]))
        end = {
            "log_offset": offset,
            "digest": last.digest,
            "next_source_offset": last.header.next_source_offset,
            "clock_ms": last.header.clock_ms,
            "size": last.header.size,
            "root": last.header.root,
            "frontier": last.header.frontier,
            "records": done,
            "records_root": heads.root().hex(),
            "records_frontier": b"".join(heads.hashes).hex(),
        }
        manifest = {
            "version": 1,
            "origin": log.origin,
            "number": number,
            "previous": previous,
            "first": first,
            "last": last.header.size - 1,
            "first_log_offset": mine[0][0],
            "files": files,
            "end": end,
            "genesis": log.genesis.model_dump(),
        }
        content = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        (folder / f"{first:020}.manifest.json").write_bytes(content)
        previous = sha256(content).hexdigest()


def vkey_of(log: LogBuilder) -> str:
    """The verifier key of a log that `publish` wrote."""
    return Signer(log.origin, SEED).verifier.vkey
