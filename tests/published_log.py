"""A genuine log as an audit folder with both of its trees published, for tests of proofs."""

from collections.abc import Sequence
from pathlib import Path

from meterproof_proofs.bundle import encode_bundle
from meterproof_proofs.checkpoint import Checkpoint, sign_checkpoint
from meterproof_proofs.frontier import leaf_hashes
from meterproof_proofs.note import Signer
from meterproof_proofs.tiles import TileEdge, bundles_of
from meterproof_schemas.event import entry_of
from meterproof_schemas.records_tree import head_entry, head_of
from meterproof_sinks.audit_folder import LogName, encode_log_name, log_folder_name
from meterproof_sinks.audit_segment import split_record
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


def vkey_of(log: LogBuilder) -> str:
    """The verifier key of a log that `publish` wrote."""
    return Signer(log.origin, SEED).verifier.vkey
