"""A Merkle tree that is derived from its leaves and followed tile by tile: every inner node is hashed once.

A full tile of the lowest level is a complete subtree of 256 leaves. So the tree's frontier is that of the tiles' roots,
followed by that of the leaves of the tile that is not full yet; the roots are what the tiles a level up hold.
"""

from collections.abc import Sequence

from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tiles import TILE_WIDTH


class DerivedTree:
    """The frontier after every append, and the roots of the full tiles. Lives for one pass over a log."""

    def __init__(self) -> None:
        self._tiles = Frontier()
        """Over the roots of the full tiles."""
        self._partial = Frontier()
        """Over the leaves behind them."""

    @classmethod
    def of(cls, size: int, hashes: Sequence[bytes]) -> "DerivedTree":
        """Bring back the tree of a size from its frontier."""
        tree = cls()
        tiles = size // TILE_WIDTH
        tree._tiles = Frontier.of(tiles, hashes[: tiles.bit_count()])
        tree._partial = Frontier.of(size % TILE_WIDTH, hashes[tiles.bit_count() :])
        return tree

    @property
    def size(self) -> int:
        """Leaves."""
        return self._tiles.size * TILE_WIDTH + self._partial.size

    @property
    def hashes(self) -> list[bytes]:
        """The frontier's hashes, largest subtree first."""
        return self._tiles.hashes + self._partial.hashes

    def frontier(self) -> Frontier:
        """The tree's frontier."""
        return Frontier.of(self.size, self.hashes)

    def extend(self, leaves: Sequence[bytes]) -> list[bytes]:
        """Append leaf hashes; the roots of the tiles that this fills."""
        roots: list[bytes] = []
        at = 0
        while at < len(leaves):
            until = at + TILE_WIDTH - self._partial.size
            self._partial.extend(leaves[at:until])
            if self._partial.size == TILE_WIDTH:
                roots += self._partial.hashes
                self._partial = Frontier()
            at = until
        if roots:
            self._tiles.extend(roots)
        return roots
