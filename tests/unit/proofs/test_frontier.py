"""A frontier has the root of all its leaves, whatever way they came in."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_proofs import (
    EMPTY_ROOT,
    MAX_TREE_SIZE,
    Frontier,
    MalformedFrontier,
    OutOfRange,
    WrongHashSize,
    batch_root,
    leaf_hashes,
)
from tests.unit.proofs import definition
from tests.unit.proofs.vectors import EIGHT_ENTRIES, EIGHT_ENTRIES_ROOTS

LARGEST = 1_100
ENTRIES = [index.to_bytes(2, "big") for index in range(LARGEST)]
LEAVES = leaf_hashes(ENTRIES)


def frontier_of(leaves: list[bytes]) -> Frontier:
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier


def subtrees(size: int) -> list[bytes]:
    """Return what the definition says the frontier holds: the root of each complete subtree, largest first."""
    roots, start = [], 0
    for bit in reversed(range(size.bit_length())):
        if size >> bit & 1:
            roots.append(definition.root(ENTRIES[start : start + (1 << bit)]))
            start += 1 << bit
    return roots


def test_published_roots() -> None:
    frontier = Frontier()
    roots = [frontier.root()]
    for leaf in leaf_hashes(EIGHT_ENTRIES):
        frontier.append_leaf_hash(leaf)
        roots.append(frontier.root())
    assert roots == list(EIGHT_ENTRIES_ROOTS)


def test_root_of_every_size_is_that_of_the_definition() -> None:
    frontier = Frontier()
    for size in range(LARGEST + 1):
        assert frontier.size == size
        assert frontier.root() == definition.root(ENTRIES[:size])
        if size < LARGEST:
            frontier.append_leaf_hash(LEAVES[size])


@given(size=st.integers(0, LARGEST))
@settings(max_examples=60)
def test_hashes_are_the_complete_subtrees(size: int) -> None:
    frontier = frontier_of(LEAVES[:size])
    assert frontier.hashes == subtrees(size)
    assert Frontier.of(size, frontier.hashes) == frontier


@given(st.lists(st.integers(0, 150), max_size=14))
@settings(max_examples=100)
def test_any_split_into_batches_gives_the_same_frontier(batches: list[int]) -> None:
    frontier, start = Frontier(), 0
    for count in batches:
        frontier.extend(LEAVES[start : start + count])
        start = min(start + count, LARGEST)
        assert frontier.root() == batch_root(LEAVES[:start])
    assert frontier == frontier_of(LEAVES[:start])


@given(st.lists(st.integers(1, 10_000), min_size=7, max_size=15))
@settings(max_examples=4)
def test_splits_across_a_large_power_of_two(batches: list[int]) -> None:
    leaves = leaf_hashes(index.to_bytes(4, "big") for index in range(sum(batches) + 65_400))
    frontier, start = frontier_of(leaves[:65_400]), 65_400
    for count in batches:
        frontier.extend(tuple(leaves[start : start + count]))
        start += count
    assert (frontier.size, frontier.root()) == (len(leaves), batch_root(leaves))


def test_a_frontier_brought_back_grows_like_the_one_it_was() -> None:
    for size in range(70):
        frontier = frontier_of(LEAVES[:size])
        again = Frontier.of(frontier.size, frontier.hashes)
        again.extend(LEAVES[size:100])
        assert again == frontier_of(LEAVES[:100])


def test_a_copy_grows_on_its_own_and_so_do_the_hashes_handed_out() -> None:
    frontier = frontier_of(LEAVES[:5])
    twin = frontier.copy()
    assert twin == frontier
    twin.append_leaf_hash(LEAVES[5])
    frontier.hashes.clear()
    assert twin != frontier
    assert frontier == frontier_of(LEAVES[:5])


def test_extending_leaves_the_argument_alone_and_nothing_changes_nothing() -> None:
    leaves = LEAVES[:7]
    frontier = frontier_of(leaves)
    frontier.extend([])
    assert leaves == LEAVES[:7]
    assert frontier == frontier_of(LEAVES[:7])


def test_the_empty_tree() -> None:
    assert Frontier().root() == batch_root([]) == EMPTY_ROOT
    assert Frontier.of(0, []) == Frontier()
    assert Frontier() != 0


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_leaf_hashes_may_come_one_behind_the_other(count: int) -> None:
    frontier = frontier_of(LEAVES[:5])
    grown = frontier.extended(b"".join(LEAVES[5 : 5 + count]))
    frontier.extend(b"".join(LEAVES[5 : 5 + count]))
    assert frontier == grown == frontier_of(LEAVES[: 5 + count])
    with pytest.raises(WrongHashSize, match="last leaf hash is 31 bytes"):
        frontier.extend(LEAVES[0] + LEAVES[1][1:])
    assert frontier == grown


@pytest.mark.parametrize("leaf", [b"", bytes(31), bytes(33)])
def test_a_leaf_hash_of_wrong_length_appends_nothing(leaf: bytes) -> None:
    frontier = frontier_of(LEAVES[:3])
    with pytest.raises(WrongHashSize, match="leaf hash 2"):
        frontier.extend([*LEAVES[3:5], leaf])
    with pytest.raises(WrongHashSize):
        frontier.append_leaf_hash(leaf)
    assert frontier == frontier_of(LEAVES[:3])


def test_state_that_fits_no_tree_is_refused() -> None:
    hashes = frontier_of(LEAVES[:7]).hashes
    with pytest.raises(MalformedFrontier) as refused:
        Frontier.of(7, hashes[:2])
    assert (refused.value.size, refused.value.expected_hashes, refused.value.found_hashes) == (7, 3, 2)
    with pytest.raises(MalformedFrontier):
        Frontier.of(8, hashes)
    with pytest.raises(MalformedFrontier):
        Frontier.of(0, hashes[:1])
    with pytest.raises(WrongHashSize):
        Frontier.of(7, [*hashes[:2], hashes[2][:31]])
    with pytest.raises(OutOfRange):
        Frontier.of(-1, hashes[:1])
    with pytest.raises(OutOfRange):
        Frontier.of(MAX_TREE_SIZE + 1, hashes[:1])


def test_a_tree_never_outgrows_the_largest_size() -> None:
    full = Frontier.of(MAX_TREE_SIZE, LEAVES[:63])
    with pytest.raises(OutOfRange):
        full.append_leaf_hash(LEAVES[0])
    assert full.size == MAX_TREE_SIZE


def test_it_can_be_shown_and_pickled_but_not_be_a_key() -> None:
    frontier = frontier_of(LEAVES[:3])
    assert repr(frontier) == f"Frontier(size=3, root={frontier.root().hex()})"
    assert pickle.loads(pickle.dumps(frontier)) == frontier  # noqa: S301  # its own bytes
    with pytest.raises(TypeError):
        hash(frontier)


def test_extended_is_a_grown_copy_and_leaves_the_tree_as_it_was() -> None:
    for size in range(40):
        frontier = Frontier()
        frontier.extend(LEAVES[:size])
        for count in (0, 1, 2, 9, 17):
            grown = frontier.extended(LEAVES[size : size + count])
            assert grown.root() == batch_root(LEAVES[: size + count])
            assert grown.size == size + count
        assert frontier.root() == batch_root(LEAVES[:size])
