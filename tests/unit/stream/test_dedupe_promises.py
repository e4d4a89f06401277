"""What `DedupeIndex` promises, of both: the index in memory and the one on disk; and what only the one on disk does."""

import itertools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rocksdict
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_schemas import python_identity_table
from meterproof_schemas.dedupe_index import DedupeIndex, MemoryIndex
from meterproof_schemas.limits import FUTURE_TOLERANCE_MS
from meterproof_stream import python_place_table, rocksdb_index, rocksdb_span
from meterproof_stream.errors import IndexDamaged, IndexUnusable
from meterproof_stream.rocksdb_index import RocksdbIndex
from tests.unit.stream.index_writer import CLOCK_STEP_MS, acknowledge, add, content

HORIZON_MS = 1_000
KEEP_MS = HORIZON_MS + FUTURE_TOLERANCE_MS
Opened = Callable[[], DedupeIndex]


def identity(number: int) -> bytes:
    return number.to_bytes(16)


def entry(number: int) -> bytes:
    return (number + 1).to_bytes(32)


@pytest.fixture
def opened_on_disk() -> Iterator[list[RocksdbIndex]]:
    indexes: list[RocksdbIndex] = []
    yield indexes
    for index in indexes:
        index.close()


@pytest.fixture(params=["memory", "rocksdb", "rocksdb without C"])
def make_index(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    opened_on_disk: list[RocksdbIndex],
    monkeypatch: pytest.MonkeyPatch,
) -> Opened:
    """Makes a new empty index."""
    numbers = itertools.count()
    if request.param == "rocksdb without C":
        monkeypatch.setattr(rocksdb_span, "PlaceTable", python_place_table.PlaceTable)
        monkeypatch.setattr(rocksdb_index, "places_of", python_place_table.places_of)
        monkeypatch.setattr(rocksdb_index, "IdentityTable", python_identity_table.IdentityTable)

    def make() -> DedupeIndex:
        if request.param == "memory":
            return MemoryIndex(KEEP_MS)
        opened_on_disk.append(RocksdbIndex.create(tmp_path / f"p{next(numbers)}", KEEP_MS))
        return opened_on_disk[-1]

    return make


def settle(index: DedupeIndex) -> None:
    """Let the index on disk write what was added."""
    if isinstance(index, RocksdbIndex):
        index.acknowledge([], {})
        index.write()


def reopened(index: RocksdbIndex, folder: Path) -> RocksdbIndex:
    index.close()
    again = RocksdbIndex.open(folder)
    assert again is not None
    return again


@pytest.mark.parametrize("written", [False, True])
def test_found_until_the_clock_passes_horizon_and_tolerance(make_index: Opened, *, written: bool) -> None:
    index = make_index()
    index.add(identity(1), entry(1), 500)
    if written:
        settle(index)
    for clock_ms in (500, 501, 500 + HORIZON_MS, 500 + KEEP_MS):
        index.evict(clock_ms)
        assert index.get(identity(1)) == entry(1)
        assert index.get_many([identity(2), identity(1)]) == [None, entry(1)]
    for clock_ms in (500 + KEEP_MS + 1, 0, 500, 10 * KEEP_MS):
        index.evict(clock_ms)
        assert index.get(identity(1)) is None
    index.add(identity(1), entry(9), 10 * KEEP_MS)
    assert index.get(identity(1)) == entry(9)


def test_asked_for_nothing_it_says_nothing(make_index: Opened) -> None:
    index = make_index()
    index.add(b"", b"", 5)
    assert index.get_many([]) == []
    assert len(index) == 0
    settle(index)
    assert index.get_many([]) == []


def test_identities_without_entries_are_an_error(make_index: Opened) -> None:
    with pytest.raises(ValueError, match="an entry"):
        make_index().add(identity(1) + identity(2), entry(1), 0)


STEPS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3), st.integers(0, KEEP_MS // 3), st.integers(0, 3 * KEEP_MS)),
        st.integers(0, 6),
        st.booleans(),
        st.sampled_from(["wait", "acknowledge", "acknowledge all", "write", "reopen"]),
    ),
    max_size=25,
)


@settings(max_examples=25)
@given(STEPS)
def test_holds_what_a_list_of_everything_would_say(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool, str]]
) -> None:
    """Both against the list, whatever is acknowledged, written and opened again at whatever moment."""
    folder = tmp_path_factory.mktemp("index") / "p0"
    memory, disk = MemoryIndex(KEEP_MS), RocksdbIndex.create(folder, KEEP_MS)
    everything: list[tuple[int, int, int]] = []  # clock, identity, entry
    unacknowledged: list[int] = []
    clock_ms = number = 0
    try:
        for step, (ahead_ms, count, again, then) in enumerate(steps):
            clock_ms += ahead_ms
            held = {known for at_ms, known, _ in everything if at_ms + KEEP_MS >= clock_ms}
            fresh = range(count) if again else range(number, number + count)
            new = [known for known in fresh if known not in held]
            number += count
            for index in (memory, disk):
                index.evict(clock_ms)
                index.add(b"".join(map(identity, new)), b"".join([entry(known + step) for known in new]), clock_ms)
            everything += [(clock_ms, known, known + step) for known in new]
            unacknowledged.append(step)
            if then == "acknowledge":
                disk.acknowledge([], {"step": unacknowledged.pop(0)})
            elif then != "wait":
                while unacknowledged:
                    disk.acknowledge([], {"step": unacknowledged.pop(0)})
            if then in {"write", "reopen"}:
                disk.write()
            if then == "reopen":
                disk = reopened(disk, folder)
                assert disk.cursor == {"step": step}
            asked = list(range(number + 8))
            expected = dict.fromkeys(asked)
            expected.update((known, what) for at_ms, known, what in everything if at_ms + KEEP_MS >= clock_ms)
            wanted = [None if expected[known] is None else entry(expected[known] or 0) for known in asked]
            identities = [identity(known) for known in asked]
            assert memory.get_many(identities) == wanted
            assert disk.get_many(identities) == wanted
            told = [known for known in asked if wanted[known] is not None]
            entries = [what or entry(0) for what in wanted]
            for index in (memory, disk):
                assert index.repeats(b"".join(identities), b"".join(entries)) == told
                for number in told[-1:]:
                    others = [*entries[:number], entry(99_999), *entries[number + 1 :]]
                    assert index.repeats(b"".join(identities), b"".join(others)) is None
            assert len(memory) == sum(what is not None for what in wanted) <= len(disk)
    finally:
        disk.close()
        shutil.rmtree(folder.parent)


# --- only the index on disk -------------------------------------------------------------------------------------------

KEPT_RECORDS = FUTURE_TOLERANCE_MS // CLOCK_STEP_MS
"""Records of `index_writer` that an index without horizon keeps."""
RECORDS = KEPT_RECORDS + KEPT_RECORDS // 3
"""Enough for several spans, of which the oldest was dropped."""


def fill(folder: Path, records: int, keep_ms: int = KEEP_MS) -> None:
    """Records 0 to `records` - 1, all acknowledged, closed."""
    index = RocksdbIndex.create(folder, keep_ms)
    for number in range(records):
        add(index, number)
        acknowledge(index, number)
    index.close()


def holds_exactly(index: RocksdbIndex, last: int, keep_ms: int, also: int = 20) -> None:
    """Whether the index is what records 0 to `last` make, and knows nothing of those behind it."""
    oldest_ms = last * CLOCK_STEP_MS - keep_ms
    for number in range(last + also):
        held = number <= last and number * CLOCK_STEP_MS >= oldest_ms
        for known, what in content(number).items():
            assert index.get(known) == (what if held else None), (number, last)
    rows = [int(row) for row in index.rows()]
    expected = [number for number in range(0, last + 1, 3) if number * CLOCK_STEP_MS >= oldest_ms]
    assert rows[len(rows) - len(expected) :] == expected


def test_what_is_not_acknowledged_is_found_and_not_on_disk(tmp_path: Path) -> None:
    index = RocksdbIndex.create(tmp_path / "p0", KEEP_MS)
    for number in range(10):
        add(index, number)
    for number in range(6):
        acknowledge(index, number)
    assert all(index.get(known) == what for number in range(10) for known, what in content(number).items())
    index = reopened(index, tmp_path / "p0")
    assert index.cursor == {"number": 5}
    holds_exactly(index, 5, KEEP_MS)
    index.close()


def test_eviction_by_a_record_that_was_never_acknowledged_leaves_the_disk_alone(tmp_path: Path) -> None:
    index = RocksdbIndex.create(tmp_path / "p0", KEEP_MS)
    index.add(identity(1), entry(1), 0)
    index.acknowledge([], {"number": 0})
    index.evict(100 * KEEP_MS)
    index.add(b"", b"", 100 * KEEP_MS)
    assert index.get(identity(1)) is None
    index = reopened(index, tmp_path / "p0")
    assert index.get(identity(1)) == entry(1)
    index.close()


def test_forgetting_gives_the_space_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rocksdb_index, "WRITE_IDENTITIES", 50)
    index = RocksdbIndex.create(tmp_path / "p0", KEEP_MS)
    sizes = []
    for number in range(1_000):
        clock_ms = number * KEEP_MS // 200
        index.evict(clock_ms)
        index.add(identity(number), entry(number), clock_ms)
        index.acknowledge([], {})
        sizes.append(len(index))
    # 200 identities to the time that one is kept, a quarter of it more for the oldest span, and what is not written.
    assert max(sizes) <= 200 + 50 + 50 + 2
    assert index.disk_bytes() > 0
    index.close()


def test_a_file_that_goes_while_the_folder_is_measured_takes_nothing(tmp_path: Path) -> None:
    index = RocksdbIndex.create(tmp_path / "p0", KEEP_MS)
    (tmp_path / "p0" / "listed.sst").symlink_to("gone")
    assert index.disk_bytes() > 0
    index.close()


def test_many_files_are_one_index_and_what_is_new_needs_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tables of places, a file for each few blocks; and all of it again after a start."""
    monkeypatch.setattr(rocksdb_index, "_MEMTABLE_BYTES", 64 << 10)
    monkeypatch.setattr(rocksdb_span, "_CAPACITY_MIN", 2_000)
    folder = tmp_path / "p0"
    index = RocksdbIndex.create(folder, KEEP_MS)
    identities = [identity(number) for number in range(5_000)]
    for begin in range(0, len(identities), 500):
        added = identities[begin : begin + 500]
        index.add(b"".join(added), b"".join([known * 2 for known in added]), begin)
        index.acknowledge([b"%d" % begin], {})
        index.write()
    assert index.get_many(identities) == [known * 2 for known in identities]
    index = reopened(index, folder)
    assert len(list(folder.glob("*.sst"))) > 1
    assert index.get_many(identities) == [known * 2 for known in identities]
    assert [int(row) for row in index.rows()] == list(range(0, 5_000, 500))
    assert len(index) == 5_000
    monkeypatch.setattr(rocksdb_index, "places_of", lambda _tables, _identities: [])
    assert index.get_many(identities) == [None] * 5_000
    index.close()


def test_an_identity_that_looks_like_another_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block is said to hold it, and one of them has its bytes across two identities."""
    monkeypatch.setattr(rocksdb_index, "places_of", lambda _, known: [(each, 0, 0) for each in range(len(known) // 16)])
    index = RocksdbIndex.create(tmp_path / "p0", KEEP_MS)
    first, second, across = b"a" * 8 + b"b" * 8, b"c" * 8 + b"d" * 8, b"b" * 8 + b"c" * 8
    index.add(first + second, entry(1) + entry(2), 0)
    index.acknowledge([], {})
    index.write()
    assert index.get_many([across, second, b"e" * 16, first]) == [None, entry(2), None, entry(1)]
    index.add(across, entry(3), 0)
    assert index.get_many([across, second]) == [entry(3), entry(2)]
    index.close()


def test_a_block_that_is_gone_is_damage(tmp_path: Path) -> None:
    """Whether it is noticed by the next start or while it runs."""
    folder, key = tmp_path / "p0", b"block" + bytes(8)
    index = RocksdbIndex.create(folder, KEEP_MS)
    index.add(identity(1), entry(1), 0)
    index.acknowledge([], {})
    index.close()
    families = {name: rocksdict.Options(raw_mode=True) for name in rocksdict.Rdict.list_cf(str(folder))}
    errors = list[IndexDamaged]()
    for value, fault in ((b"half a block", "a block of 12 bytes"), (None, "holds 0 identities, not 1")):
        with rocksdict.Rdict(str(folder), rocksdict.Options(raw_mode=True), column_families=families) as database:
            family = database.get_column_family("span-0")
            if value is None:
                del family[key]
            else:
                family[key] = value
            family.close()
        with pytest.raises(IndexDamaged, match=fault) as damaged:
            RocksdbIndex.open(folder)
        errors.append(damaged.value)
    # The errors are still there, and so is what their tracebacks refer to; the folder is free all the same.
    index = RocksdbIndex.create(folder, KEEP_MS)
    index.add(identity(1), entry(1), 0)
    index.acknowledge([], {})
    index.write()
    del index._spans[0].table[key]
    with pytest.raises(IndexDamaged, match="block 0 of span 0 is missing"):
        index.get(identity(1))
    index.close()
    with pytest.raises(IndexDamaged, match="missing"):
        RocksdbIndex.open(folder)
    assert len(errors) == 2


@pytest.mark.slow
def test_killed_in_the_middle_of_writing_it_is_whole_up_to_its_cursor(tmp_path: Path) -> None:
    """Over more than one span, so that families are made between two kills."""
    folder, chance, last, spans = tmp_path / "p0", random.Random(5), -1, set[int]()
    keep_ms = FUTURE_TOLERANCE_MS
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.unit.stream.index_writer", str(folder), str(keep_ms)],
            stdout=subprocess.PIPE,
        ) as writer:
            assert writer.stdout is not None
            told = [writer.stdout.readline() for _ in range(chance.randrange(3_000, 12_000))]
            writer.kill()
        index = RocksdbIndex.open(folder)
        assert index is not None
        spans.add(index.cursor["number"] * CLOCK_STEP_MS // (KEEP_MS // 4))
        assert index.cursor["number"] >= int(told[-1]) - 20
        assert index.cursor["number"] > last
        last = index.cursor["number"]
        holds_exactly(index, last, keep_ms)
        index.close()
    assert len(spans) > 1


def test_a_second_process_cannot_have_the_folder(tmp_path: Path) -> None:
    index = RocksdbIndex.create(tmp_path / "p0", KEEP_MS)
    index.add(identity(1), entry(1), 0)
    index.acknowledge([], {"number": 0})
    with pytest.raises(IndexUnusable, match="another process"):
        RocksdbIndex.open(tmp_path / "p0")
    with pytest.raises(IndexUnusable, match="another process"):
        RocksdbIndex.create(tmp_path / "p0", 1)
    index = reopened(index, tmp_path / "p0")
    assert index.get(identity(1)) == entry(1)
    index.close()


def test_there_is_none_before_the_first(tmp_path: Path) -> None:
    assert RocksdbIndex.open(tmp_path / "p0") is None


def test_a_folder_that_cannot_be_made_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IndexUnusable, match="--index memory"):
        RocksdbIndex.create(tmp_path / "file" / "p0", KEEP_MS)


def test_an_older_copy_is_what_it_was(tmp_path: Path) -> None:
    fill(tmp_path / "p0", 50)
    shutil.copytree(tmp_path / "p0", tmp_path / "copy")
    index = RocksdbIndex.open(tmp_path / "p0")
    assert index is not None
    for number in range(50, 90):
        add(index, number)
        acknowledge(index, number)
    index.close()
    shutil.rmtree(tmp_path / "p0")
    shutil.copytree(tmp_path / "copy", tmp_path / "p0")
    index = RocksdbIndex.open(tmp_path / "p0")
    assert index is not None
    assert index.cursor == {"number": 49}
    holds_exactly(index, 49, KEEP_MS)
    index.close()


@pytest.fixture
def no_block_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of a folder share cached blocks, which would hide damage."""
    monkeypatch.setattr(rocksdb_index, "_block_cache", rocksdict.Cache(0))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an index with several spans."""
    folder = tmp_path_factory.mktemp("whole") / "p0"
    fill(folder, RECORDS, FUTURE_TOLERANCE_MS)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("no_block_cache")
@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "remove", "noise"])
def test_a_damaged_file_is_noticed_or_harmless(tmp_path: Path, whole: Path, how: str) -> None:
    """Each file in turn: opening fails, or reading fails and then opening fails, or all answers are right."""
    names = sorted(entry.name for entry in os.scandir(whole))
    assert sum(name.endswith(".sst") for name in names) > 2
    noticed = set()
    for name in names:
        folder = tmp_path / "p0"
        shutil.copytree(whole, folder)
        damage(folder / name, how)
        try:
            index = RocksdbIndex.open(folder)
            assert index is not None
            last = index.cursor["number"]
            try:
                held = [each for number in range(last, last - KEPT_RECORDS, -4) for each in content(number).items()]
                assert index.get_many([known for known, _ in held]) == [what for _, what in held]
                rows = [int(row) for row in index.rows()]
                assert rows == list(range(rows[0], last + 1, 3))
            finally:
                index.close()
        except IndexDamaged:
            noticed.add(name.rpartition(".")[2] if "." in name else name.partition("-")[0])
        shutil.rmtree(folder)
    assert noticed >= {"sst", "MANIFEST", "CURRENT"} - ({"CURRENT"} if how == "flip" else set())


def damage(path: Path, how: str) -> None:
    value = bytearray(path.read_bytes())
    if how == "flip" and value:
        value[len(value) // 2] ^= 1
    elif how == "truncate":
        del value[len(value) // 2 :]
    elif how == "empty":
        value.clear()
    elif how == "noise":
        value = bytearray(random.Random(1).randbytes(len(value)))
    path.write_bytes(value)
    if how == "remove":
        path.unlink()


@pytest.mark.usefixtures("no_block_cache")
def test_after_damage_was_met_the_folder_is_refused_for_good_and_made_anew(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "p0")
    index = RocksdbIndex.open(tmp_path / "p0")
    assert index is not None
    for table in (tmp_path / "p0").glob("*.sst"):
        value = bytearray(table.read_bytes())
        for place in range(0, len(value) // 2, 100):
            value[place] ^= 0xFF
        table.write_bytes(value)
    with pytest.raises(IndexDamaged, match="Corruption"):
        index.get_many([known for number in range(RECORDS) for known in content(number)])
    index.close()
    with pytest.raises(IndexDamaged, match="Corruption"):
        RocksdbIndex.open(tmp_path / "p0")
    index = RocksdbIndex.create(tmp_path / "p0", KEEP_MS)
    assert index.get_many(list(content(RECORDS - 1))) == [None] * len(content(RECORDS - 1))
    index.close()
