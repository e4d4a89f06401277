"""Proofs from tiles: every one verifies, and no changed tile, however placed, is ever believed."""

import random
from collections.abc import Callable

import pytest

from meterproof_proofs import (
    BadProof,
    BadTile,
    Bundle,
    MissingTile,
    OutOfRange,
    Tile,
    TileEdge,
    TileTree,
    WrongHashSize,
    batch_root,
    bundles_of,
    consistency_proof,
    encode_bundle,
    encode_tile,
    inclusion_proof,
    leaf_hashes,
    root_of,
    tiles_of,
    verify_consistency,
    verify_inclusion,
)

ENTRIES = [number.to_bytes(8, "big") for number in range(66_000)]
LEAVES = leaf_hashes(ENTRIES)
NOTHING: dict[str, bytes] = {}


def files_of(size: int) -> dict[str, bytes]:
    """A log of this size as a static web server would hold it."""
    edge = TileEdge()
    files = {tile.path: content for tile, content in edge.extend(LEAVES[:size])}
    files |= {tile.path: content for tile, content in edge.partials()}
    for bundle in bundles_of(size):
        files[bundle.path] = encode_bundle(ENTRIES[bundle.index * 256 :][: bundle.width])
    return files


def tree_of(size: int, files: dict[str, bytes] | None = None) -> TileTree:
    return TileTree(size, batch_root(LEAVES[:size]), (files_of(size) if files is None else files).get)


def check_inclusion(tree: TileTree, index: int, size: int, root: bytes) -> list[bytes]:
    proof = tree.inclusion_proof(index, size)
    assert tree.leaf_hash(index) == LEAVES[index]
    verify_inclusion(leaf=LEAVES[index], index=index, size=size, proof=proof, root=root)
    return proof


def check_consistency(tree: TileTree, old: int, new: int, roots: Callable[[int], bytes]) -> list[bytes]:
    proof = tree.consistency_proof(old, new)
    verify_consistency(old_size=old, old_root=roots(old), new_size=new, new_root=roots(new), proof=proof)
    return proof


def test_every_proof_at_every_size_up_to_70_is_the_definitions() -> None:
    for size in range(1, 71):
        tree = tree_of(size)
        for at in range(size):
            assert check_inclusion(tree, at, size, tree.root) == inclusion_proof(LEAVES[:size], at, size)
            assert check_consistency(tree, at + 1, size, tree.root_at) == consistency_proof(LEAVES[:size], at + 1, size)


def test_proofs_at_every_size_up_to_1_100_verify() -> None:
    """One log that grows entry by entry; a tree at each size."""
    chosen, edge, files = random.Random(1), TileEdge(), {"": b""}
    for size in range(1, 1_101):
        files |= {tile.path: content for tile, content in edge.extend(LEAVES[size - 1 : size]) + edge.partials()}
        tree = TileTree(size, edge.root(), files.get)
        for index in {0, size - 1, (size - 1) // 256 * 256, chosen.randrange(size), chosen.randrange(size)}:
            check_inclusion(tree, index, size, tree.root)
        for old in {1, size, max(1, size - 1), max(1, size // 256 * 256), chosen.randint(1, size)}:
            check_consistency(tree, old, size, tree.root_at)


def test_every_entry_and_every_older_tree_of_1_100_are_proved_for_any_size_in_between() -> None:
    tree = tree_of(1_100)
    chosen = random.Random(2)
    for index in range(1_100):
        check_inclusion(tree, index, 1_100, tree.root)
        size = chosen.randint(index + 1, 1_100)
        assert tree.root_at(size) == batch_root(LEAVES[:size])
        assert check_inclusion(tree, index, size, tree.root_at(size)) == inclusion_proof(LEAVES[:size], index, size)
        assert check_consistency(tree, index + 1, size, tree.root_at) == consistency_proof(
            LEAVES[:size], index + 1, size
        )
    assert tree.root_at(0) == root_of([])


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 66_000])
def test_proofs_through_three_levels_of_tiles_verify(size: int) -> None:
    tree = tree_of(size)
    chosen = random.Random(size)
    for _ in range(60):
        check_inclusion(tree, chosen.randrange(size), size, tree.root)
        check_consistency(tree, chosen.randint(1, size), size, tree.root_at)
    for old in (1, 255, 256, 257, 65_535):
        check_consistency(tree, old, size, tree.root_at)


def test_every_mutation_of_a_proof_is_refused() -> None:
    tree = tree_of(1_100)
    refused = 0
    for index in (0, 255, 256, 1_023, 1_024, 1_099):
        good = tree.inclusion_proof(index)
        bad = [good[:-1], good[1:], [*good, good[0]], good[::-1], [*good[1:], good[0]]]
        bad += [[*good[:at], bytes([one[0] ^ 1]) + one[1:], *good[at + 1 :]] for at, one in enumerate(good)]
        for proof in bad:
            with pytest.raises(BadProof):
                verify_inclusion(leaf=LEAVES[index], index=index, size=1_100, proof=proof, root=tree.root)
        for other in {index + 1, index - 1, index ^ 256} & set(range(1_100)):
            with pytest.raises(BadProof):
                verify_inclusion(leaf=LEAVES[index], index=other, size=1_100, proof=good, root=tree.root)
        refused += len(bad)
    for old in (1, 255, 257, 1_023, 1_099):
        good = tree.consistency_proof(old)
        bad = [good[:-1], [*good, good[0]]]
        bad += [[*good[:at], bytes([one[0] ^ 1]) + one[1:], *good[at + 1 :]] for at, one in enumerate(good)]
        roots = {"old_root": tree.root_at(old), "new_root": tree.root}
        for proof in bad:
            with pytest.raises(BadProof):
                verify_consistency(old_size=old, new_size=1_100, proof=proof, **roots)
        refused += len(bad)
    assert refused > 100


def every_use(tree: TileTree) -> None:
    """Read every tile and bundle of the tree."""
    for index in range(0, tree.size, 97):
        tree.inclusion_proof(index)
    for bundle in bundles_of(tree.size):
        assert tree.entries(bundle.index) == ENTRIES[bundle.index * 256 :][: bundle.width]


@pytest.mark.parametrize("size", [1, 255, 256, 257, 700])
def test_a_changed_shortened_lengthened_or_missing_file_is_refused(size: int) -> None:
    files = files_of(size)
    every_use(tree_of(size, files))
    for path, content in files.items():
        middle = len(content) // 2
        for wrong in (
            content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
            content[:-1],
            content[:-32],
            content + b"\0",
            content + content[:32],
            b"",
        ):
            with pytest.raises(BadTile):
                every_use(tree_of(size, files | {path: wrong}))
        with pytest.raises(MissingTile, match=path.replace(".", r"\.")):
            every_use(tree_of(size, {other: files[other] for other in files if other != path}))


def test_two_good_tiles_in_each_others_place_are_refused() -> None:
    files = files_of(700)
    for kind in ("0", "entries"):
        first, second = f"tile/{kind}/000", f"tile/{kind}/001"
        with pytest.raises(BadTile):
            every_use(tree_of(700, files | {first: files[second], second: files[first]}))


def test_a_hash_is_checked_before_it_is_handed_out() -> None:
    files = files_of(700)
    files["tile/0/001"] = encode_tile([LEAVES[0], *LEAVES[257:512]])
    tree = tree_of(700, files)
    assert tree.inclusion_proof(0)
    for index in (256, 300):
        with pytest.raises(BadTile, match="tile/0/001"):
            tree.leaf_hash(index)
        with pytest.raises(BadTile, match="tile/0/001"):
            tree.inclusion_proof(index)


@pytest.mark.parametrize("size", [1, 200, 300, 512])
def test_another_root_and_another_size_are_refused_at_once(size: int) -> None:
    files = files_of(600)
    for partial in tiles_of(size):
        files[partial.path] = files_of(size)[partial.path]
    for other in {size - 1, size + 1}:
        with pytest.raises((BadTile, MissingTile)):
            TileTree(other, batch_root(LEAVES[:size]), files.get)
    with pytest.raises(BadTile):
        TileTree(size, bytes(32), files.get)
    with pytest.raises(WrongHashSize):
        TileTree(size, b"", files.get)


def test_where_a_partial_tile_is_gone_the_full_one_serves() -> None:
    later = {path: content for path, content in files_of(600).items() if ".p/" not in path}
    tree = tree_of(400, later | {"tile/1/000.p/1": files_of(400)["tile/1/000.p/1"]})
    every_use(tree)
    for index in range(400):
        check_inclusion(tree, index, 400, tree.root)
    later["tile/0/001"] = later["tile/0/001"][:-32]
    with pytest.raises(BadTile, match="tile/0/001"):
        tree_of(400, later | {"tile/1/000.p/1": files_of(400)["tile/1/000.p/1"]})


def test_what_lies_outside_the_tree_is_refused() -> None:
    tree = tree_of(300)
    for index, size in ((300, 300), (-1, 300), (0, 301), (5, 5), (0, 0)):
        with pytest.raises(OutOfRange):
            tree.inclusion_proof(index, size)
    for old, new in ((0, 300), (301, 300), (1, 301), (-1, 5)):
        with pytest.raises(OutOfRange):
            tree.consistency_proof(old, new)
    for index in (-1, 2):
        with pytest.raises(OutOfRange):
            tree.entries(index)
    with pytest.raises(OutOfRange):
        tree.root_at(301)
    with pytest.raises(OutOfRange):
        TileTree(-1, bytes(32), NOTHING.get)


def test_the_empty_tree_needs_no_file() -> None:
    tree = TileTree(0, root_of([]), NOTHING.get)
    assert tree.root_at(0) == root_of([])
    with pytest.raises(BadTile):
        TileTree(0, bytes(32), NOTHING.get)


def test_a_tile_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    files, asked = files_of(1_000), []

    def read(path: str) -> bytes | None:
        asked.append(path)
        return files.get(path)

    tree = TileTree(1_000, batch_root(LEAVES[:1_000]), read)
    for index in range(1_000):
        tree.inclusion_proof(index)
    assert sorted(asked) == sorted(tile.path for tile in tiles_of(1_000))
    monkeypatch.setattr("meterproof_proofs.tile_proofs._KEPT_TILES", 1)
    asked.clear()
    tree = TileTree(1_000, batch_root(LEAVES[:1_000]), read)
    for index in (0, 1, 256, 0):
        tree.leaf_hash(index)
    assert asked[2:] == [Tile(0, 0).path, Tile(0, 1).path, Tile(0, 0).path]
    assert Bundle(3, 232).path in files
