"""Proofs built from tiles (c2sp.org/tlog-tiles): no hash is used before it was verified against the signed root.

The right edge, which is the partial tiles, is what a root follows from; so the partial tiles are verified first, all
together. A full tile is verified by its parent: the root over its hashes is one hash of the tile a level up, up to a
partial tile. Proof generation follows RFC 6962 section 2.1; every proof is built for the size asked for.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from meterproof_proofs.bundle import decode_bundle
from meterproof_proofs.errors import BadTile, MalformedBundle, MissingTile
from meterproof_proofs.frontier import Frontier
from meterproof_proofs.multi_proof import inclusion_multi_proof
from meterproof_proofs.tiles import TILE_WIDTH, Bundle, Tile, decode_tile, partial_tiles, tile_at
from meterproof_proofs.tree import EMPTY_ROOT, check_hash, check_range, node_hash
from meterproof_proofs.tree_hashing import leaf_hashes, pair_hashes

ReadTile = Callable[[str], bytes | None]
"""Given a path below the log's prefix, returns the file's content, or None if there is no such file."""

_TILE_BITS: Final = 8
_KEPT_TILES: Final = 512

_Nodes = list[list[bytes]]
"""The complete subtrees of a tile, level by level: its hashes, the nodes over each pair of them, and so on."""


class TileTree:
    """A tree of known, signed size and root whose hashes are read from tiles as they are needed.

    Promises: every hash it hands out or puts into a proof leads to the root it was given; a tile that does not is
    refused with `BadTile`, however it came. Where a partial tile is not there any more, the full one at its place is
    read. Keeps the 512 tiles used last, with the nodes between their hashes (about 20 MiB). Lives as long as its
    checkpoint is of interest. Not for several threads at once.

    An inclusion proof from a million entries costs 0.2 ms when it needs a tile that is not kept, 0.02 ms when not.
    """

    def __init__(self, size: int, root: bytes, read: ReadTile) -> None:
        """Read and verify the right edge.

        Args:
            size: entries, from a checkpoint that was opened with the log's key.
            root: that checkpoint's root, 32 bytes.
            read: how to read a file of the log.

        Raises:
            OutOfRange: an impossible size.
            WrongHashSize: the root is not 32 bytes long.
            MissingTile: a tile of the right edge is not there.
            BadTile: one is of the wrong length, or together they do not give the root.

        """
        check_hash(root, "root")
        self.size = size
        self.root = root
        self._read = read
        self._verified: OrderedDict[tuple[int, int], _Nodes] = OrderedDict()
        self._edge: dict[tuple[int, int], _Nodes] = {}
        right_edge = [(tile, self._read_tile(tile)) for tile in partial_tiles(size)]
        nodes = [(tile, _nodes_over(hashes)) for tile, hashes in right_edge]
        if _root_of_edge(size, nodes) != root:
            paths = " + ".join(tile.path for tile, _ in right_edge) or "the empty tree"
            raise BadTile(paths, "the root that follows from the right edge is not the signed one")
        self._edge = {(tile.level, tile.index): own for tile, own in nodes}

    def leaf_hash(self, index: int) -> bytes:
        """Return the leaf hash of an entry.

        Raises:
            OutOfRange: there is no such entry.
            MissingTile: a tile on the way to the root is not there.
            BadTile: one of them does not lead to the root.
        """
        check_range("index", index, 0, self.size - 1)
        return self._subtree(0, index)

    def entries(self, index: int) -> list[bytes]:
        """Return the entries of the bundle with this index, each verified against its leaf hash.

        Raises:
            OutOfRange: there is no such bundle.
            MissingTile: it, or a tile on the way to the root, is not there.
            BadTile: it is no bundle, an entry is not the logged one, or a tile does not lead to the root.
        """
        tile = tile_at(0, index, self.size)
        due = self._tile(0, index)[0]
        bundle = Bundle(index, tile.width)
        content, found = self._read(bundle.path), bundle
        if content is None and not bundle.is_full:
            found = bundle.full
            content = self._read(found.path)
        if content is None:
            raise MissingTile(bundle.path)
        try:
            entries = decode_bundle(content, found.width)[: bundle.width]
        except MalformedBundle as error:
            raise BadTile(found.path, str(error)) from error
        for number, (leaf, logged) in enumerate(zip(leaf_hashes(entries), due, strict=True)):
            if leaf != logged:
                raise BadTile(found.path, f"entry {number} does not have the hash that {tile.path} gives it")
        return entries

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Return PATH(index, D[size]) of RFC 6962 section 2.1.1, by default for the signed size.

        Raises:
            OutOfRange: `size` exceeds the signed one, or `index` is not below it.
            MissingTile: a tile is not there.
            BadTile: one does not lead to the root.
        """
        size = self.size if size is None else size
        check_range("size", size, 0, self.size)
        check_range("index", index, 0, size - 1)
        return self._climb(index, 0, size)

    def consistency_proof(self, old_size: int, new_size: int | None = None) -> list[bytes]:
        """Return PROOF(old_size, D[new_size]) of RFC 6962 section 2.1.2, by default up to the signed size.

        Raises:
            OutOfRange: `new_size` exceeds the signed one, or `old_size` is not from 1 to it.
            MissingTile: a tile is not there.
            BadTile: one does not lead to the root.
        """
        new_size = self.size if new_size is None else new_size
        check_range("new_size", new_size, 0, self.size)
        check_range("old_size", old_size, 1, new_size)
        if old_size == new_size:
            return []
        # The largest complete subtree that ends at the old size; it opens the proof unless it is the old tree itself.
        level = (old_size & -old_size).bit_length() - 1
        position = (old_size >> level) - 1
        opening = [self._subtree(level, position)] if position else []
        return opening + self._climb(position, level, new_size)

    def root_at(self, size: int) -> bytes:
        """Return the root of the tree of a smaller size; `EMPTY_ROOT` for 0.

        Raises:
            OutOfRange: `size` exceeds the signed one.
            MissingTile: a tile is not there.
            BadTile: one does not lead to the root.
        """
        check_range("size", size, 0, self.size)
        return self._range(0, size) if size else EMPTY_ROOT

    def multi_proof(self, indexes: Sequence[int]) -> list[bytes]:
        """Return one proof for several entries (`inclusion_multi_proof`), for the signed size; `indexes` ascend.

        Raises:
            OutOfRange: an index is not below the signed size, or they do not ascend.
            MissingTile: a tile is not there.
            BadTile: one does not lead to the root.
        """
        return inclusion_multi_proof(indexes, self.size, self._range)

    def _climb(self, position: int, level: int, size: int) -> list[bytes]:
        """The siblings from the complete subtree (level, position) up to the root of the tree of `size`."""
        proof: list[bytes] = []
        last = (size - 1) >> level
        while last:
            sibling = position ^ 1
            if sibling < last:
                proof.append(self._subtree(level, sibling))
            elif sibling == last:
                proof.append(self._range(sibling << level, size))
            position, last, level = position >> 1, last >> 1, level + 1
        return proof

    def _range(self, begin: int, end: int) -> bytes:
        """The root over [begin, end) as a tree of its own; no subtree that it needs crosses the boundary `begin`."""
        subtrees: list[bytes] = []
        for level in reversed(range((end - begin).bit_length())):
            if (end - begin) >> level:
                subtrees.append(self._subtree(level, begin >> level))
                begin += 1 << level
        root = subtrees.pop()
        while subtrees:
            root = node_hash(subtrees.pop(), root)
        return root

    def _subtree(self, level: int, position: int) -> bytes:
        """The hash of the complete subtree over entries [position << level, (position + 1) << level)."""
        tile_level, height = divmod(level, _TILE_BITS)
        index, at = divmod(position, TILE_WIDTH >> height)
        return self._tile(tile_level, index)[height][at]

    def _tile(self, level: int, index: int) -> _Nodes:
        """A tile, verified."""
        place = level, index
        if (edge := self._edge.get(place)) is not None:
            return edge
        if (kept := self._verified.get(place)) is not None:
            self._verified.move_to_end(place)
            return kept
        tile = Tile(level, index)
        nodes = _nodes_over(self._read_tile(tile))
        if nodes[_TILE_BITS][0] != self._subtree(_TILE_BITS * (level + 1), index):
            raise BadTile(tile.path, "its root is not the hash that the tile above gives it")
        self._verified[place] = nodes
        if len(self._verified) > _KEPT_TILES:
            self._verified.popitem(last=False)
        return nodes

    def _read_tile(self, tile: Tile) -> list[bytes]:
        """The hashes of a tile, not verified; of the full one if the partial one is gone."""
        content, found = self._read(tile.path), tile
        if content is None and not tile.is_full:
            found = tile.full
            content = self._read(found.path)
        if content is None:
            raise MissingTile(tile.path)
        return decode_tile(found, content)[: tile.width]


def _root_of_edge(size: int, edge: Sequence[tuple[Tile, _Nodes]]) -> bytes:
    """The root that follows from the partial tiles: of each, from the top, the largest complete subtrees."""
    kept: list[bytes] = []
    for tile, nodes in reversed(edge):
        at = 0
        for height in reversed(range(_TILE_BITS)):
            if tile.width >> height & 1:
                kept.append(nodes[height][at >> height])
                at += 1 << height
    return Frontier.of(size, kept).root()


def _nodes_over(hashes: list[bytes]) -> _Nodes:
    nodes = [hashes]
    while len(nodes[-1]) > 1:
        nodes.append(pair_hashes(nodes[-1]))
    return nodes
