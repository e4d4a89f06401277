"""The frontier of a growing tree: all that is needed to append and to know the root."""

from collections.abc import Iterable, Sequence

from meterproof_proofs.errors import MalformedFrontier, WrongHashSize
from meterproof_proofs.tree import HASH_BYTES, MAX_TREE_SIZE, check_hashes, check_range
from meterproof_proofs.tree_hashing import extended, joined


def batch_root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Return the root over the given leaf hashes as a tree of their own; `EMPTY_ROOT` for none.

    Raises:
        WrongHashSize: a leaf hash is not 32 bytes long.
    """
    check_hashes(leaf_hashes, "leaf hash")
    return joined(extended(0, (), leaf_hashes))


class Frontier:
    """An append-only RFC 6962 tree of which only the right edge is kept.

    Promises: `root()` is at every moment the root of all leaf hashes ever appended, however they were split into
    calls; a call that raises leaves the frontier as it was. Holds one hash per set bit of the size, largest complete
    subtree first (a "compact range"): at most 63 hashes, 17 at a hundred thousand leaves. Lives as long as its tree
    grows; `size` and `hashes` are its whole state, and `Frontier.of` brings it back. Not for several threads at once.
    """

    __slots__ = ("_hashes", "_size")

    def __init__(self) -> None:
        """Start with the empty tree."""
        self._size = 0
        self._hashes: list[bytes] = []

    @classmethod
    def of(cls, size: int, hashes: Iterable[bytes]) -> "Frontier":
        """Bring back the frontier of a tree of `size` from its subtree hashes, largest first.

        Raises:
            OutOfRange: `size` is negative or above `MAX_TREE_SIZE`.
            MalformedFrontier: not one hash per set bit of `size`.
            WrongHashSize: a hash is not 32 bytes long.
        """
        kept = list(hashes)
        check_range("size", size, 0, MAX_TREE_SIZE)
        if len(kept) != size.bit_count():
            raise MalformedFrontier(size, size.bit_count(), len(kept))
        check_hashes(kept, "frontier hash")
        frontier = cls()
        frontier._size = size
        frontier._hashes = kept
        return frontier

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    @property
    def hashes(self) -> list[bytes]:
        """The subtree hashes, largest subtree first, as a list of the caller's own."""
        return self._hashes.copy()

    def append_leaf_hash(self, leaf: bytes) -> None:
        """Append one leaf hash.

        Raises:
            WrongHashSize: it is not 32 bytes long.
        """
        self.extend((leaf,))

    def extend(self, leaf_hashes: Sequence[bytes] | bytes) -> None:
        """Append the leaf hashes in order; they may also come one behind the other, in one `bytes`.

        Raises:
            WrongHashSize: one of them is not 32 bytes long; nothing was appended.
            OutOfRange: the tree would outgrow `MAX_TREE_SIZE`; nothing was appended.
        """
        self._size, self._hashes = self._with(leaf_hashes)

    def extended(self, leaf_hashes: Sequence[bytes] | bytes) -> "Frontier":
        """Return the frontier of the tree with the leaf hashes appended, as in `extend`; this one stays as it is.

        Raises:
            WrongHashSize: one of them is not 32 bytes long.
            OutOfRange: the tree would outgrow `MAX_TREE_SIZE`.
        """
        twin = Frontier()
        twin._size, twin._hashes = self._with(leaf_hashes)
        return twin

    def _with(self, leaf_hashes: Sequence[bytes] | bytes) -> tuple[int, list[bytes]]:
        """Size and subtree hashes with the leaf hashes appended."""
        if isinstance(leaf_hashes, bytes):
            count, rest = divmod(len(leaf_hashes), HASH_BYTES)
            if rest:
                raise WrongHashSize("last leaf hash", rest)
        else:
            check_hashes(leaf_hashes, "leaf hash")
            count = len(leaf_hashes)
        size = self._size + count
        check_range("size", size, 0, MAX_TREE_SIZE)
        return size, extended(self._size, self._hashes, leaf_hashes)

    def root(self) -> bytes:
        """Return the root of the whole tree; `EMPTY_ROOT` for the empty one."""
        return joined(self._hashes)

    def copy(self) -> "Frontier":
        """Return a frontier of the same tree that grows on its own."""
        twin = Frontier()
        twin._size = self._size
        twin._hashes = self._hashes.copy()
        return twin

    def __eq__(self, other: object) -> bool:
        """Equal when size and subtree hashes are, hence when the trees are."""
        if not isinstance(other, Frontier):
            return NotImplemented
        return self._size == other._size and self._hashes == other._hashes

    __hash__ = None  # type: ignore[assignment]  # it grows, so it cannot be a key

    def __repr__(self) -> str:
        """Show size and root."""
        return f"Frontier(size={self._size}, root={self.root().hex()})"
