"""The hashing of RFC 6962 trees (section 2.1) over OpenSSL's SHA-256: what `tree_hashing` offers, and its definition.

A tree that grows is kept as the hashes of its largest complete subtrees, one per set bit of its size, largest first.
Only the native functions refuse hashes of a wrong length: callers check them, once.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

# Contexts that have already taken in the prefix: copying one and feeding it costs less than building prefixed bytes.
_LEAF_CONTEXT: Final = hashlib.sha256(b"\x00")
_NODE_CONTEXT: Final = hashlib.sha256(b"\x01")

_HASH_BYTES: Final = 32
_FEW: Final = 8
"""From this many nodes down, handling them one by one costs less than another level of pairs."""


def digests(contents: Iterable[bytes], /) -> list[bytes]:
    """Return the SHA-256 of each content, in order."""
    sha256 = hashlib.sha256
    return [sha256(content).digest() for content in contents]


def leaf_hashes(entries: Iterable[bytes], /) -> list[bytes]:
    """Return the leaf hash of every entry, in order: SHA-256(0x00 || entry)."""
    copy = _LEAF_CONTEXT.copy
    hashes: list[bytes] = []
    append = hashes.append
    for entry in entries:
        context = copy()
        context.update(entry)
        append(context.digest())
    return hashes


def pair_hashes(nodes: Iterable[bytes], /) -> list[bytes]:
    """Return the node hash of every neighbouring pair (0 with 1, 2 with 3, ...); an unpaired last node is left out.

    The hash of an inner node is SHA-256(0x01 || left || right).
    """
    copy = _NODE_CONTEXT.copy
    parents: list[bytes] = []
    append = parents.append
    node = iter(nodes)
    for left, right in zip(node, node, strict=False):
        context = copy()
        context.update(left)
        context.update(right)
        append(context.digest())
    return parents


def extended(size: int, subtrees: Sequence[bytes], leaf_hashes: Sequence[bytes] | bytes, /) -> list[bytes]:
    """Return the subtrees of a tree of `size` leaves, of which the subtrees are given, with leaf hashes appended.

    The leaf hashes may also come one behind the other, in one `bytes`.
    """
    kept = list(subtrees)
    edge: list[bytes] = []  # what is kept of the levels passed, smallest subtree first
    nodes = hashes_in(leaf_hashes) if isinstance(leaf_hashes, bytes) else list(leaf_hashes)
    waiting = size  # number of complete subtrees of the level at hand that came before
    # 1. While there are many nodes, a level at a time: a subtree left over from before (the count is odd) stands left
    #    of the new nodes; an unpaired last node belongs to the new edge; the pairs make the level above.
    while len(nodes) > _FEW:
        if waiting & 1:
            nodes.insert(0, kept.pop())
        waiting >>= 1
        if len(nodes) & 1:
            edge.append(nodes.pop())
        nodes = pair_hashes(nodes)
    # 2. The few that remain one by one: each closes the subtrees that it completes.
    for node in nodes:
        closed, count = node, waiting
        while count & 1:
            (closed,) = pair_hashes((kept.pop(), closed))
            count >>= 1
        kept.append(closed)
        waiting += 1
    edge.reverse()
    return kept + edge


def joined(subtrees: Sequence[bytes], /) -> bytes:
    """Return the root of the tree that these subtrees make; SHA-256 of nothing for none."""
    if not subtrees:
        return hashlib.sha256().digest()
    root = subtrees[-1]
    for left in subtrees[-2::-1]:
        (root,) = pair_hashes((left, root))
    return root


def text_tree(text: bytes, start: int, /) -> tuple[bytes, bytes, bytes, bytes]:
    """Return what a tree over the lines of a text has, the lines from `start` on, each without the LF that ends it.

    The SHA-256 of the whole text; the entries (the SHA-256 of each line) and their leaf hashes, each one behind the
    other; and the root over them.
    """
    if not 0 <= start <= len(text):
        message = f"no line begins at {start} in a text of {len(text)} bytes"
        raise ValueError(message)
    digest, *entries = digests([text, *text[start:].split(b"\n")[:-1]])
    leaves = leaf_hashes(entries)
    return digest, b"".join(entries), b"".join(leaves), joined(extended(0, (), leaves))


def hashes_in(row: bytes) -> list[bytes]:
    """Return the hashes that stand one behind the other."""
    return [row[at : at + _HASH_BYTES] for at in range(0, len(row), _HASH_BYTES)]
