"""Verify a log's published files (`tlog_folder`) against its lines: every byte, every width, every name."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from meterproof_proofs.bundle import decode_bundle
from meterproof_proofs.errors import ProofError
from meterproof_proofs.tiles import TILE_WIDTH, Bundle, Tile, TileEdge, bundles_of, tiles_of
from meterproof_proofs.tree import HASH_BYTES
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_folder import CHECKPOINT_FILE
from meterproof_sinks.disk import NEW_SUFFIX
from meterproof_sinks.tlog_folder import place_of

_FAULTS_MAX: Final = 20
_ENTRY_LENGTH: Final = HASH_BYTES.to_bytes(2, "big")

_Place = tuple[str, int]
"""A level, or `entries`, and an index."""


class TlogVerification:
    """One pass over the published files beside a pass over the log's records; lives for it.

    Give it every record's entries in order, then `finish`. What it found is in `faults`. While a writer is at work,
    files may go ahead of the lines that were read, and partial ones may be pruned; otherwise every file must be one
    that follows from the lines, and every one that the checkpoint implies must be there.
    """

    def __init__(self, folder: Path, *, writer_running: bool) -> None:
        self.faults: list[DamagedAudit] = []
        self.files = 0
        """Tiles and bundles that were compared with what follows from the lines."""
        self._folder = folder
        self._writer_running = writer_running
        self._size = 0
        self._tail: list[bytes] = []
        """Entries of the bundle that is not full yet."""
        self._tail_leaves: list[bytes] = []
        self._upper = TileEdge()
        """The tiles above the lowest level: a tree over the roots of the lowest level's full tiles."""
        self._left_out = 0
        self._widths: dict[_Place, set[int]] = {}
        """The tiles and bundles that are there and were not compared yet."""
        self._seen: set[str] = set()
        for top, folders, files in os.walk(folder):
            if not folders and not files and Path(top) != folder:
                self._fault(Path(top), "is empty and does not belong here")
            for name in files:
                self._take_file((Path(top) / name).relative_to(folder).as_posix())

    def take(self, entries: Sequence[bytes], leaves: Sequence[bytes], roots: Sequence[bytes]) -> None:
        """Compare the files that the next entries complete.

        Args:
            entries: 32 bytes each.
            leaves: their leaf hashes.
            roots: of the lowest level's tiles that they fill (`DerivedTree.extend`).

        """
        index = self._size // TILE_WIDTH
        self._size += len(entries)
        self._tail += entries
        self._tail_leaves += leaves
        for at in range(0, len(roots) * TILE_WIDTH, TILE_WIDTH):
            self._compare(Bundle(index), _bundle(self._tail[at : at + TILE_WIDTH]))
            self._compare(Tile(0, index), b"".join(self._tail_leaves[at : at + TILE_WIDTH]))
            index += 1
        if roots:
            del self._tail[: len(roots) * TILE_WIDTH], self._tail_leaves[: len(roots) * TILE_WIDTH]
            for tile, content in self._upper.extend(roots):
                self._compare(_raised(tile), content)

    def published_entries(self, size: int) -> Iterator[list[bytes] | None]:
        """The first `size` entries as the bundles here have them, bundle by bundle; None once one is not here."""
        for index in range(-(-size // TILE_WIDTH)):
            due = min(TILE_WIDTH, size - index * TILE_WIDTH)
            widths = [width for width in self._widths.get(("entries", index), ()) if width >= due]
            if not widths:
                yield None
                return
            try:
                content = (self._folder / Bundle(index, max(widths)).path).read_bytes()
                yield decode_bundle(content, max(widths))[:due]
            except (OSError, ProofError):
                yield None
                return

    def finish(self, size: int | None) -> None:
        """Compare the right edge, then look for what is missing or too much.

        Args:
            size: of the published checkpoint, if it holds; None if there is none.

        """
        if self._tail:
            index, width = self._size // TILE_WIDTH, len(self._tail)
            self._compare(Bundle(index, width), _bundle(self._tail))
            self._compare(Tile(0, index, width), b"".join(self._tail_leaves))
        for tile, content in self._upper.partials():
            self._compare(_raised(tile), content)
        due: list[Tile | Bundle] = [*bundles_of(size or 0), *tiles_of(size or 0)]
        for place in due:
            if place.path not in self._seen and (place.is_full or place.full.path not in self._seen):
                self._fault(self._folder / place.path, f"is missing, though {size} entries are signed for")
        if not self._writer_running:
            for (kind, index), widths in self._widths.items():
                for width in widths:
                    path = _path(kind, index, width)
                    self._fault(self._folder / path, f"holds more than the {self._size} lines here give")
        if self._left_out:
            self.faults.append(DamagedAudit(self._folder, None, None, f"{self._left_out} more files do not hold"))

    def _take_file(self, path: str) -> None:
        if path.removesuffix(NEW_SUFFIX) == CHECKPOINT_FILE:
            return
        place = place_of(path)
        if place is None:
            # A crash may leave an unfinished file behind; the next start removes it.
            if not path.endswith(NEW_SUFFIX) or place_of(path.removesuffix(NEW_SUFFIX)) is None:
                self._fault(self._folder / path, "is no tile and no entry bundle, and does not belong here")
            return
        self._widths.setdefault(_place(place), set()).add(place.width)

    def _compare(self, at: Tile | Bundle, content: bytes) -> None:
        """Compare the files at a place, whatever their widths, with what follows from the lines so far."""
        unit = len(content) // at.width
        key = _place(at)
        for width in sorted(self._widths.get(key, ())):
            ahead = width > at.width
            if ahead and not self._writer_running:
                continue  # `finish` names it
            path = _path(*key, width)
            self._widths[key].discard(width)
            self._seen.add(path)
            try:
                found = (self._folder / path).read_bytes()
            except FileNotFoundError:
                if not self._writer_running:
                    self._fault(self._folder / path, "is missing")
                continue
            self.files += 1
            if len(found) != width * unit:
                self._fault(self._folder / path, f"is {len(found)} bytes long; its name asks for {width * unit}")
            elif found[: len(content)] != content[: width * unit]:
                first = next(n for n in range(width) if found[n * unit : n * unit + unit] != content[n * unit :][:unit])
                position = None
                if isinstance(at, Bundle) or at.level == 0:
                    position = at.index * TILE_WIDTH + first
                what = "entry" if isinstance(at, Bundle) else "hash"
                self._fault(self._folder / path, f"{what} {first} of it is not what follows from the lines", position)

    def _fault(self, path: Path, fault: str, position: int | None = None) -> None:
        if len(self.faults) < _FAULTS_MAX:
            self.faults.append(DamagedAudit(path, None, position, fault))
        else:
            self._left_out += 1


def _raised(tile: Tile) -> Tile:
    """A tile of the tree over the lowest level's roots, as a tile of the whole tree."""
    return Tile(tile.level + 1, tile.index, tile.width)


def _bundle(entries: Sequence[bytes]) -> bytes:
    """`encode_bundle` for entries of 32 bytes."""
    return _ENTRY_LENGTH.join((b"", *entries))


def _place(place: Tile | Bundle) -> _Place:
    return ("entries" if isinstance(place, Bundle) else str(place.level)), place.index


def _path(kind: str, index: int, width: int) -> str:
    return Bundle(index, width).path if kind == "entries" else Tile(int(kind), index, width).path
