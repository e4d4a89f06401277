"""Tiles: the geometry that the specification states, and the same files for any split of the same leaves."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_proofs import (
    EMPTY_ROOT,
    MAX_TREE_SIZE,
    BadTile,
    Bundle,
    Frontier,
    MalformedFrontier,
    MalformedTilePath,
    OutOfRange,
    Tile,
    TileEdge,
    WrongHashSize,
    batch_root,
    bundles_between,
    bundles_of,
    decode_tile,
    encode_tile,
    leaf_hashes,
    partial_tiles,
    tile_at,
    tiles_between,
    tiles_of,
)
from tests.unit.proofs import definition

LEAVES = leaf_hashes([number.to_bytes(8, "big") for number in range(70_000)])
SIZES = st.integers(0, 1_100) | st.integers(0, MAX_TREE_SIZE)


def files(size: int, cuts: list[int]) -> dict[Tile, bytes]:
    """All full tiles that growing to `size` in these steps wrote, and the last partial ones."""
    edge = TileEdge()
    written: dict[Tile, bytes] = {}
    for begin, end in zip([0, *cuts], [*cuts, size], strict=True):
        for tile, content in edge.extend(LEAVES[begin:end]):
            assert tile not in written
            written[tile] = content
    assert edge.root() == batch_root(LEAVES[:size])
    return written | dict(edge.partials())


# --- the specification's own examples ---


def test_the_example_index_of_the_specification() -> None:
    assert Tile(0, 1_234_067).path == "tile/0/x001/x234/067"
    assert Tile(3, 1_234_067, 8).path == "tile/3/x001/x234/067.p/8"
    assert Bundle(1_234_067, 255).path == "tile/entries/x001/x234/067.p/255"
    assert Tile(0, 999).path == "tile/0/999"
    assert Tile(0, 1_000).path == "tile/0/x001/000"
    assert Tile(63, 0).path == "tile/63/000"


def test_a_tree_of_256_has_one_full_tile_and_one_of_width_1_above_it() -> None:
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert partial_tiles(256) == [Tile(1, 0, 1)]


def test_a_tree_of_70_000_has_the_tiles_of_the_specification() -> None:
    tiles = list(tiles_of(70_000))
    assert tiles == [
        *(Tile(0, index) for index in range(273)),
        Tile(0, 273, 112),
        Tile(1, 0),
        Tile(1, 1, 17),
        Tile(2, 0, 1),
    ]
    assert list(bundles_of(70_000)) == [*(Bundle(index) for index in range(273)), Bundle(273, 112)]
    assert set(files(70_000, [])) == set(tiles)


def test_the_empty_tree_has_no_files() -> None:
    assert not [*tiles_of(0), *bundles_of(0), *partial_tiles(0), *TileEdge().partials()]
    assert TileEdge().root() == EMPTY_ROOT
    with pytest.raises(OutOfRange):
        tile_at(0, 0, 0)


# --- geometry ---


def test_each_level_has_a_hash_for_every_full_span_of_entries() -> None:
    for size in [*range(1_101), 65_535, 65_536, 65_537, 66_000]:
        widths: dict[int, int] = {}
        for tile in tiles_of(size):
            widths[tile.level] = widths.get(tile.level, 0) + tile.width
            assert tile_at(tile.level, tile.index, size) == tile
        assert widths == {level: size // 256**level for level in range(8) if size // 256**level}
        assert [tile for tile in tiles_of(size) if not tile.is_full] == partial_tiles(size)
        assert [bundle.tile for bundle in bundles_of(size)] == [tile for tile in tiles_of(size) if tile.level == 0]


@given(st.tuples(SIZES, SIZES))
def test_growing_writes_what_the_new_tree_has_and_the_old_has_not(sizes: tuple[int, int]) -> None:
    old, new = min(sizes), max(sizes)
    new = min(new, old + 20_000)
    due = list(tiles_between(old, new))
    assert len(due) == len(set(due))
    if new <= 1_100:
        assert set(due) == set(tiles_of(new)) - set(tiles_of(old))
        assert set(bundles_between(old, new)) == set(bundles_of(new)) - set(bundles_of(old))
    for tile in due:
        assert tile_at(tile.level, tile.index, new) == tile
        end = (tile.index * 256 + tile.width) * 256**tile.level
        assert old < end <= new


@pytest.mark.parametrize(("old", "new"), [(-1, 0), (1, 0), (0, MAX_TREE_SIZE + 1), (5, 4)])
def test_sizes_out_of_range_are_refused(old: int, new: int) -> None:
    for between in (tiles_between, bundles_between):
        with pytest.raises(OutOfRange):
            list(between(old, new))


# --- paths ---


@given(level=st.integers(0, 63), index=st.integers(0, MAX_TREE_SIZE), width=st.integers(1, 256))
def test_paths_are_read_back(level: int, index: int, width: int) -> None:
    assert Tile.parse(Tile(level, index, width).path) == Tile(level, index, width)
    assert Bundle.parse(Bundle(index, width).path) == Bundle(index, width)
    assert Tile(level, index, width).full == Tile(level, index)
    assert Bundle(index, width).full == Bundle(index)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/01/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/+1/000",
        "tile/0/x000/000",
        "tile/0/x000/x001/000",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/x001000",
        "tile/0/X001/000",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000.p/1/",
        "tile/0/000\n",
        "/tile/0/000",
        "tile/0/000 ",
        "tile/0/\u0660\u0660\u0660",
        "tile/data/000",
        "tile/entries/x000/000",
        "tile/0/x009/x223/x372/x036/x854/x775/808",
        "tile/0/x001/x000/x000/x000/x000/x000/x000/x000/x000/000",
    ],
)
def test_other_spellings_are_refused(path: str) -> None:
    with pytest.raises(MalformedTilePath):
        Tile.parse(path)
    with pytest.raises(MalformedTilePath):
        Bundle.parse(path.replace("tile/0/", "tile/entries/"))


@given(
    st.text("tile/entries0123456789xp.-\n", max_size=40) | st.from_regex(r"tile/[0-9]{1,2}/(x[0-9]{3}/){0,4}[0-9]{3}")
)
def test_what_a_path_parser_accepts_is_what_it_writes(path: str) -> None:
    for kind in (Tile, Bundle):
        try:
            parsed = kind.parse(path)
        except MalformedTilePath:
            continue
        assert parsed.path == path


@pytest.mark.parametrize(
    "place", [(64, 0, 1), (-1, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257), (0, MAX_TREE_SIZE + 1, 1)]
)
def test_impossible_places_cannot_be_made(place: tuple[int, int, int]) -> None:
    with pytest.raises(MalformedTilePath):
        Tile(*place)
    if place[0] == 0:
        with pytest.raises(MalformedTilePath):
            Bundle(*place[1:])


# --- content ---


def test_a_tile_is_its_hashes_and_no_other_length_is_one() -> None:
    content = encode_tile(LEAVES[:7])
    assert decode_tile(Tile(0, 0, 7), content) == LEAVES[:7]
    for wrong in (b"", content[:-1], content + b"\0", content[32:], content + LEAVES[7]):
        with pytest.raises(BadTile):
            decode_tile(Tile(0, 0, 7), wrong)
    with pytest.raises(OutOfRange):
        encode_tile([])
    with pytest.raises(OutOfRange):
        encode_tile(LEAVES[:257])
    with pytest.raises(WrongHashSize):
        encode_tile([b"short"])


def test_tiles_hold_the_roots_of_the_definition() -> None:
    entries = [number.to_bytes(8, "big") for number in range(1_100)]
    written = files(1_100, [])
    for tile, content in written.items():
        span = 256**tile.level
        hashes = [
            definition.root(entries[at * span : (at + 1) * span])
            for at in range(tile.index * 256, tile.index * 256 + tile.width)
        ]
        assert decode_tile(tile, content) == hashes


# --- growing ---


def test_the_root_from_the_edge_is_the_naive_root_at_every_size() -> None:
    edge, frontier = TileEdge(), Frontier()
    for size in range(1, 1_101):
        assert len(edge.extend(LEAVES[size - 1 : size])) == (size % 256 == 0)
        frontier.append_leaf_hash(LEAVES[size - 1])
        assert edge.size == size
        assert edge.frontier() == frontier
        assert edge.root() == batch_root(LEAVES[:size])
        assert [tile for tile, _ in edge.partials()] == partial_tiles(size)


@given(size=st.integers(0, 1_100), data=st.data())
def test_any_split_gives_the_same_files(size: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=6)))
    written = files(size, cuts)
    assert written == files(size, [])
    assert set(written) == set(tiles_of(size))


@pytest.mark.parametrize("seed", range(3))
def test_any_split_gives_the_same_files_across_65_536(seed: int) -> None:
    chosen = random.Random(seed)
    cuts: list[int] = []
    while (at := (cuts[-1] if cuts else 0) + chosen.randint(1, 10_000)) < 70_000:
        cuts.append(at)
    assert files(70_000, cuts) == files(70_000, [])


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 1_000, 65_535, 65_536, 65_537, 69_999])
def test_an_edge_is_brought_back_from_its_partial_tiles_and_goes_on(size: int) -> None:
    edge = TileEdge()
    edge.extend(LEAVES[:size])
    again = TileEdge.of(size, [(tile, decode_tile(tile, content)) for tile, content in edge.partials()])
    assert again.root() == edge.root()
    assert again.extend(LEAVES[size:]) == edge.extend(LEAVES[size:])
    assert again.partials() == edge.partials()
    assert repr(again) == repr(edge)


def test_an_edge_from_other_tiles_than_the_sizes_own_is_refused() -> None:
    edge = TileEdge()
    edge.extend(LEAVES[:300])
    partials = [(tile, decode_tile(tile, content)) for tile, content in edge.partials()]
    for wrong in (partials[:1], [*partials, (Tile(2, 0, 1), LEAVES[:1])], [(partials[0][0], LEAVES[:1]), partials[1]]):
        with pytest.raises(MalformedFrontier):
            TileEdge.of(300, wrong)
    with pytest.raises(MalformedFrontier):
        TileEdge.of(301, partials)
    with pytest.raises(WrongHashSize):
        TileEdge.of(300, [(tile, [one[:-1] for one in hashes]) for tile, hashes in partials])


def test_a_refused_append_changes_nothing() -> None:
    edge = TileEdge()
    edge.extend(LEAVES[:300])
    before = edge.root(), edge.partials()
    with pytest.raises(WrongHashSize):
        edge.extend([*LEAVES[300:400], b"short"])
    assert (edge.root(), edge.partials()) == before
