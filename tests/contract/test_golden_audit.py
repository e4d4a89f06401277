"""The audit folders that earlier versions wrote: every version reads them, verifies them, and goes on writing them."""

import shutil
from pathlib import Path

import pytest

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.key_files import read_verifiers
from meterproof_proofs.published_files import place_of
from meterproof_proofs.tile_proofs import TileTree
from meterproof_proofs.tree import verify_consistency
from meterproof_sinks.audit_folder import records
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.verification import verify_folder
from meterproof_sinks.verification_inputs import load_producers
from tests.contract.golden_audit import FOLDERS, LIMITS, SEED, VERSIONS
from tests.log_builder import LogBuilder, signed_pair

TREES = {"checkpoint": "tlog", "records-checkpoint": "records-tlog"}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def golden(version: str, tmp_path: Path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(FOLDERS / version, tmp_path / "data"))


def log_of(data: Path) -> Path:
    (log,) = (data / "audit").iterdir()
    return log


def tree_of(tlog: Path) -> tuple[Checkpoint, TileTree]:
    def read(path: str) -> bytes | None:
        file = tlog / path
        return file.read_bytes() if file.is_file() else None

    checkpoint = open_checkpoint(
        (tlog / "checkpoint").read_bytes(), read_verifiers(FOLDERS / "v1" / "keys" / "log.vkey")
    )
    return checkpoint, TileTree(checkpoint.size, checkpoint.root, read)


def test_it_verifies(version: str, golden: Path) -> None:
    report = verify_folder(
        golden, read_verifiers(golden / "keys" / "log.vkey"), load_producers(golden / "keys" / "registry.json")
    )
    assert report.holds, report.all_faults
    (log,) = report.logs
    assert (log.records, log.events, log.covered, log.records_covered) == (7, 297, 257, 6)
    assert (log.tlog_size, log.records_tlog_size) == (257, 6)
    assert log.signatures_verified == log.batches == 4
    assert (log.sealed, log.erased) == {"v1": (0, 0), "v2": (2, 1)}[version]


def test_it_is_extended_and_nothing_of_it_changes(version: str, golden: Path) -> None:
    mine = log_of(golden)
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    trees = {name: tree_of(mine / folder)[0] for name, folder in TREES.items()}
    log = LogBuilder.resumed(list(records(log_of(FOLDERS / "v1"))))  # the same log, of which nothing was erased
    known = len(log.records)
    for size in (250, 10):
        log.batch(size)
    writer = AuditLog(mine, log.origin, 0, limits=LIMITS[version])
    writer.append(log.records[known:])
    writer.take_checkpoints(signed_pair(log, seed=SEED))
    writer.close()
    report = verify_folder(golden, read_verifiers(golden / "keys" / "log.vkey"))
    assert report.holds, report.all_faults
    assert report.logs[0].covered == report.logs[0].events == 557
    for path, content in before.items():
        place = place_of(path.relative_to(mine / path.relative_to(mine).parts[0]).as_posix())
        if path.suffix == ".jsonl":
            assert path.read_bytes().startswith(content)
        elif (path.parent == mine and path.name[:20].isdigit()) or (place is not None and path.exists()):
            assert path.read_bytes() == content
        else:
            assert path.name in {*TREES, "log.json", "lock"} or (place is not None and not place.is_full)
    for name, folder in TREES.items():
        old = trees[name]
        new, tree = tree_of(mine / folder)
        proof = tree.consistency_proof(old.size)
        verify_consistency(old_size=old.size, old_root=old.root, new_size=new.size, new_root=new.root, proof=proof)
