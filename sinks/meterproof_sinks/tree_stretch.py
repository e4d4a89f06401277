"""A stretch of a log's tree, derived apart from what comes before it: so several can be derived at the same time."""

from collections.abc import Collection, Sequence

from meterproof_proofs.derived_tree import DerivedTree
from meterproof_proofs.published_files import FileComparison
from meterproof_proofs.tiles import TILE_WIDTH
from meterproof_proofs.tree_hashing import leaf_hashes


class TreeStretch:
    """What the entries from one size to another lead to, the tree before them taken as stated; lives for one segment.

    Promises: if the frontier that it began with is the one that the entries before lead to, then so are the tree, the
    roots and the comparisons that it holds. Whoever puts stretches together checks that (`TreeVerification.absorb`).
    Can be sent from one process to another.
    """

    def __init__(
        self, size: int, hashes: Sequence[bytes], wanted: Collection[int], comparison: FileComparison | None
    ) -> None:
        """Begin.

        Args:
            size: entries before.
            hashes: frontier of the tree over them.
            wanted: sizes whose roots are asked for.
            comparison: the published files of the full tiles that begin and end in the stretch; None if there are none.

        """
        self.tree = DerivedTree.of(size, hashes)
        self.roots: dict[int, bytes] = {}
        """By size: the roots asked for."""
        self.comparison = comparison
        self.lead: tuple[list[bytes], list[bytes]] = [], []
        """Entries and leaf hashes up to the edge of the tile that the stretch begins in, if it is reached."""
        self.tail: tuple[list[bytes], list[bytes]] = [], []
        """Those behind the last edge reached."""
        self.tiles: list[bytes] = []
        """Roots of all lowest tiles that the stretch fills, that of the one that it begins in first."""
        self._wanted = wanted
        self._first = -(-size // TILE_WIDTH)
        self._lead_due = -size % TILE_WIDTH
        self._index = self._first

    @property
    def has_lead(self) -> bool:
        """Whether the first root in `tiles` is that of the tile that the stretch begins in."""
        return bool(self.tiles) and self._lead_due > 0

    def take(self, entries: Sequence[bytes]) -> list[bytes]:
        """Take the entries of the next record; their leaf hashes."""
        leaves = leaf_hashes(entries)
        self.tiles += self.tree.extend(leaves)
        if self.tree.size in self._wanted:
            self.roots[self.tree.size] = self.tree.frontier().root()
        if self.comparison is not None:
            tail, tail_leaves = self.tail
            tail += entries
            tail_leaves += leaves
            due = self._lead_due
            if due and not self.lead[0] and len(tail) >= due:
                self.lead = tail[:due], tail_leaves[:due]
                del tail[:due], tail_leaves[:due]
            if not due or self.lead[0]:
                self._compare(self.comparison)
        return leaves

    def _compare(self, comparison: FileComparison) -> None:
        """Compare the full tiles that the tail fills, and cut them off."""
        tail, leaves = self.tail
        whole = len(tail) // TILE_WIDTH * TILE_WIDTH
        for at in range(0, whole, TILE_WIDTH):
            comparison.compare_lowest(self._index, tail[at : at + TILE_WIDTH], leaves[at : at + TILE_WIDTH])
            self._index += 1
        del tail[:whole], leaves[:whole]
