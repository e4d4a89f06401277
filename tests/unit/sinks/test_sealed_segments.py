"""Sealed segments: compressed, with chained manifests; read like plain ones, and damage in them is named."""

import asyncio
import hashlib
import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.records_tree import head_entry, head_of
from meterproof_sinks.audit_errors import AuditFault, DamagedAudit
from meterproof_sinks.audit_folder import read_records, records, segments_of, unexpected_files
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.audit_segment import Segment
from meterproof_sinks.audit_sink import AuditSink
from meterproof_sinks.disk import NEW_SUFFIX, Disk
from meterproof_sinks.segment_manifest import read_manifest, read_manifests
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.verification import verify_folder
from meterproof_sinks.verification_memory import VerificationMemory
from tests import zstd
from tests.log_builder import LogBuilder, make_log, signed_pair

SMALL = SegmentLimits(bytes_max=1_500, age_ms=3_500)
LOG = make_log()
ZSTD = shutil.which("zstd")
JQ = shutil.which("jq")


def write(folder: Path, log: LogBuilder = LOG, *, seal: bool = True) -> Path:
    """A log's folder with its checkpoints; all segments but the last sealed."""
    writer = AuditLog(folder, log.origin, log.partition, limits=SMALL)
    try:
        cursor = writer.cursor
        writer.append([one for one in log.records if cursor is None or one[0] > cursor.log_offset])
        writer.take_checkpoints(signed_pair(log, -2))
        while seal and writer.seal_next():
            pass
    finally:
        writer.close()
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(tmp_path_factory.mktemp("plain") / "log", seal=False)
    assert len(segments_of(folder)) > 3
    return folder


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sealed") / "log")


@pytest.fixture
def folder(tmp_path: Path, sealed: Path) -> Path:
    """A sealed folder of its own."""
    return Path(shutil.copytree(sealed, tmp_path / "log"))


def sealed_segments(folder: Path) -> list[Segment]:
    return [segment for segment in segments_of(folder) if segment.is_sealed]


def test_all_but_the_last_segment_are_sealed_and_hold_the_same_lines(plain: Path, sealed: Path) -> None:
    assert [one.first for one in segments_of(sealed)] == [one.first for one in segments_of(plain)]
    *ended, last = segments_of(sealed)
    assert not last.is_sealed
    for segment in ended:
        assert not segment.events.exists()
        assert not segment.records.exists()
        for compressed in (segment.sealed_events, segment.sealed_records):
            was = plain / compressed.name.removesuffix(".zst")
            assert zstd.decompress(compressed.read_bytes()) == was.read_bytes()
    assert list(records(sealed)) == LOG.records
    assert unexpected_files(sealed) == []


class _LyingDisk(Disk):
    """Reports success and keeps other bytes of every compressed file than it was given."""

    def __init__(self, kept: Callable[[bytes], bytes]) -> None:
        self._kept = kept
        self._compressed: set[int] = set()

    def open_append(self, path: Path) -> int:
        descriptor = super().open_append(path)
        (self._compressed.add if path.name.endswith(f".zst{NEW_SUFFIX}") else self._compressed.discard)(descriptor)
        return descriptor

    def append(self, descriptor: int, content: bytes) -> None:
        super().append(descriptor, self._kept(content) if descriptor in self._compressed else content)


@pytest.mark.parametrize(
    "kept", [lambda content: content[:-5], lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:]]
)
def test_what_cannot_be_read_back_seals_nothing_and_keeps_the_plain_files(
    plain: Path, tmp_path: Path, kept: Callable[[bytes], bytes]
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "log"))
    writer = AuditLog(folder, LOG.origin, LOG.partition, limits=SMALL, disk=_LyingDisk(kept))
    try:
        with pytest.raises(DamagedAudit, match="was just written and"):
            writer.seal_next()
    finally:
        writer.close()
    assert sealed_segments(folder) == []
    for file in plain.glob("*.jsonl"):
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_a_manifest_says_what_a_stranger_counts(plain: Path, sealed: Path) -> None:
    previous = "0" * 64
    heads, number_of_records = Frontier(), 0
    by_offset = dict(LOG.records)
    for number, segment in enumerate(sealed_segments(sealed)):
        stated = json.loads(segment.manifest.read_bytes())
        assert (stated["number"], stated["previous"], stated["origin"]) == (number, previous, LOG.origin)
        previous = hashlib.sha256(segment.manifest.read_bytes()).hexdigest()
        for name, compressed in (("events", segment.sealed_events), ("records", segment.sealed_records)):
            packed, lines = compressed.read_bytes(), (plain / compressed.name.removesuffix(".zst")).read_bytes()
            assert stated["files"][name] == {
                "lines": lines.count(b"\n"),
                "bytes": len(lines),
                "sha256": hashlib.sha256(lines).hexdigest(),
                "zst_bytes": len(packed),
                "zst_sha256": hashlib.sha256(packed).hexdigest(),
            }
        offsets = [stored.log_offset for stored in read_records(plain) if stored.segment.first == segment.first]
        number_of_records += len(offsets)
        last = by_offset[offsets[-1]]
        heads.extend(leaf_hashes([head_entry(head_of(by_offset[offset])) for offset in offsets]))
        assert (stated["first"], stated["last"]) == (segment.first, last.header.size - 1)
        assert (stated["first_log_offset"], stated["end"]["log_offset"]) == (offsets[0], offsets[-1])
        assert (stated["end"]["digest"], stated["end"]["root"]) == (last.digest, last.header.root)
        assert (stated["end"]["records"], stated["end"]["records_root"]) == (number_of_records, heads.root().hex())
    assert number_of_records > 3


@pytest.mark.skipif(ZSTD is None or JQ is None, reason="zstd and jq are not both on this machine")
def test_common_programs_read_it(plain: Path, sealed: Path) -> None:
    segment = sealed_segments(sealed)[1]
    lines = subprocess.run([str(ZSTD), "-dcq", str(segment.sealed_events)], check=True, capture_output=True).stdout
    assert lines == (plain / segment.events.name).read_bytes()
    query = [str(JQ), "-r", ".files.events.sha256", str(segment.manifest)]
    stated = subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    assert stated == hashlib.sha256(lines).hexdigest()


def test_a_writer_goes_on_behind_sealed_segments(tmp_path: Path, sealed: Path) -> None:
    mine = Path(shutil.copytree(sealed, tmp_path / "log"))
    log = LogBuilder.resumed(list(records(mine)))
    for _ in range(8):
        log.batch(2)
    write(mine, log)
    assert list(records(mine)) == log.records
    report = verify_folder(mine, [log.signer.verifier])
    assert report.holds, report.all_faults
    assert report.logs[0].sealed == len(read_manifests(mine)) > len(read_manifests(sealed))
    at_once = write(tmp_path / "at-once", log)
    assert {path.name: path.read_bytes() for path in mine.glob("0*.json*")} == {
        path.name: path.read_bytes() for path in at_once.glob("0*.json*")
    }


def test_a_folder_that_ends_with_a_sealed_segment_is_whole(folder: Path) -> None:
    """As a copy of the sealed segments alone is, once its checkpoint is one that they cover."""
    last = segments_of(folder)[-1]
    last.events.unlink()
    last.records.unlink()
    for tlog in ("tlog", "records-tlog"):
        shutil.rmtree(folder / tlog)
    for name in ("checkpoint", "records-checkpoint"):
        (folder / name).unlink()
    kept = [one for one in LOG.records if one[1].header.size <= last.first]
    assert list(records(folder)) == kept
    writer = AuditLog(folder, LOG.origin, 0, limits=SMALL)
    assert writer.cursor is not None
    assert writer.cursor.log_offset == kept[-1][0]
    writer.append(LOG.records[len(kept) :])
    writer.close()
    assert list(records(folder)) == LOG.records


def test_every_checkpoint_of_before_can_be_compared(folder: Path) -> None:
    writer = AuditLog(folder, LOG.origin, 0, limits=SMALL)
    for number in range(len(LOG.records)):
        writer.compare_checkpoints(signed_pair(LOG, number))
    writer.close()


def test_verify_is_true_and_counts_them(sealed: Path, tmp_path: Path) -> None:
    report = verify_folder(sealed, [LOG.signer.verifier])
    assert report.holds, report.all_faults
    assert report.logs[0].sealed == len(sealed_segments(sealed)) > 2
    assert report.as_json()["logs"][0]["sealed"] == report.logs[0].sealed  # type: ignore[index]


def test_what_was_remembered_of_plain_segments_holds_once_they_are_sealed(plain: Path, sealed: Path) -> None:
    keys = [LOG.signer.verifier]
    (first,) = verify_folder(plain, keys, memory=VerificationMemory()).logs
    assert first.verified is not None
    memory = VerificationMemory(logs={first.origin: first.verified})
    report = verify_folder(sealed, keys, memory=memory)
    assert report.holds, report.all_faults
    assert report.logs[0].resumed == first.verified.position > 0
    assert report.logs[0].sealed == len(sealed_segments(sealed))


# --- damage ---


def refused(folder: Path) -> DamagedAudit:
    """How the writer refuses, changing nothing; the verifier says false too."""
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(DamagedAudit) as caught:
        AuditLog(folder, LOG.origin, 0, limits=SMALL)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    (report,) = verify_folder(folder, [LOG.signer.verifier]).logs
    assert not report.holds
    return caught.value


@pytest.mark.parametrize("which", ["sealed_events", "sealed_records", "manifest"])
def test_a_changed_byte_anywhere_is_named(folder: Path, which: str) -> None:
    segment = sealed_segments(folder)[1]
    path = getattr(segment, which)
    good = path.read_bytes()
    for at in range(0, len(good), 1 + len(good) // 25):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        damage = refused(folder)
        # A manifest's change shows where it is broken, or in what it says of its files or to its neighbour.
        assert damage.file.parent == folder
        assert damage.file.name[:20] in {path.name[:20], sealed_segments(folder)[2].manifest.name[:20]}
        assert damage.position is not None
        path.write_bytes(good)
    AuditLog(folder, LOG.origin, 0, limits=SMALL).close()


def compressed_again(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(zstd.compress(change(zstd.decompress(path.read_bytes()))))


def test_a_changed_line_is_named_by_its_number(folder: Path) -> None:
    segment = sealed_segments(folder)[1]
    compressed_again(segment.sealed_events, lambda lines: lines.replace(b"requests", b"requestz", 1))
    damage = refused(folder)
    assert damage.position == segment.first
    assert damage.line is not None


def test_another_compression_of_the_same_lines_is_no_sealed_file(folder: Path) -> None:
    segment = sealed_segments(folder)[0]
    segment.sealed_events.write_bytes(zstd.compress(zstd.decompress(segment.sealed_events.read_bytes()), 19))
    assert "has SHA-256" in refused(folder).fault


@pytest.mark.parametrize("which", ["sealed_events", "sealed_records"])
def test_a_truncated_or_longer_file_is_named(folder: Path, which: str) -> None:
    path = getattr(sealed_segments(folder)[0], which)
    good = path.read_bytes()
    for bad in (good[:-1], good[: len(good) // 2], b"", good + b"\0", good + zstd.compress(b"more\n")):
        path.write_bytes(bad)
        assert refused(folder).file == path


@pytest.mark.parametrize("which", ["sealed_events", "sealed_records"])
def test_a_missing_file_of_a_sealed_segment_is_named(folder: Path, which: str) -> None:
    path = getattr(sealed_segments(folder)[1], which)
    path.unlink()
    damage = refused(folder)
    assert (damage.file, damage.fault) == (path, "is missing")


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_missing_manifest_is_named(folder: Path, number: int) -> None:
    segment = sealed_segments(folder)[number]
    segment.manifest.unlink()
    with pytest.raises(AuditFault) as caught:
        AuditLog(folder, LOG.origin, 0, limits=SMALL)
    assert caught.value.file.parent == folder
    (report,) = verify_folder(folder, [LOG.signer.verifier]).logs
    assert segment.manifest in [fault.file for fault in report.faults]


def test_a_missing_segment_is_named_even_with_its_manifest(folder: Path) -> None:
    segment = sealed_segments(folder)[1]
    for path in (segment.sealed_events, segment.sealed_records, segment.manifest):
        path.unlink()
    with pytest.raises(DamagedAudit):
        AuditLog(folder, LOG.origin, 0, limits=SMALL)
    (report,) = verify_folder(folder, [LOG.signer.verifier]).logs
    assert f"begins at {segment.first} was due" in str(report.faults[0])


def test_manifests_of_two_logs_are_not_one_chain(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", make_log(epoch="0e" * 16))
    segment = sealed_segments(folder)[1]
    for path in other.glob(f"{segment.first:020}*"):
        shutil.copy(path, folder / path.name)
    assert refused(folder).file.parent == folder


def test_a_manifest_that_states_another_end_is_named(folder: Path) -> None:
    """The newest manifest has no later one that names its digest: what it says must follow from the lines."""
    segment = sealed_segments(folder)[-1]
    manifest = read_manifest(segment)
    for end in (
        manifest.end.model_copy(update={"digest": "1" * 64}),
        manifest.end.model_copy(update={"clock_ms": manifest.end.clock_ms + 1}),
    ):
        segment.manifest.write_bytes(manifest.model_copy(update={"end": end}).content)
        with pytest.raises(DamagedAudit):
            AuditLog(folder, LOG.origin, 0, limits=SMALL)
        (report,) = verify_folder(folder, [LOG.signer.verifier]).logs
        assert report.faults[0].file == segment.manifest
        assert "follows from the lines" in report.faults[0].fault


# --- beside other work ---


def test_readers_see_all_records_while_segments_are_sealed(tmp_path: Path, plain: Path) -> None:
    mine = Path(shutil.copytree(plain, tmp_path / "log"))
    writer = AuditLog(mine, LOG.origin, 0, limits=SMALL)
    done = threading.Event()
    seen: list[bool] = []

    def read() -> None:
        while not done.is_set() or not seen:
            seen.append(list(records(mine)) == LOG.records)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        while writer.seal_next():
            pass
    finally:
        done.set()
        reader.join()
        writer.close()
    assert all(seen)
    assert len(read_manifests(mine)) > 2


async def test_the_sink_seals_beside_its_other_work(tmp_path: Path) -> None:
    sink = AuditSink(tmp_path, limits=SMALL)
    await sink.write(0, LOG.genesis, LOG.records)
    stop = asyncio.Event()
    sealing = asyncio.create_task(sink.seal_until(stop))
    (log,) = sink.logs().values()
    async with asyncio.timeout(60):
        while len(sealed_segments(log.folder)) < len(segments_of(log.folder)) - 1:  # noqa: ASYNC110 - the disk tells
            await asyncio.sleep(0.01)
    stop.set()
    await sealing
    await sink.close()
    assert list(records(log.folder)) == LOG.records


def test_a_closed_writer_seals_nothing(tmp_path: Path) -> None:
    writer = AuditLog(tmp_path / "log", LOG.origin, 0, limits=SMALL)
    writer.append(LOG.records)
    writer.close()
    assert not writer.seal_next()
    assert not sealed_segments(tmp_path / "log")
