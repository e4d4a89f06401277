"""The published files: exactly those of the signed size, derived again by whoever starts next, never overwritten."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from meterproof_proofs.note import Signer
from meterproof_proofs.published_files import place_of
from meterproof_proofs.tile_proofs import TileTree
from meterproof_proofs.tiles import Bundle, bundles_of, tiles_of
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.event import entry_of
from meterproof_sinks.audit_errors import AuditDiskError
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.disk import Disk
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.verification import verify_folder
from tests.log_builder import LogBuilder, signed_pair

SIGNER = Signer("meter.example.com/test", b"\x07" * 32)
LIMITS = SegmentLimits(bytes_max=60_000)
TREES = {"tlog", "records-tlog"}


def long_log() -> LogBuilder:
    """A log over several bundles and two levels of tiles, in records of very different sizes."""
    log = LogBuilder()
    for size in (1, 100, 155, 1, 200, 55, 3, 250, 40):
        log.batch(size)
    log.hole()
    return log


LOG = long_log()
SIZES = [record.header.size for _, record in LOG.records]
ENTRIES = [entry_of(line) for _, record in LOG.records for line in record.lines]
SIZE = SIZES[-1]


class QuickDisk(Disk):
    """Real files without waiting for the device."""

    def sync(self, descriptor: int) -> None:
        """Leave it to the operating system."""


def checkpoint_at(number: int) -> tuple[Checkpoint, bytes]:
    """The signed checkpoint at the end of a record."""
    header = LOG.records[number][1].header
    checkpoint = Checkpoint(LOG.origin, header.size, bytes.fromhex(header.root))
    return checkpoint, sign_checkpoint(checkpoint, [SIGNER])


def open_log(folder: Path, disk: Disk | None = None) -> AuditLog:
    return AuditLog(folder, LOG.origin, 0, limits=LIMITS, disk=disk or QuickDisk())


def grow(writer: AuditLog, to: int, *, sign: bool = True) -> None:
    """Write the records up to the one with this number that are not there yet, and take the checkpoint at its end."""
    cursor = writer.cursor
    done = -1 if cursor is None else cursor.log_offset
    writer.append([one for one in LOG.records[: to + 1] if one[0] > done])
    if sign:
        writer.take_checkpoints(signed_pair(LOG, to, SIGNER))


def published(folder: Path) -> dict[str, bytes]:
    tlog = folder / "tlog"
    return {path.relative_to(tlog).as_posix(): path.read_bytes() for path in sorted(tlog.rglob("*")) if path.is_file()}


def due_paths(size: int) -> set[str]:
    return {"checkpoint", *(bundle.path for bundle in bundles_of(size)), *(tile.path for tile in tiles_of(size))}


def read_as_an_outsider_does(folder: Path) -> Checkpoint:
    """Verify everything that `tlog/checkpoint` implies with nothing but the files and the key."""
    files = published(folder)
    checkpoint = open_checkpoint(files["checkpoint"], [SIGNER.verifier], origin=LOG.origin)
    tree = TileTree(checkpoint.size, checkpoint.root, files.get)
    found = [entry for bundle in bundles_of(checkpoint.size) for entry in tree.entries(bundle.index)]
    assert found == ENTRIES[: checkpoint.size]
    assert all(tile.path in files or tile.full.path in files for tile in tiles_of(checkpoint.size))
    return checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log's folder, written in one go."""
    folder = tmp_path_factory.mktemp("whole") / "log"
    writer = open_log(folder)
    grow(writer, len(LOG.records) - 1)
    writer.close()
    return folder


@pytest.fixture
def folder(tmp_path: Path, whole: Path) -> Path:
    """A folder of its own, full."""
    return Path(shutil.copytree(whole, tmp_path / "log"))


def test_the_files_are_exactly_those_of_the_signed_size(folder: Path) -> None:
    assert SIZE == 805
    assert set(published(folder)) == due_paths(SIZE)
    assert published(folder)["checkpoint"] == (folder / "checkpoint").read_bytes()
    assert read_as_an_outsider_does(folder).size == SIZE


def test_nothing_is_published_before_a_checkpoint_and_nothing_beyond_one(tmp_path: Path) -> None:
    writer = open_log(tmp_path / "log")
    grow(writer, 5, sign=False)
    assert not (tmp_path / "log" / "tlog").exists()
    writer.take_checkpoints(signed_pair(LOG, 2, SIGNER))
    assert set(published(tmp_path / "log")) == due_paths(SIZES[2])
    writer.close()


@given(data=st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_checkpoints_and_restarts_on_the_way_give_the_same_files(
    data: st.DataObject, whole: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterproof_sinks.audit_tree._RECENT_MAX", data.draw(st.sampled_from([10, 300, 10_000])))
    monkeypatch.setattr("meterproof_sinks.tlog_folder._CHUNK_ENTRIES", data.draw(st.sampled_from([7, 256, 65_536])))
    mine = tmp_path_factory.mktemp("mine") / "log"
    last = len(LOG.records) - 1
    signed: set[int] = set()
    writer = open_log(mine)
    for number in sorted({*data.draw(st.lists(st.integers(0, last), max_size=6)), last}):
        sign = number == last or data.draw(st.booleans())
        grow(writer, number, sign=sign)
        if sign:
            signed.add(SIZES[number])
            assert read_as_an_outsider_does(mine).size == SIZES[number]
        if data.draw(st.booleans()):
            writer.close()
            writer = open_log(mine)
    writer.close()
    found, due = published(mine), published(whole)
    assert {path: found[path] for path in due} == due
    # What is more are partial files of earlier checkpoints whose full ones are not there yet.
    for path in set(found) - set(due):
        place = place_of(path)
        assert place is not None
        assert not place.is_full
        assert place.full.path not in found
        assert any(path in due_paths(size) for size in signed)
    assert verify_folder(mine, [SIGNER.verifier]).holds


def test_partial_files_stay_until_the_full_one_is_published(tmp_path: Path) -> None:
    mine = tmp_path / "log"
    writer = open_log(mine)
    for number in (1, 2):  # sizes 1 and 101
        grow(writer, number)
    assert {"tile/0/000.p/1", "tile/0/000.p/101", "tile/entries/000.p/1"} <= set(published(mine))
    grow(writer, 3)  # size 256
    assert SIZES[3] == 256
    assert set(published(mine)) == due_paths(256)
    assert not (mine / "tlog" / "tile" / "0" / "000.p").exists()
    writer.close()


# --- starting ---


def remove_everything(tlog: Path) -> None:
    shutil.rmtree(tlog)


def remove_a_full_tile(tlog: Path) -> None:
    (tlog / "tile/0/001").unlink()


def remove_a_bundle(tlog: Path) -> None:
    (tlog / "tile/entries/002").unlink()


def remove_the_right_edge(tlog: Path) -> None:
    shutil.rmtree(tlog / "tile/1/000.p")


def remove_the_checkpoint(tlog: Path) -> None:
    (tlog / "checkpoint").unlink()


def leave_unfinished_files(tlog: Path) -> None:
    (tlog / "checkpoint.new").write_bytes(b"half")
    (tlog / "tile/0/003.new").write_bytes(b"half")


def leave_a_partial_beside_the_full(tlog: Path) -> None:
    (tlog / "tile/0/001.p").mkdir()
    (tlog / "tile/0/001.p/3").write_bytes((tlog / "tile/0/001").read_bytes()[:96])


STATES = [
    remove_everything,
    remove_a_full_tile,
    remove_a_bundle,
    remove_the_right_edge,
    remove_the_checkpoint,
    leave_unfinished_files,
    leave_a_partial_beside_the_full,
]


@pytest.mark.parametrize("change", STATES, ids=[change.__name__ for change in STATES])
def test_a_start_derives_what_is_missing_and_removes_what_is_superseded(
    folder: Path, whole: Path, change: Callable[[Path], None]
) -> None:
    change(folder / "tlog")
    open_log(folder).close()
    assert published(folder) == published(whole)


def test_a_start_with_all_in_place_writes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "tlog").rglob("*")}
    open_log(folder).close()
    assert {path: path.stat().st_mtime_ns for path in (folder / "tlog").rglob("*")} == before


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])


@pytest.mark.parametrize("path", ["tile/0/001", "tile/entries/000", "tile/1/000.p/3", "tile/entries/003.p/37"])
def test_other_bytes_in_the_place_of_what_is_due_stop_and_stay(folder: Path, path: str) -> None:
    """As when the files of two histories are mixed; the checkpoint is not there, so all is derived and compared."""
    (folder / "tlog" / "checkpoint").unlink()
    flip(folder / "tlog" / path)
    before = published(folder)
    with pytest.raises(StageStopped, match="log_diverged") as caught:
        open_log(folder)
    assert str(folder / "tlog" / path) in str(caught.value)
    assert published(folder) == before


def test_a_right_edge_that_does_not_give_the_signed_root_stops(folder: Path) -> None:
    for path in ("tile/0/003.p/37", "tile/entries/003.p/37", "tile/1/000.p/3"):
        good = (folder / "tlog" / path).read_bytes()
        for wrong in (good[:-1], good + b"\0", bytes([good[0] ^ 1]) + good[1:]):
            (folder / "tlog" / path).write_bytes(wrong)
            with pytest.raises(StageStopped, match="log_diverged"):
                open_log(folder)
        (folder / "tlog" / path).write_bytes(good)
    open_log(folder).close()


def test_a_published_checkpoint_that_is_ahead_or_another_stops(folder: Path) -> None:
    _, early = checkpoint_at(3)
    late = (folder / "checkpoint").read_bytes()
    (folder / "checkpoint").write_bytes(early)
    with pytest.raises(StageStopped, match="log_diverged"):
        open_log(folder)
    (folder / "checkpoint").write_bytes(late)
    for wrong in (b"junk", sign_checkpoint(checkpoint_at(-1)[0], [Signer("x", bytes(32))]), late + b"x"):
        (folder / "tlog" / "checkpoint").write_bytes(wrong)
        with pytest.raises(StageStopped, match="log_diverged"):
            open_log(folder)
        assert (folder / "tlog" / "checkpoint").read_bytes() == wrong


def test_other_bytes_where_the_next_tile_belongs_stop_the_writer_for_good(tmp_path: Path) -> None:
    mine = tmp_path / "log"
    writer = open_log(mine)
    grow(writer, 2)
    (mine / "tlog/tile/0/000").write_bytes(bytes(8_192))
    with pytest.raises(StageStopped, match="tile/0/000"):
        grow(writer, 4)
    assert (mine / "tlog/tile/0/000").read_bytes() == bytes(8_192)
    assert (mine / "tlog/checkpoint").read_bytes() == checkpoint_at(2)[1]
    with pytest.raises(AuditDiskError):
        grow(writer, 5)
    writer.close()


# --- crashes ---


class FailingDisk(Disk):
    """A disk whose `fail_at`-th operation on published files fails, half done, and every one after it."""

    def __init__(self, fail_at: int) -> None:
        self.left = fail_at

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def put(self, path: Path, content: bytes) -> None:
        if TREES & set(path.parts) and self.left == 0:
            path.with_name(path.name + ".new").write_bytes(content[: len(content) // 2])
        if TREES & set(path.parts):
            self._count()
        super().put(path, content)

    def sync_folder(self, folder: Path) -> None:
        if TREES & set(folder.parts) or folder.name == "log":
            self._count()
        super().sync_folder(folder)

    def sync(self, descriptor: int) -> None:
        """Leave it to the operating system."""


def test_whatever_fails_the_published_files_hold_and_the_next_start_completes_them(tmp_path: Path, whole: Path) -> None:
    failed = 0
    for fail_at in range(200):
        mine = tmp_path / str(fail_at) / "log"
        writer: AuditLog | None = None
        try:
            writer = open_log(mine, FailingDisk(fail_at))
            for number in (2, 4, len(LOG.records) - 1):
                grow(writer, number)
        except AuditDiskError:
            failed += 1
        if writer is not None:
            writer.close()
        if (mine / "tlog" / "checkpoint").exists():
            assert read_as_an_outsider_does(mine).size in SIZES
        again = open_log(mine)
        grow(again, len(LOG.records) - 1)
        again.close()
        due = published(whole)
        assert {path: content for path, content in published(mine).items() if path in due} == due
        assert verify_folder(mine, [SIGNER.verifier]).holds
        if failed <= fail_at:
            break
    assert 20 < failed < 200


class WatchedDisk(QuickDisk):
    """A disk that tells what was written and which folders were synced, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def put(self, path: Path, content: bytes) -> None:
        super().put(path, content)
        self.told.append(f"put {path}")

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        self.told.append(f"sync {folder}")


@pytest.mark.parametrize(("own", "tree"), [("checkpoint", "tlog"), ("records-checkpoint", "records-tlog")])
def test_bundles_then_tiles_then_their_folders_then_the_checkpoint(tmp_path: Path, own: str, tree: str) -> None:
    log, mine, disk = LogBuilder(), tmp_path / "log", WatchedDisk()
    for _ in range(260):
        log.batch(2)
    writer = AuditLog(mine, log.origin, 0, disk=disk)
    writer.append(log.records)
    disk.told.clear()
    writer.take_checkpoints(signed_pair(log))
    writer.close()
    tlog = mine / tree
    assert disk.told[0] == f"put {mine / 'checkpoint'}"
    assert f"put {mine / own}" in disk.told[:4]
    first_in_tree = next(number for number, told in enumerate(disk.told) if told.startswith(f"put {tlog}/"))
    assert disk.told.index(f"put {mine / own}") < first_in_tree
    rest = [told for told in disk.told[first_in_tree:] if f"{tlog}/" in f"{told}/" or told == f"sync {mine}"]
    puts = [told for told in rest if told.startswith("put ")]
    kinds = ["entries" if "/entries/" in told else "tile" if "/tile/" in told else "checkpoint" for told in puts]
    full = 521 // 256 if tree == "tlog" else 1
    assert kinds == ["entries"] * full + ["tile"] * (full) + ["entries"] + ["tile"] * 2 + ["checkpoint"]
    last_put_but_checkpoint = rest.index(puts[-2])
    synced = {told for told in rest[last_put_but_checkpoint : rest.index(puts[-1])] if told.startswith("sync")}
    made = {tlog, *(path for path in tlog.rglob("*") if path.is_dir())}
    assert synced >= {f"sync {path}" for path in made | {mine}}
    assert rest.index(f"sync {tlog}", rest.index(puts[-1])) > rest.index(puts[-1])


class HeldDisk(QuickDisk):
    """A disk on which a publication gets no further than its first tile until it is let go."""

    def __init__(self) -> None:
        self.reached, self.let_go = threading.Event(), threading.Event()

    def put(self, path: Path, content: bytes) -> None:
        if TREES & set(path.parts):
            self.reached.set()
            assert self.let_go.wait(60)
        super().put(path, content)


def test_appends_go_on_while_a_publication_is_under_way_and_it_is_of_its_own_size(tmp_path: Path, whole: Path) -> None:
    mine, disk = tmp_path / "log", HeldDisk()
    writer = open_log(mine, disk)
    grow(writer, 4, sign=False)
    with ThreadPoolExecutor(1) as pool:
        publication = pool.submit(writer.take_checkpoints, signed_pair(LOG, 4, SIGNER))
        assert disk.reached.wait(60)
        grow(writer, len(LOG.records) - 1, sign=False)
        cursor = writer.cursor
        assert cursor is not None
        assert cursor.position == SIZE
        assert not publication.done()
        disk.let_go.set()
        publication.result()
    assert read_as_an_outsider_does(mine).size == SIZES[4]
    writer.take_checkpoints(signed_pair(LOG, -1, SIGNER))
    writer.close()
    found, due = published(mine), published(whole)
    assert {path: found[path] for path in due} == due


# --- what verify finds ---


def replace_file(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], str]:
    def mutate(tlog: Path) -> str:
        (tlog / path).write_bytes(change((tlog / path).read_bytes()))
        return str(tlog / path)

    return mutate


def add_file(path: str, content: bytes) -> Callable[[Path], str]:
    def mutate(tlog: Path) -> str:
        (tlog / path).parent.mkdir(parents=True, exist_ok=True)
        (tlog / path).write_bytes(content)
        return str(tlog / path)

    return mutate


def remove_file(path: str) -> Callable[[Path], str]:
    def mutate(tlog: Path) -> str:
        (tlog / path).unlink()
        return str(tlog / path)

    return mutate


def swap_bundles(tlog: Path) -> str:
    first, second = tlog / "tile/entries/000", tlog / "tile/entries/001"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    return str(second)


def roll_back(tlog: Path) -> str:
    """An older, validly signed checkpoint with all its files."""
    (tlog / "checkpoint").write_bytes(checkpoint_at(3)[1])
    return str(tlog / "checkpoint")


def bit(content: bytes) -> bytes:
    return content[:50] + bytes([content[50] ^ 8]) + content[51:]


MUTATIONS: dict[str, Callable[[Path], str]] = {
    "bit in an entry": replace_file("tile/entries/001", bit),
    "bit in an entry of the partial bundle": replace_file("tile/entries/003.p/37", bit),
    "bit in a full tile": replace_file("tile/0/001", bit),
    "bit in a partial tile": replace_file("tile/0/003.p/37", bit),
    "bit in the top tile": replace_file("tile/1/000.p/3", bit),
    "trailing byte after a full bundle": replace_file("tile/entries/001", lambda content: content + b"\0"),
    "an entry too many in a bundle": replace_file("tile/entries/003.p/37", lambda content: content + content[:34]),
    "tile a hash short": replace_file("tile/0/001", lambda content: content[:-32]),
    "tile a hash long": replace_file("tile/0/003.p/37", lambda content: content + content[:32]),
    "empty tile": replace_file("tile/0/002", lambda _: b""),
    "full tile missing": remove_file("tile/0/001"),
    "bundle missing": remove_file("tile/entries/000"),
    "right edge missing": remove_file("tile/1/000.p/3"),
    "bundles swapped": swap_bundles,
    "tile beyond the log": add_file("tile/0/004", bytes(8_192)),
    "wider partial tile than the log gives": add_file("tile/0/003.p/38", bytes(38 * 32)),
    "level above the log": add_file("tile/2/000.p/1", bytes(32)),
    "partial tile of other bytes beside a full one": add_file("tile/0/001.p/2", bytes(64)),
    "another spelling of an index": add_file("tile/0/x000/001", bytes(8_192)),
    "width with a leading zero": add_file("tile/0/003.p/037", bytes(37 * 32)),
    "stray file": add_file("index.html", b"hello"),
    "stray file among tiles": add_file("tile/0/readme", b"hello"),
    "stray unfinished file": add_file("tile/0/readme.new", b"hello"),
    "checkpoint missing": remove_file("checkpoint"),
    "checkpoint rolled back": roll_back,
    "bit in the note": replace_file("checkpoint", bit),
    "trailing byte after the note": replace_file("checkpoint", lambda content: content + b"\n"),
}


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
def test_verify_finds_every_change_and_names_the_file(folder: Path, mutate: Callable[[Path], str]) -> None:
    assert verify_folder(folder, [SIGNER.verifier]).holds
    place = mutate(folder / "tlog")
    report = verify_folder(folder, [SIGNER.verifier])
    assert not report.holds
    assert place in {str(fault.file) for fault in report.all_faults}
    assert report.logs[0].tlog_size is None


def test_verify_counts_the_files_and_does_without_them(folder: Path) -> None:
    (report,) = verify_folder(folder, [SIGNER.verifier]).logs
    assert report.as_json()["tlog"] == {"size": SIZE, "files": len(due_paths(SIZE)) - 1}
    shutil.rmtree(folder / "tlog")
    (report,) = verify_folder(folder, [SIGNER.verifier]).logs
    assert report.holds
    assert report.as_json()["tlog"] is None


def test_verify_names_twenty_files_and_counts_the_others(tmp_path: Path, folder: Path) -> None:
    for number in range(50):
        (folder / "tlog" / f"stray{number}").write_bytes(b"")
    faults = verify_folder(folder, [SIGNER.verifier]).all_faults
    assert len(faults) == 21
    assert "30 more" in str(faults[-1])


def test_while_a_writer_is_at_work_an_earlier_published_checkpoint_is_no_fault(tmp_path: Path) -> None:
    mine = tmp_path / "log"
    writer = open_log(mine)
    grow(writer, 3)
    grow(writer, 5, sign=False)
    (mine / "checkpoint").write_bytes(checkpoint_at(5)[1])
    (report,) = verify_folder(mine, [SIGNER.verifier]).logs
    assert (report.holds, report.tlog_size, report.covered) == (True, SIZES[3], SIZES[5])
    writer.close()
    assert not verify_folder(mine, [SIGNER.verifier]).holds
    open_log(mine).close()
    assert verify_folder(mine, [SIGNER.verifier]).holds
    assert Bundle(1, SIZES[5] - 256).path in published(mine)
