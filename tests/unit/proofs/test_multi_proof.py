"""One proof for many entries: for every set of entries of every small tree, it gives the root and nothing less does."""

import itertools
import random

import pytest

from meterproof_proofs import BadProof, OutOfRange, TileEdge, TileTree, leaf_hashes, root_of
from meterproof_proofs.multi_proof import inclusion_multi_proof, root_of_multi_proof

ENTRIES = [f"entry {number}".encode() for number in range(1_000)]
LEAVES = leaf_hashes(ENTRIES)


def subtree(begin: int, end: int) -> bytes:
    return root_of(ENTRIES[begin:end])


def test_every_set_of_every_small_tree() -> None:
    for size in range(1, 10):
        for count in range(size + 1):
            for indexes in itertools.combinations(range(size), count):
                proof = inclusion_multi_proof(indexes, size, subtree)
                assert root_of_multi_proof({i: LEAVES[i] for i in indexes}, size, proof) == subtree(0, size)
                assert len(proof) <= size - count


def test_from_tiles_it_is_the_same_and_shorter_than_single_proofs() -> None:
    edge, files = TileEdge(), {}
    for tile, content in [*edge.extend(LEAVES), *edge.partials()]:
        files[tile.path] = content
    tree = TileTree(edge.size, edge.root(), files.get)
    indexes = sorted(random.Random(1).sample(range(1_000), 100))
    proof = tree.multi_proof(indexes)
    assert proof == inclusion_multi_proof(indexes, 1_000, subtree)
    assert len(proof) < sum(len(tree.inclusion_proof(index)) for index in indexes) / 2
    assert root_of_multi_proof({i: LEAVES[i] for i in indexes}, 1_000, proof) == tree.root


def test_what_is_changed_does_not_give_the_root() -> None:
    indexes = [3, 4, 700]
    proof, leaves = inclusion_multi_proof(indexes, 1_000, subtree), {i: LEAVES[i] for i in indexes}
    root = subtree(0, 1_000)
    for at in range(len(proof)):
        changed = [*proof[:at], bytes(32), *proof[at + 1 :]]
        assert root_of_multi_proof(leaves, 1_000, changed) != root
    assert root_of_multi_proof(leaves | {4: LEAVES[5]}, 1_000, proof) != root
    for wrong in (proof[:-1], [*proof, bytes(32)]):
        with pytest.raises(BadProof):
            root_of_multi_proof(leaves, 1_000, wrong)
    for bad in ([1_000], [-1], [2, 2], [3, 2]):
        with pytest.raises(OutOfRange):
            inclusion_multi_proof(bad, 1_000, subtree)
    with pytest.raises(OutOfRange):
        root_of_multi_proof({}, 0, [])
