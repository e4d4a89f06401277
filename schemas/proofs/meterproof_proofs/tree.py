"""RFC 6962 Merkle trees: hashes, roots, proofs and their verification.

Hashing and proof generation follow RFC 6962 section 2.1, verification follows RFC 9162 sections 2.1.3.2 and 2.1.4.2.
A leaf is SHA-256(0x00 || entry), an inner node SHA-256(0x01 || left || right); the split is at the largest power of
two below the size, which is the same as pairing each level from left to right and moving an unpaired last node up
unchanged: nothing is duplicated, nothing padded. All hashes are 32 raw bytes; every other length is refused first.

The functions that make proofs hold the whole list of leaf hashes; `frontier` keeps a growing tree in a few hundred
bytes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from meterproof_proofs.errors import BadProof, OutOfRange, WrongHashSize
from meterproof_proofs.tree_hashing import extended, joined, leaf_hashes, pair_hashes

HASH_BYTES: Final = 32
"""Length of every hash in a tree, in bytes."""

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""Root of the tree without entries: SHA-256 of nothing."""

MAX_TREE_SIZE: Final = 2**63 - 1
"""Largest tree size accepted anywhere: what a signed 64-bit integer holds."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry as a leaf: SHA-256(0x00 || entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node over its children: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def level_above(nodes: Sequence[bytes]) -> list[bytes]:
    """Return the level above a whole level of nodes: the pairs' hashes, and an unpaired last node as it is."""
    above = pair_hashes(nodes)
    if len(nodes) & 1:
        above.append(nodes[-1])
    return above


def check_range(what: str, value: int, lowest: int, highest: int) -> None:
    """Refuse a number that is not from `lowest` to `highest`, both included.

    Raises:
        OutOfRange: naming it `what`.
    """
    if not lowest <= value <= highest:
        raise OutOfRange(what, value, lowest, highest)


def check_hash(one: bytes, what: str) -> None:
    """Refuse a hash that is not 32 bytes long.

    Raises:
        WrongHashSize: naming it `what`.
    """
    if len(one) != HASH_BYTES:
        raise WrongHashSize(what, len(one))


def check_hashes(hashes: Sequence[bytes], what: str) -> None:
    """Refuse the first of `hashes` that is not 32 bytes long.

    Raises:
        WrongHashSize: naming it `what` and its index.
    """
    if set(map(len, hashes)) <= {HASH_BYTES}:
        return
    for index, one in enumerate(hashes):
        check_hash(one, f"{what} {index}")


def root_of(entries: Iterable[bytes]) -> bytes:
    """Return the root of the tree over `entries`; `EMPTY_ROOT` for none."""
    return joined(extended(0, (), leaf_hashes(entries)))


def inclusion_proof(leaf_hashes: Sequence[bytes], index: int, size: int) -> list[bytes]:
    """Return PATH(index, D[size]) of RFC 6962 section 2.1.1: the sibling hashes from the leaf up to the root.

    Takes the first `size` of `leaf_hashes`; the proof holds for the tree of exactly that size. Empty for a tree of one.

    Raises:
        OutOfRange: `size` exceeds the leaf hashes, or `index` is not below `size`.
        WrongHashSize: a leaf hash is not 32 bytes long.
    """
    check_range("size", size, 0, len(leaf_hashes))
    check_range("index", index, 0, size - 1)
    check_hashes(leaf_hashes, "leaf hash")
    nodes, position, proof = leaf_hashes[:size], index, []
    while len(nodes) > 1:
        sibling = position ^ 1
        if sibling < len(nodes):
            proof.append(nodes[sibling])
        nodes = level_above(nodes)
        position >>= 1
    return proof


def consistency_proof(leaf_hashes: Sequence[bytes], old_size: int, new_size: int) -> list[bytes]:
    """Return PROOF(old_size, D[new_size]) of RFC 6962 section 2.1.2: what shows that the tree only grew.

    Empty when both sizes are equal. There is no proof from size 0: everything extends the empty tree.

    Raises:
        OutOfRange: `new_size` exceeds the leaf hashes, or `old_size` is not from 1 to `new_size`.
        WrongHashSize: a leaf hash is not 32 bytes long.
    """
    check_range("new_size", new_size, 0, len(leaf_hashes))
    check_range("old_size", old_size, 1, new_size)
    check_hashes(leaf_hashes, "leaf hash")
    if old_size == new_size:
        return []
    # Climb to the largest complete subtree that ends at the old size. It opens the proof, unless it is the old tree
    # itself, whose root the verifier knows. From there on the proof is that node's own path to the new root.
    nodes, position, proof = leaf_hashes[:new_size], old_size - 1, []
    while position & 1:
        nodes, position = level_above(nodes), position >> 1
    if position:
        proof.append(nodes[position])
    while len(nodes) > 1:
        sibling = position ^ 1
        if sibling < len(nodes):
            proof.append(nodes[sibling])
        nodes, position = level_above(nodes), position >> 1
    return proof


def verify_inclusion(*, leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Return if `proof` shows that the leaf hash `leaf` is at `index` of the tree of `size` with `root`; raise if not.

    RFC 9162 section 2.1.3.2, after the lengths of all hashes were checked. A root does not commit to its size, so take
    both from one signed checkpoint: a proof also holds for other sizes at which the path has the same shape.

    Raises:
        WrongHashSize: the leaf hash, the root or a hash of the proof is not 32 bytes long.
        BadProof: anything else that does not hold.
    """
    claim = f"inclusion of {index} in {size}"
    check_hash(leaf, "leaf hash")
    check_hash(root, "root")
    check_hashes(proof, "proof hash")
    if not 0 <= index < size <= MAX_TREE_SIZE:
        raise BadProof(claim, "the index does not lie in the tree")
    computed = leaf
    for sibling, stands_left in _siblings(proof, index, size - 1, claim):
        computed = node_hash(sibling, computed) if stands_left else node_hash(computed, sibling)
    if computed != root:
        raise BadProof(claim, "the proof leads to another root")


def verify_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Return if `proof` shows that the tree of `new_size` extends the tree of `old_size`; raise if it does not.

    RFC 9162 section 2.1.4.2, after the lengths of all hashes were checked. From size 0 nothing can be proved and
    nothing needs to be: who knows only the empty tree has nothing to compare, so an old size of 0 is refused here.

    Raises:
        WrongHashSize: a root or a hash of the proof is not 32 bytes long.
        BadProof: anything else that does not hold.
    """
    claim = f"consistency of {old_size} with {new_size}"
    check_hash(old_root, "old root")
    check_hash(new_root, "new root")
    check_hashes(proof, "proof hash")
    if not 0 < old_size <= new_size <= MAX_TREE_SIZE:
        raise BadProof(claim, "the old size must be from 1 to the new size")
    if old_size == new_size:
        if proof:
            raise BadProof(claim, "the proof has too many hashes")
        if old_root != new_root:
            raise BadProof(claim, "two roots for one size")
        return
    if not proof:
        raise BadProof(claim, "the proof has too few hashes")
    path = proof if old_size & (old_size - 1) else [old_root, *proof]
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    computed_old = computed_new = path[0]
    for sibling, stands_left in _siblings(path[1:], position, last, claim):
        if stands_left:
            computed_old = node_hash(sibling, computed_old)
            computed_new = node_hash(sibling, computed_new)
        else:
            computed_new = node_hash(computed_new, sibling)
    if computed_old != old_root:
        raise BadProof(claim, "the proof leads to another old root")
    if computed_new != new_root:
        raise BadProof(claim, "the proof leads to another new root")


def _siblings(proof: Sequence[bytes], position: int, last: int, claim: str) -> Iterator[tuple[bytes, bool]]:
    """Yield each hash of a proof with whether it stands left of the node climbed from.

    The climb both verifications of RFC 9162 share: `position` is the node's index in its level (fn there) and `last`
    that of the level's last node (sn there). Raises `BadProof` when the climb takes more or fewer hashes.
    """
    for sibling in proof:
        if last == 0:
            raise BadProof(claim, "the proof has too many hashes")
        stands_left = bool(position & 1) or position == last
        yield sibling, stands_left
        if stands_left:
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        position, last = position >> 1, last >> 1
    if last:
        raise BadProof(claim, "the proof has too few hashes")
