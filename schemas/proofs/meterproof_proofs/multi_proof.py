"""One proof for many entries of one tree: their paths with every shared node left out.

The split is RFC 6962's (section 2.1): at the largest power of two below the size. Walking the tree from the left, a
subtree without any of the entries gives its root to the proof; one with some is gone into; an entry gives nothing,
since the verifier has it. So every hash that the root needs and the verifier cannot compute is there exactly once, in
order.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from meterproof_proofs.errors import BadProof
from meterproof_proofs.tree import check_hash, check_hashes, check_range, node_hash

SubtreeRoot = Callable[[int, int], bytes]
"""The root over the entries from the first number up to, without, the second, as a tree of its own."""


def inclusion_multi_proof(indexes: Sequence[int], size: int, subtree_root: SubtreeRoot) -> list[bytes]:
    """Return the hashes that, with the leaf hashes at `indexes` (ascending), give the root of the tree of `size`.

    Raises:
        OutOfRange: an index is not below `size`, or they do not ascend.
    """
    _check_indexes(indexes, size)
    proof: list[bytes] = []

    def walk(begin: int, end: int, low: int, high: int) -> None:
        if low == high:
            proof.append(subtree_root(begin, end))
        elif end - begin > 1:
            middle = begin + _split(end - begin)
            between = bisect_left(indexes, middle, low, high)
            walk(begin, middle, low, between)
            walk(middle, end, between, high)

    if size:
        walk(0, size, 0, len(indexes))
    return proof


def root_of_multi_proof(leaves: Mapping[int, bytes], size: int, proof: Sequence[bytes]) -> bytes:
    """Return the root that leaf hashes at their indexes and a proof give for a tree of `size`; compare it.

    Raises:
        OutOfRange: an index is not below `size`, or there is none.
        WrongHashSize: a hash is not 32 bytes long.
        BadProof: the proof has too few or too many hashes.
    """
    indexes = sorted(leaves)
    check_range("size", size, 1, size)
    _check_indexes(indexes, size)
    for index in indexes:
        check_hash(leaves[index], f"leaf hash {index}")
    check_hashes(proof, "proof hash")
    claim = f"inclusion of {len(leaves)} entries in {size}"
    left = iter(proof)

    def walk(begin: int, end: int, low: int, high: int) -> bytes:
        if low == high:
            given = next(left, None)
            if given is None:
                raise BadProof(claim, "the proof has too few hashes")
            return given
        if end - begin == 1:
            return leaves[begin]
        middle = begin + _split(end - begin)
        between = bisect_left(indexes, middle, low, high)
        return node_hash(walk(begin, middle, low, between), walk(middle, end, between, high))

    root = walk(0, size, 0, len(indexes))
    if next(left, None) is not None:
        raise BadProof(claim, "the proof has too many hashes")
    return root


def _split(count: int) -> int:
    """The largest power of two below a count of two or more."""
    return 1 << (count - 1).bit_length() - 1


def _check_indexes(indexes: Sequence[int], size: int) -> None:
    for index in indexes:
        check_range("index", index, 0, size - 1)
    for before, index in pairwise(indexes):
        check_range("index", index, before + 1, size - 1)
