"""Each file operation of the audit log's writer fails once, or is the process's last: nothing is lost by it.

The writer opens a folder, appends, publishes, begins segments and seals those that have ended.
"""

import re
import shutil
from pathlib import Path

import pytest

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.tile_proofs import TileTree
from meterproof_proofs.tree import verify_consistency
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.disk import Disk
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.verification import verify_folder
from tests.log_builder import LogBuilder, signed_pair
from tests.unit.sinks.faulty_disk import FaultyDisk, fail, struck_folders

LIMITS = SegmentLimits(bytes_max=150_000)
TREES = ("tlog", "records-tlog")


def long_log() -> LogBuilder:
    """A log whose last records complete a full tile and a bundle in both trees."""
    log = LogBuilder()
    log.batch(250)
    for _ in range(249):
        log.hole()
    for size in (4, 1, 0, 3, 30, 2, 1):
        log.batch(size) if size else log.source(b"not a batch\n")
    return log


LOG = long_log()
BASE = 251
"""Records that are there, and published, before anything fails."""
LAST = len(LOG.records)


def run(folder: Path, disk: Disk) -> None:
    """Open the folder; append, publish and seal, twice, from wherever it is."""
    writer = AuditLog(folder, LOG.origin, 0, limits=LIMITS, disk=disk)
    try:
        for end in (BASE + 4, LAST):
            cursor = writer.cursor
            done = -1 if cursor is None else cursor.log_offset
            writer.append([one for one in LOG.records[:end] if one[0] > done])
            writer.take_checkpoints(PAIRS[end])
            while writer.seal_next():
                pass
    finally:
        writer.close()


PAIRS = {end: signed_pair(LOG, end - 1) for end in (BASE - 2, BASE + 4, LAST)}


def published(folder: Path) -> dict[str, Checkpoint]:
    """By tree, the published checkpoint, everything that it implies being there and right."""
    found: dict[str, Checkpoint] = {}
    for tree in TREES:
        file = folder / tree / "checkpoint"
        if file.exists():
            checkpoint = open_checkpoint(file.read_bytes(), [LOG.signer.verifier])
            tiles = tiles_of(folder / tree, checkpoint)
            for bundle in range(-(-checkpoint.size // 256)):
                assert tiles.entries(bundle)
            found[tree] = checkpoint
    return found


def tiles_of(tlog: Path, checkpoint: Checkpoint) -> TileTree:
    def read(path: str) -> bytes | None:
        file = tlog / path
        return file.read_bytes() if file.is_file() else None

    return TileTree(checkpoint.size, checkpoint.root, read)


def files_of(folder: Path) -> dict[str, bytes]:
    """All that a log's folder holds, but for what a stop in the middle may leave or leave out.

    These are torn tails and old partial tiles; and the checkpoints that are kept beside a segment when it ends.
    """
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not re.search(r"\.torn$|\.p/|/[0-9]{20}\.(records-)?checkpoint$", path.as_posix())
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one publication behind it."""
    folder = tmp_path_factory.mktemp("base") / "log"
    writer = AuditLog(folder, LOG.origin, 0, limits=LIMITS, disk=FaultyDisk(-1, fail))
    writer.append(LOG.records[: BASE - 2])
    writer.take_checkpoints(PAIRS[BASE - 2])
    writer.close()
    return folder


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the folder is when nothing fails."""
    folder = Path(shutil.copytree(base, tmp_path_factory.mktemp("whole") / "log"))
    run(folder, FaultyDisk(-1, fail))
    report = verify_folder(folder, [LOG.signer.verifier])
    assert report.holds, report.all_faults
    return folder


def check(folder: Path, before: dict[str, Checkpoint], whole: Path) -> None:
    """What was published holds and extends all before; the next start completes the folder to the same bytes."""
    seen = [before, published(folder)]
    for tree in TREES:
        assert seen[1][tree].size >= before[tree].size
    run(folder, FaultyDisk(-1, fail))
    assert files_of(folder) == files_of(whole)
    last = published(folder)
    for one in seen:
        for tree, checkpoint in one.items():
            proof = tiles_of(folder / tree, last[tree]).consistency_proof(checkpoint.size)
            verify_consistency(
                old_size=checkpoint.size,
                old_root=checkpoint.root,
                new_size=last[tree].size,
                new_root=last[tree].root,
                proof=proof,
            )


@pytest.mark.parametrize("kill", [False, True], ids=["error", "kill"])
def test_after_a_fault_of_any_operation_the_next_start_goes_on(
    base: Path, whole: Path, tmp_path: Path, kill: bool
) -> None:
    before = published(base)
    at = 0
    for folder in struck_folders(base, tmp_path / "log", run, kill=kill):
        check(folder, before, whole)
        at += 1
    assert at > 50
