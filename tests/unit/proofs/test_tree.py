"""Trees and proofs against published values, against the definition, and against every kind of forgery."""

import base64
import itertools
from collections.abc import Callable, Iterator
from typing import ParamSpec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_proofs import (
    EMPTY_ROOT,
    MAX_TREE_SIZE,
    BadProof,
    OutOfRange,
    ProofError,
    WrongHashSize,
    batch_root,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    leaf_hashes,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from tests.unit.proofs import definition
from tests.unit.proofs.vectors import (
    CONSISTENCY_PREFIXES,
    EIGHT_ENTRIES,
    EIGHT_ENTRIES_ROOTS,
    INCLUSION_PREFIXES,
    TESSERA_ENTRIES,
    TESSERA_ROOTS,
)

P = ParamSpec("P")

LARGEST = 1_100
ENTRIES = [index.to_bytes(2, "big") for index in range(LARGEST)]
LEAVES = leaf_hashes(ENTRIES)
SIZES = st.integers(1, LARGEST)


def accepts(verify: Callable[P, None], *arguments: P.args, **claim: P.kwargs) -> bool:
    """Tell whether a verification passes; only the package's own errors count as a refusal."""
    try:
        verify(*arguments, **claim)
    except ProofError:
        return False
    return True


def forgeries(proof: list[bytes]) -> Iterator[list[bytes]]:
    """Yield proofs near this one: each bit of one byte per hash flipped, hashes dropped, doubled, swapped, added."""
    for index, one in enumerate(proof):
        place = index % 32
        for bit in range(8):
            flipped = one[:place] + bytes([one[place] ^ 1 << bit]) + one[place + 1 :]
            yield [*proof[:index], flipped, *proof[index + 1 :]]
        yield [*proof[:index], one[:-1], *proof[index + 1 :]]
        yield [*proof[:index], one + b"\x00", *proof[index + 1 :]]
        yield [*proof[:index], b"", *proof[index + 1 :]]
        yield [*proof[:index], *proof[index + 1 :]]
        yield [*proof[:index], one, *proof[index:]]
    for first, second in itertools.combinations(range(len(proof)), 2):
        swapped = proof.copy()
        swapped[first], swapped[second] = swapped[second], swapped[first]
        yield swapped
    for extra in (b"", bytes(32), EMPTY_ROOT, LEAVES[0]):
        yield [extra, *proof]
        yield [*proof, extra]


def test_published_roots() -> None:
    assert [root_of(EIGHT_ENTRIES[:size]) for size in range(9)] == list(EIGHT_ENTRIES_ROOTS)


def test_published_roots_of_tessera() -> None:
    roots = {size: base64.b64encode(root_of(TESSERA_ENTRIES[:size])).decode() for size in TESSERA_ROOTS}
    assert roots == TESSERA_ROOTS


@pytest.mark.parametrize(("index", "size"), INCLUSION_PREFIXES)
def test_published_inclusion_proofs(index: int, size: int) -> None:
    found = inclusion_proof(leaf_hashes(EIGHT_ENTRIES), index, size)
    assert tuple(one[:8].hex() for one in found) == INCLUSION_PREFIXES[index, size]


@pytest.mark.parametrize(("old_size", "new_size"), CONSISTENCY_PREFIXES)
def test_published_consistency_proofs(old_size: int, new_size: int) -> None:
    found = consistency_proof(leaf_hashes(EIGHT_ENTRIES), old_size, new_size)
    assert tuple(one[:8].hex() for one in found) == CONSISTENCY_PREFIXES[old_size, new_size]


def test_hashes_of_leaves_and_nodes_differ_by_their_prefix() -> None:
    left, right = LEAVES[:2]
    assert node_hash(left, right) != leaf_hash(left + right)
    assert leaf_hashes([b"", b"a"]) == [leaf_hash(b""), leaf_hash(b"a")]


def test_an_odd_last_node_is_not_doubled() -> None:
    assert root_of(ENTRIES[:3]) != root_of([*ENTRIES[:3], ENTRIES[2]])


@given(size=st.integers(0, LARGEST))
@settings(max_examples=60)
def test_root_is_that_of_the_definition(size: int) -> None:
    assert batch_root(LEAVES[:size]) == root_of(ENTRIES[:size]) == definition.root(ENTRIES[:size])


def test_small_proofs_are_those_of_the_definition_and_verify() -> None:
    for size in range(1, 41):
        root = root_of(ENTRIES[:size])
        for index in range(size):
            proof = inclusion_proof(LEAVES, index, size)
            assert proof == definition.path(index, ENTRIES[:size])
            verify_inclusion(leaf=LEAVES[index], index=index, size=size, proof=proof, root=root)
        for old_size in range(1, size + 1):
            proof = consistency_proof(LEAVES, old_size, size)
            assert proof == definition.proof(old_size, ENTRIES[:size])
            old_root = root_of(ENTRIES[:old_size])
            verify_consistency(old_size=old_size, old_root=old_root, new_size=size, new_root=root, proof=proof)


@given(size=SIZES, data=st.data())
@settings(max_examples=60)
def test_inclusion_is_proved_and_no_forgery_is(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    root = root_of(ENTRIES[:size])
    proof = inclusion_proof(LEAVES, index, size)
    assert proof == definition.path(index, ENTRIES[:size])
    verify_inclusion(leaf=LEAVES[index], index=index, size=size, proof=proof, root=root)
    for forged in forgeries(proof):
        assert not accepts(verify_inclusion, leaf=LEAVES[index], index=index, size=size, proof=forged, root=root)


@given(size=SIZES, data=st.data())
@settings(max_examples=60)
def test_consistency_is_proved_and_no_forgery_is(size: int, data: st.DataObject) -> None:
    old_size = data.draw(st.integers(1, size))
    old_root, root = root_of(ENTRIES[:old_size]), root_of(ENTRIES[:size])
    proof = consistency_proof(LEAVES, old_size, size)
    assert proof == definition.proof(old_size, ENTRIES[:size])
    verify_consistency(old_size=old_size, old_root=old_root, new_size=size, new_root=root, proof=proof)
    for forged in forgeries(proof):
        assert not accepts(
            verify_consistency, old_size=old_size, old_root=old_root, new_size=size, new_root=root, proof=forged
        )


def test_inclusion_of_another_leaf_or_under_another_root_is_refused() -> None:
    for size in range(1, 20):
        root = root_of(ENTRIES[:size])
        for index in range(size):
            proof = inclusion_proof(LEAVES, index, size)
            wrong = [(LEAVES[other], root) for other in range(20) if other != index]
            wrong += [(LEAVES[index], root_of(ENTRIES[:other])) for other in range(20) if other != size]
            for leaf, other_root in wrong:
                with pytest.raises(BadProof):
                    verify_inclusion(leaf=leaf, index=index, size=size, proof=proof, root=other_root)


def test_a_wrong_index_or_size_is_refused_unless_the_path_has_the_same_shape() -> None:
    """A root does not commit to its size: paths of one shape cannot be told apart, so the size must be signed."""
    for size in range(1, 14):
        root = root_of(ENTRIES[:size])
        for index in range(size):
            proof = inclusion_proof(LEAVES, index, size)
            for other_index, other_size in itertools.product(range(-1, 28), range(-1, 28)):
                same_shape = 0 <= other_index < other_size and (
                    definition.path_sides(other_index, other_size) == definition.path_sides(index, size)
                )
                accepted = accepts(
                    verify_inclusion, leaf=LEAVES[index], index=other_index, size=other_size, proof=proof, root=root
                )
                assert accepted == same_shape
                assert not accepted or other_size != size or other_index == index


def test_wrong_sizes_of_a_consistency_proof_are_refused_unless_it_has_the_same_shape() -> None:
    def shape(old_size: int, new_size: int) -> tuple[str, bool, bool]:
        return (
            definition.proof_sides(old_size, new_size),
            old_size & (old_size - 1) == 0,
            old_size == new_size,
        )

    for new_size in range(1, 14):
        for old_size in range(1, new_size + 1):
            proof = consistency_proof(LEAVES, old_size, new_size)
            old_root, new_root = root_of(ENTRIES[:old_size]), root_of(ENTRIES[:new_size])
            for other_old, other_new in itertools.product(range(-1, 28), range(-1, 28)):
                same_shape = 0 < other_old <= other_new and (
                    shape(other_old, other_new) == shape(old_size, new_size)
                    or (old_size == new_size and other_old == other_new)
                )
                accepted = accepts(
                    verify_consistency,
                    old_size=other_old,
                    old_root=old_root,
                    new_size=other_new,
                    new_root=new_root,
                    proof=proof,
                )
                assert accepted == same_shape, (old_size, new_size, other_old, other_new)


def test_consistency_of_other_roots_is_refused() -> None:
    for new_size in range(2, 20):
        for old_size in range(1, new_size):
            proof = consistency_proof(LEAVES, old_size, new_size)
            roots = old_root, new_root = root_of(ENTRIES[:old_size]), root_of(ENTRIES[:new_size])
            candidates = [*roots, EMPTY_ROOT, bytes(32), LEAVES[-1], b"", old_root[:-1], new_root + b"\x00"]
            for pair in itertools.product(candidates, candidates):
                assert accepts(
                    verify_consistency,
                    old_size=old_size,
                    old_root=pair[0],
                    new_size=new_size,
                    new_root=pair[1],
                    proof=proof,
                ) == (pair == roots)


def test_one_size_has_one_root_and_needs_no_proof() -> None:
    root, other = root_of(ENTRIES[:5]), root_of(ENTRIES[:6])
    verify_consistency(old_size=5, old_root=root, new_size=5, new_root=root, proof=[])
    with pytest.raises(BadProof, match="two roots for one size"):
        verify_consistency(old_size=5, old_root=root, new_size=5, new_root=other, proof=[])
    with pytest.raises(BadProof, match="too many"):
        verify_consistency(old_size=5, old_root=root, new_size=5, new_root=root, proof=[root])


def test_hashes_of_no_length_are_refused_though_they_compare_equal() -> None:
    with pytest.raises(WrongHashSize) as refused:
        verify_inclusion(leaf=b"", index=0, size=1, proof=[], root=b"")
    assert (refused.value.what, refused.value.found_bytes) == ("leaf hash", 0)
    with pytest.raises(WrongHashSize):
        verify_consistency(old_size=1, old_root=b"same", new_size=1, new_root=b"same", proof=[])


@pytest.mark.parametrize("wrong", [b"", bytes(31), bytes(33)])
def test_a_proof_hash_of_wrong_length_is_named(wrong: bytes) -> None:
    root, old_root = root_of(ENTRIES[:8]), root_of(ENTRIES[:6])
    path, proof = inclusion_proof(LEAVES, 5, 8), consistency_proof(LEAVES, 6, 8)
    with pytest.raises(WrongHashSize, match=f"proof hash 1 is {len(wrong)} bytes long"):
        verify_inclusion(leaf=LEAVES[5], index=5, size=8, proof=[path[0], wrong, path[2]], root=root)
    with pytest.raises(WrongHashSize, match=f"proof hash 1 is {len(wrong)} bytes long"):
        verify_consistency(old_size=6, old_root=old_root, new_size=8, new_root=root, proof=[proof[0], wrong, proof[2]])


def test_nothing_is_proved_from_size_zero_or_beyond_the_largest() -> None:
    with pytest.raises(BadProof, match="old size must be from 1"):
        verify_consistency(old_size=0, old_root=EMPTY_ROOT, new_size=1, new_root=LEAVES[0], proof=[])
    with pytest.raises(BadProof):
        verify_consistency(old_size=0, old_root=EMPTY_ROOT, new_size=0, new_root=EMPTY_ROOT, proof=[])
    with pytest.raises(BadProof):
        verify_inclusion(leaf=EMPTY_ROOT, index=0, size=0, proof=[], root=EMPTY_ROOT)
    huge = MAX_TREE_SIZE + 1
    with pytest.raises(BadProof):
        verify_inclusion(leaf=LEAVES[0], index=0, size=huge, proof=LEAVES[:63], root=LEAVES[0])


def test_proofs_are_made_only_inside_the_tree() -> None:
    for index, size in ((0, 0), (1, 1), (-1, 1), (0, -1), (0, 4)):
        with pytest.raises(OutOfRange):
            inclusion_proof(LEAVES[:3], index, size)
    for old_size, new_size in ((0, 3), (3, 2), (1, 4), (-1, 2), (0, 0)):
        with pytest.raises(OutOfRange):
            consistency_proof(LEAVES[:3], old_size, new_size)


@pytest.mark.parametrize(
    "make",
    [
        batch_root,
        lambda leaves: inclusion_proof(leaves, 0, 2),
        lambda leaves: consistency_proof(leaves, 1, 2),
    ],
)
def test_leaf_hashes_of_wrong_length_are_named(make: Callable[[list[bytes]], object]) -> None:
    with pytest.raises(WrongHashSize, match="leaf hash 1 is 31 bytes long"):
        make([LEAVES[0], LEAVES[1][:-1]])
