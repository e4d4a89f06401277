"""What the writer of an audit folder promises: whole, in order, durable, repairable at the tail and nowhere else."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterproof_proofs.checkpoint import Checkpoint, sign_checkpoint
from meterproof_proofs.note import Signer
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.log_record import LogRecord
from meterproof_sinks.audit_errors import AuditDiskError, AuditError, DamagedAudit, LockedAudit
from meterproof_sinks.audit_folder import log_folder_name, records, segments_of, torn_files
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.audit_segment import TornAudit
from meterproof_sinks.audit_sink import AuditSink
from meterproof_sinks.audit_tree import Signed, SignedPair
from meterproof_sinks.disk import Disk
from meterproof_sinks.segment_writer import SegmentLimits
from tests.log_builder import LogBuilder, make_log, signed_pair

SMALL = SegmentLimits(bytes_max=3_000, age_ms=3_500)
LOG = make_log()


class QuickDisk(Disk):
    """Real files without waiting for the device: for tests that cut files themselves."""

    def sync(self, descriptor: int) -> None:
        """Leave it to the operating system."""


def write(folder: Path, log: LogBuilder, cuts: list[int] | None = None, limits: SegmentLimits = SMALL) -> None:
    """Write the log's records that are not yet there, in the pieces that `cuts` makes."""
    writer = AuditLog(folder, log.origin, log.partition, limits=limits, disk=QuickDisk())
    try:
        rest = remaining(writer, log)
        for begin, end in zip([0, *(cuts or [])], [*(cuts or []), len(rest)], strict=True):
            writer.append(rest[begin:end])
    finally:
        writer.close()


def remaining(writer: AuditLog, log: LogBuilder) -> list[tuple[int, LogRecord]]:
    """The log's records behind the writer's cursor, after checking that the cursor names one of them."""
    cursor = writer.cursor
    if cursor is None:
        return log.records
    at = next(n for n, (offset, _) in enumerate(log.records) if offset == cursor.log_offset)
    record = log.records[at][1]
    assert (cursor.digest, cursor.position, cursor.epoch) == (record.digest, record.header.size, log.genesis.epoch)
    return log.records[at + 1 :]


def content(folder: Path) -> dict[str, bytes]:
    """What counts in a log's folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name.endswith(".jsonl")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "log"
    write(folder, LOG)
    assert len(segments_of(folder)) > 2
    return folder


@pytest.fixture
def folder(tmp_path: Path, whole: Path) -> Path:
    """A folder of its own, full."""
    return Path(shutil.copytree(whole, tmp_path / "log"))


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_into_writes_gives_the_same_files(
    data: st.DataObject, whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(LOG.records)), max_size=6)))
    stop = data.draw(st.integers(0, len(LOG.records)))
    mine = tmp_path_factory.mktemp("cut") / "log"
    early = AuditLog(mine, LOG.origin, 0, limits=SMALL)
    early.append(LOG.records[:stop])
    early.close()
    write(mine, LOG, [cut for cut in cuts if cut <= len(LOG.records) - stop])
    assert content(mine) == content(whole)
    assert list(records(mine)) == LOG.records


@pytest.mark.parametrize("which", ["events", "records"])
@pytest.mark.parametrize("limits", [SMALL, SegmentLimits()], ids=["many segments", "one segment"])
def test_a_tail_cut_at_any_byte_is_set_aside_and_written_again(
    tmp_path: Path, which: str, limits: SegmentLimits
) -> None:
    full = tmp_path / "full"
    write(full, LOG, limits=limits)
    due = content(full)
    segment = segments_of(full)[-1]
    size = getattr(segment, which).stat().st_size
    for length in range(max(0, size - 1_200), size):
        mine = Path(shutil.copytree(full, tmp_path / "mine"))
        path = getattr(segments_of(mine)[-1], which)
        os.truncate(path, length)
        before = content(mine)
        writer = AuditLog(mine, LOG.origin, 0, limits=limits, disk=QuickDisk())
        kept = content(mine)
        assert all(before[name].startswith(content_) for name, content_ in kept.items())
        aside = {path.name.rsplit(".", 2)[0]: path.read_bytes() for path in torn_files(mine)}
        assert {name: kept[name] + aside.get(name, b"") for name in kept} == before
        writer.append(remaining(writer, LOG))
        writer.close()
        assert content(mine) == due
        shutil.rmtree(mine)


def test_a_last_record_with_wrong_bytes_is_set_aside_too(folder: Path) -> None:
    due = content(folder)
    path = segments_of(folder)[-1].records
    path.write_bytes(path.read_bytes()[:-200] + bytes(200))
    write(folder, LOG)
    assert content(folder) == due
    assert torn_files(folder)


def test_damage_before_the_tail_refuses_to_start_and_says_where(folder: Path) -> None:
    refused = 0
    for segment in segments_of(folder)[:-1]:
        for path in (segment.events, segment.records):
            good = path.read_bytes()
            for at in range(0, len(good), 97):
                path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
                with pytest.raises(DamagedAudit) as caught:
                    AuditLog(folder, LOG.origin, 0, limits=SMALL)
                assert caught.value.file.parent == folder
                assert caught.value.line is not None
                assert segment.first <= (caught.value.position or 0)
                refused += 1
            path.write_bytes(good)
    assert refused > 50
    AuditLog(folder, LOG.origin, 0, limits=SMALL).close()


@pytest.mark.parametrize("which", ["events", "records"])
def test_a_missing_file_refuses_to_start(folder: Path, which: str) -> None:
    getattr(segments_of(folder)[1], which).unlink()
    with pytest.raises(DamagedAudit, match="missing"):
        AuditLog(folder, LOG.origin, 0)


def test_a_missing_segment_refuses_to_start(folder: Path) -> None:
    segment = segments_of(folder)[1]
    segment.events.unlink()
    segment.records.unlink()
    with pytest.raises(DamagedAudit, match=f"begins at {segment.first} was due"):
        AuditLog(folder, LOG.origin, 0)


def test_a_crash_between_making_two_files_is_no_damage(folder: Path) -> None:
    due = content(folder)
    last = segments_of(folder)[-1]
    last.records.unlink()
    os.truncate(last.events, 0)
    write(folder, LOG)
    assert content(folder) == due


def test_a_record_that_does_not_continue_the_disk_is_refused_before_anything_is_written(folder: Path) -> None:
    before = content(folder)
    writer = AuditLog(folder, LOG.origin, 0, limits=SMALL)
    for wrong in (LOG.records[-1:], LOG.records[:1], make_log(epoch="0e" * 16).records[:1]):
        with pytest.raises(StageStopped, match="log_diverged"):
            writer.append(wrong)
    writer.close()
    assert content(folder) == before


def test_there_is_one_writer(folder: Path) -> None:
    first = AuditLog(folder, LOG.origin, 0)
    with pytest.raises(LockedAudit, match="another process"):
        AuditLog(folder, LOG.origin, 0)
    first.close()
    AuditLog(folder, LOG.origin, 0).close()


class FailingDisk(Disk):
    """A disk whose `fail_at`-th write or sync fails, and every one after it."""

    def __init__(self, fail_at: int, failure: int) -> None:
        self.left = fail_at
        self.failure = failure
        self.armed = False

    def _count(self) -> None:
        if self.armed:
            self.left -= 1
            if self.left < 0:
                raise OSError(self.failure, os.strerror(self.failure))

    def append(self, descriptor: int, content: bytes) -> None:
        if self.armed and self.left == 0:
            super().append(descriptor, content[: len(content) // 2])
        self._count()
        super().append(descriptor, content)

    def sync(self, descriptor: int) -> None:
        self._count()
        super().sync(descriptor)


@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC])
def test_whatever_the_disk_refuses_nothing_is_claimed_and_nothing_is_lost(
    tmp_path: Path, whole: Path, failure: int
) -> None:
    failed = 0
    for fail_at in range(60):
        mine = tmp_path / str(fail_at)
        disk = FailingDisk(fail_at, failure)
        writer = AuditLog(mine, LOG.origin, 0, limits=SMALL, disk=disk)
        writer.append(LOG.records[:2])
        claimed = writer.cursor
        assert claimed is not None
        disk.armed = True
        refusal: AuditDiskError | None = None
        try:
            writer.append(LOG.records[2:])
        except AuditDiskError as error:
            refusal = error
        if refusal is not None:
            assert os.strerror(failure) in str(refusal)
            failed += 1
            disk.armed = False
            with pytest.raises(AuditDiskError, match="start the sink again"):
                writer.append(LOG.records[2:])
            cursor = writer.cursor
            assert cursor is not None
            assert claimed.log_offset <= cursor.log_offset < LOG.records[-1][0]
        writer.close()
        write(mine, LOG)
        assert content(mine) == content(whole)
    assert 10 < failed < 60


class WatchedDisk(Disk):
    """A disk that tells which files were synced."""

    def __init__(self) -> None:
        self.synced: list[str] = []

    def sync(self, descriptor: int) -> None:
        self.synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        super().sync(descriptor)


def test_what_a_killed_writer_left_is_synced_before_it_counts(folder: Path) -> None:
    disk = WatchedDisk()
    last = segments_of(folder)[-1]
    AuditLog(folder, LOG.origin, 0, limits=SMALL, disk=disk).close()
    assert disk.synced == [last.events.name, last.records.name, "log"]
    failing = FailingDisk(0, errno.EIO)
    failing.armed = True
    with pytest.raises(AuditDiskError):
        AuditLog(folder, LOG.origin, 0, limits=SMALL, disk=failing)
    AuditLog(folder, LOG.origin, 0, limits=SMALL).close()


def test_every_write_is_synced_before_it_is_claimed(tmp_path: Path) -> None:
    disk = WatchedDisk()
    writer = AuditLog(tmp_path / "log", LOG.origin, 0, disk=disk)
    disk.synced.clear()
    writer.append(LOG.records[:2])
    assert disk.synced == ["log", f"{0:020}.jsonl", f"{0:020}.records.jsonl"]
    writer.close()


CHILD = """
import sys
from pathlib import Path
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.segment_writer import SegmentLimits
from tests.log_builder import LogBuilder
log = LogBuilder()
for _ in range(400):
    log.batch(20)
writer = AuditLog(Path(sys.argv[1]), log.origin, 0, limits=SegmentLimits(bytes_max=60_000))
print("ready", flush=True)
for one in log.records:
    writer.append([one])
    print(writer.cursor.position, flush=True)
"""


def test_kill_9_in_the_middle_of_writing_loses_nothing_that_was_claimed(tmp_path: Path) -> None:
    log = LogBuilder()
    for _ in range(400):
        log.batch(20)
    mine = tmp_path / "log"
    for claims in (1, 40, 150):
        shutil.rmtree(mine, ignore_errors=True)
        command = [sys.executable, "-c", CHILD, str(mine)]
        claimed = -1
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path.cwd()) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            for _ in range(claims):
                claimed = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
        writer = AuditLog(mine, log.origin, 0)
        assert writer.cursor is not None
        assert writer.cursor.position >= claimed
        writer.append(remaining(writer, log))
        writer.close()
        assert list(records(mine)) == log.records


FULL = """
import resource, sys
from pathlib import Path
from meterproof_sinks.audit_errors import AuditDiskError
from meterproof_sinks.audit_log import AuditLog
from tests.log_builder import LogBuilder
log = LogBuilder()
for _ in range(100):
    log.batch(20)
writer = AuditLog(Path(sys.argv[1]), log.origin, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for one in log.records:
        writer.append([one])
        print(writer.cursor.position, flush=True)
except AuditDiskError as error:
    sys.exit(f"refused: {error}")
"""


def test_a_file_system_that_takes_no_more_bytes_stops_the_writer(tmp_path: Path) -> None:
    """The kernel's own refusal in the middle of a write: what was claimed is there, and the next writer goes on."""
    log = LogBuilder()
    for _ in range(100):
        log.batch(20)
    mine = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", FULL, str(mine)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"refused: {mine}: {os.strerror(errno.EFBIG)}; the audit sink stops" in done.stderr
    claimed = int(done.stdout.splitlines()[-1])
    assert 0 < claimed < log.state.position
    writer = AuditLog(mine, log.origin, 0)
    assert writer.cursor is not None
    assert writer.cursor.position == claimed
    assert not list(torn_files(mine))
    writer.append(remaining(writer, log))
    writer.close()
    assert list(records(mine)) == log.records


# --- checkpoints ---


def test_the_largest_checkpoint_stays(folder: Path) -> None:
    writer = AuditLog(folder, LOG.origin, 0)
    last, first = signed_pair(LOG, -1), signed_pair(LOG, 1)
    for one in (first, last, first):
        writer.take_checkpoints(one)
    writer.close()
    assert last.records is not None
    assert (folder / "checkpoint").read_bytes() == last.events.note
    assert (folder / "records-checkpoint").read_bytes() == last.records.note
    again = AuditLog(folder, LOG.origin, 0)
    assert (again.checkpoint, again.records_checkpoint) == (last.events.checkpoint, last.records.checkpoint)


def test_roots_are_known_after_a_restart_and_beyond_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterproof_sinks.audit_tree._BOUNDARIES_MAX", 1)
    writer = AuditLog(folder, LOG.origin, 0)
    for number in range(len(LOG.records)):
        pair = signed_pair(LOG, number)
        writer.take_checkpoints(pair)
        assert (writer.checkpoint, writer.records_checkpoint) == (
            pair.events.checkpoint,
            pair.records and pair.records.checkpoint,
        )
    writer.close()


def test_a_checkpoint_that_contradicts_the_disk_stops(folder: Path) -> None:
    writer = AuditLog(folder, LOG.origin, 0)
    good = signed_pair(LOG).events.checkpoint
    for bad in (Checkpoint(LOG.origin, good.size, b"\1" * 32), Checkpoint(LOG.origin, 1, good.root)):
        with pytest.raises(StageStopped, match="log_diverged"):
            writer.take_checkpoints(SignedPair(Signed(bad, sign_checkpoint(bad, [LOG.signer]))))
    writer.close()
    assert not (folder / "checkpoint").exists()


def test_less_on_disk_than_was_signed_for_refuses_to_start_and_sets_nothing_aside(folder: Path) -> None:
    writer = AuditLog(folder, LOG.origin, 0)
    writer.take_checkpoints(signed_pair(LOG))
    writer.close()
    last = segments_of(folder)[-1]
    os.truncate(last.events, last.events.stat().st_size - 1)
    before = content(folder)
    with pytest.raises(DamagedAudit, match="signed for, now"):
        AuditLog(folder, LOG.origin, 0)
    assert content(folder) == before
    with pytest.raises(TornAudit):
        list(records(folder))


# --- the sink of a worker ---


async def test_each_partition_has_its_folder_and_its_cursor(tmp_path: Path) -> None:
    logs = [make_log(partition=number, partitions=2) for number in range(2)]
    sink = AuditSink(tmp_path)
    assert await sink.cursor(0) is None
    for log in logs:
        await sink.write(log.partition, log.genesis, log.records)
    await sink.close()
    again = AuditSink(tmp_path)
    for log in logs:
        assert list(records(tmp_path / log_folder_name(log.origin))) == log.records
        cursor = await again.cursor(log.partition)
        assert cursor is not None
        assert (cursor.log_offset, cursor.digest) == (log.records[-1][0], log.state.digest)
    await again.close()


async def test_checkpoints_wait_until_their_entries_are_on_disk(tmp_path: Path) -> None:
    sink = AuditSink(tmp_path, verifiers=[LOG.signer.verifier])
    folder = tmp_path / log_folder_name(LOG.origin)
    early, late = signed_pair(LOG, 2), signed_pair(LOG)
    for pair in (late, early):
        assert pair.records is not None
        sink.offer_checkpoints(pair.events.note, pair.records.note)
    sink.offer_checkpoints(sign_checkpoint(Checkpoint(LOG.origin, 3, b"\1" * 32), [Signer("x", bytes(32))]))
    for begin, end, due in ((0, 2, None), (2, 5, early), (5, None, late)):
        await sink.write(0, LOG.genesis, LOG.records[begin:end])
        await sink.publish()
        if due is None or due.records is None:
            assert not (folder / "checkpoint").exists()
            assert not (folder / "records-checkpoint").exists()
        else:
            assert (folder / "checkpoint").read_bytes() == due.events.note
            assert (folder / "records-checkpoint").read_bytes() == due.records.note
    await sink.close()


async def test_two_signed_roots_of_one_size_stop_even_before_the_disk_has_them(tmp_path: Path) -> None:
    sink = AuditSink(tmp_path, verifiers=[LOG.signer.verifier])
    sink.offer_checkpoints(signed_pair(LOG).events.note)
    size = LOG.state.position
    with pytest.raises(StageStopped, match="two histories"):
        sink.offer_checkpoints(sign_checkpoint(Checkpoint(LOG.origin, size, b"\1" * 32), [LOG.signer]))


async def test_a_damaged_folder_stops_the_worker_for_a_person(tmp_path: Path) -> None:
    mine = tmp_path / log_folder_name(LOG.origin)
    write(mine, LOG)
    path = segments_of(mine)[0].events
    path.write_bytes(path.read_bytes()[1:])
    with pytest.raises(StageStopped, match="line"):
        await AuditSink(tmp_path).cursor(0)
    with pytest.raises(StageStopped, match="log_diverged"):
        await AuditSink(tmp_path).write(0, LOG.genesis, LOG.records[-1:])


async def test_two_logs_of_one_partition_are_not_mixed(tmp_path: Path) -> None:
    sink = AuditSink(tmp_path)
    old = make_log(epoch="0e" * 16)
    await sink.write(0, old.genesis, old.records)
    with pytest.raises(StageStopped, match="Move that folder"):
        await sink.write(0, LOG.genesis, LOG.records)
    await sink.close()
    write(tmp_path / log_folder_name(LOG.origin), LOG)
    with pytest.raises(AuditError, match="two logs of partition 0"):
        await AuditSink(tmp_path).cursor(0)
