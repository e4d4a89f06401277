"""A tree that is followed tile by tile is the tree: its frontier and the roots of its full tiles, for any split."""

import random

import pytest

from meterproof_proofs.derived_tree import DerivedTree
from meterproof_proofs.frontier import Frontier, batch_root
from meterproof_proofs.tree_hashing import leaf_hashes

LEAVES = leaf_hashes([f"entry {number}".encode() for number in range(2_000)])


@pytest.mark.parametrize("seed", range(8))
def test_for_any_split_it_is_the_tree(seed: int) -> None:
    draw = random.Random(seed)
    tree, frontier, roots, at = DerivedTree(), Frontier(), list[bytes](), 0
    while at < len(LEAVES):
        count = draw.choice((0, 1, draw.randrange(300), 256, 700))
        part = LEAVES[at : at + count]
        roots += tree.extend(part)
        frontier.extend(part)
        at += count
        assert (tree.size, tree.hashes) == (frontier.size, frontier.hashes)
        assert tree.frontier().root() == frontier.root()
        if draw.random() < 0.3:
            tree = DerivedTree.of(tree.size, tree.hashes)
    assert roots == [batch_root(LEAVES[at : at + 256]) for at in range(0, len(LEAVES) - 255, 256)]
