"""Lines are erased from plain and sealed segments alike: manifests stay, proofs hold, and a crash costs nothing."""

import shutil
from pathlib import Path

import pytest

from meterproof_schemas.event import entry_of
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_folder import log_folder_name, records, segments_of, unexpected_files
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.disk import Disk
from meterproof_sinks.segment_manifest import read_manifests
from meterproof_sinks.segment_sealing import erasures_of
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.verification import verify_folder
from tests import zstd
from tests.audit_upkeep import erase_lines
from tests.log_builder import LogBuilder, signed_pair
from tests.unit.sinks.faulty_disk import FaultyDisk, fail, struck_folders

SMALL = SegmentLimits(bytes_max=3_000)
GONE = {b'"id":"e%d"' % number for number in (1, 2, 7, 11, 21, 22)}


def matches(line: bytes) -> bool:
    return any(name in line for name in GONE)


def make() -> LogBuilder:
    log = LogBuilder()
    for size in (3, 4, 2, 5, 1, 4, 3, 2):
        log.batch(size)
    return log


LOG = make()
LINES = [line for _, record in LOG.records for line in record.lines]
DUE = [position for position, line in enumerate(LINES) if matches(line)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit folder with sealed segments and an open one, lines of which match in both."""
    audit = tmp_path_factory.mktemp("audit")
    writer = AuditLog(audit / log_folder_name(LOG.origin), LOG.origin, 0, limits=SMALL)
    writer.append(LOG.records)
    writer.take_checkpoints(signed_pair(LOG))
    while writer.seal_next():
        pass
    writer.close()
    assert len(read_manifests(folder_of(audit))) > 1
    assert DUE[-1] >= segments_of(folder_of(audit))[-1].first > DUE[0]
    return audit


@pytest.fixture
def audit(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "audit"))


def folder_of(audit: Path) -> Path:
    return audit / log_folder_name(LOG.origin)


def kept_lines(audit: Path) -> list[bytes]:
    return [line for _, record in records(folder_of(audit)) for line in record.lines]


def check_erased(audit: Path) -> None:
    folder = folder_of(audit)
    wanted = [
        b'{"erased":"%s"}' % entry_of(line).hex().encode() if position in DUE else line
        for position, line in enumerate(LINES)
    ]
    assert kept_lines(audit) == wanted
    report = verify_folder(audit, [LOG.signer.verifier])
    assert report.holds, report.all_faults
    assert (report.logs[0].erased, report.logs[0].sealed) == (len(DUE), len(read_manifests(folder)))
    assert unexpected_files(folder) == []
    for path in folder.glob("*.zst"):
        assert not any(name in zstd.decompress(path.read_bytes()) for name in GONE)


def test_lines_of_sealed_and_open_segments_are_erased_and_manifests_stay(audit: Path) -> None:
    folder = folder_of(audit)
    manifests = {path: path.read_bytes() for path in folder.glob("*.manifest.json")}
    assert erase_lines(audit, matches) == {LOG.origin: DUE}
    assert {path: path.read_bytes() for path in manifests} == manifests
    check_erased(audit)
    assert erase_lines(audit, matches) == {LOG.origin: []}
    # The writer goes on, and seals what was erased from before it was sealed
    log = make()
    for _ in range(8):
        log.batch(3)
    writer = AuditLog(folder, LOG.origin, 0, limits=SMALL)
    assert writer.cursor is not None
    writer.append([one for one in log.records if one[0] > writer.cursor.log_offset])
    writer.take_checkpoints(signed_pair(log))
    while writer.seal_next():
        pass
    writer.close()
    report = verify_folder(audit, [LOG.signer.verifier])
    assert report.holds, report.all_faults
    assert report.logs[0].sealed > len(manifests)


def test_a_second_erasure_is_stated_beside_the_first(audit: Path) -> None:
    first = segments_of(folder_of(audit))[0]
    for name in (b'"id":"e0"', b'"id":"e1"'):
        erase_lines(audit, lambda line, name=name: name in line)  # type: ignore[misc]
    assert len(erasures_of(first)) == 2
    assert verify_folder(audit, [LOG.signer.verifier]).logs[0].erased == 2


def test_what_was_erased_and_not_noted_is_damage(audit: Path) -> None:
    erase_lines(audit, matches)
    segment = segments_of(folder_of(audit))[0]
    stated = segment.erasures.read_bytes()
    for bad in (None, b"", stated[:-1], stated.replace(b":", b": ", 1), b"{}\n"):
        segment.erasures.unlink()
        if bad is not None:
            segment.erasures.write_bytes(bad)
        else:
            segment.erasures.touch()
        with pytest.raises(DamagedAudit) as caught:
            AuditLog(folder_of(audit), LOG.origin, 0)
        assert caught.value.file in {segment.erasures, segment.sealed_events}
        assert not verify_folder(audit, [LOG.signer.verifier]).holds


@pytest.mark.parametrize("kill", [False, True], ids=["error", "kill"])
def test_after_a_fault_of_any_operation_all_holds_and_it_can_be_run_again(
    base: Path, tmp_path: Path, kill: bool
) -> None:
    def act(audit: Path, disk: Disk) -> None:
        erase_lines(audit, matches, disk)

    at = 0
    for audit in struck_folders(base, tmp_path / "audit", act, kill=kill):
        AuditLog(folder_of(audit), LOG.origin, 0, limits=SMALL, disk=FaultyDisk(-1, fail)).close()
        report = verify_folder(audit, [LOG.signer.verifier])
        assert report.holds, report.all_faults
        erase_lines(audit, matches, FaultyDisk(-1, fail))
        check_erased(audit)
        at += 1
    assert at > 15
