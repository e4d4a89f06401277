"""Compare a log's published files (c2sp.org/tlog-tiles) with what follows from its entries: every byte, width and name.

Where the entries come from is the caller's matter: from the log's own lines, or from the published bundles themselves.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meterproof_proofs.bundle import decode_bundle, encode_bundle
from meterproof_proofs.errors import BadTile, MalformedBundle, MalformedTilePath, MissingTile
from meterproof_proofs.tiles import TILE_WIDTH, Bundle, Tile, TileEdge, bundles_of, tiles_of
from meterproof_proofs.tree_hashing import hashes_in

CHECKPOINT_FILE: Final = "checkpoint"
"""The one published file that changes."""

_FAULTS_MAX: Final = 20

_Place = tuple[str, int]
"""A level, or `entries`, and an index."""
_LOWEST: Final = ("entries", "0")


@dataclass(frozen=True, slots=True)
class FileFault:
    """A published file that is not what it must be."""

    file: Path
    fault: str
    position: int | None = None
    """First entry concerned, where that can be told."""

    def __str__(self) -> str:
        """Say where, then what."""
        return f"{self.file}{'' if self.position is None else f', position {self.position}'}: {self.fault}"


def place_of(path: str) -> Tile | Bundle | None:
    """The tile or bundle that a path below a log's prefix stands for; None if it is none's."""
    for kind in (Bundle, Tile):
        try:
            return kind.parse(path)
        except MalformedTilePath:
            continue
    return None


class FileComparison:
    """The tiles and bundles that are there, taken off as each is compared; lives for one pass over a log or a part."""

    def __init__(self, folder: Path, widths: dict[_Place, set[int]], *, ahead_allowed: bool) -> None:
        """Begin.

        Args:
            folder: the log's prefix.
            widths: of the files at each place that are there.
            ahead_allowed: whether files may hold more than the entries give, as while a writer is at work.

        """
        self.faults: list[FileFault] = []
        self.files = 0
        """Files that were compared."""
        self.left_out = 0
        """Faults that were counted only, since there were many."""
        self.seen: set[str] = set()
        """Paths of the files that were compared."""
        self.widths = widths
        """Those that were not compared yet."""
        self._folder = folder
        self._prefix = f"{folder}{os.sep}"
        self._ahead_allowed = ahead_allowed

    def part(self, first: int, end: int | None) -> "FileComparison":
        """Split off the bundles and lowest tiles between two indexes, to be compared elsewhere and absorbed again."""
        places = [
            place
            for place in self.widths
            if place[0] in _LOWEST and first <= place[1] and (end is None or place[1] < end)
        ]
        moved = {place: self.widths.pop(place) for place in places}
        return FileComparison(self._folder, moved, ahead_allowed=self._ahead_allowed)

    def absorb(self, part: "FileComparison") -> None:
        """Take a part back, with what was found in it."""
        self.files += part.files
        self.left_out += part.left_out
        self.seen |= part.seen
        self.widths |= part.widths
        for fault in part.faults:
            self.add(fault)

    def add(self, fault: FileFault) -> None:
        """Keep a fault, or count it if there are many."""
        if len(self.faults) < _FAULTS_MAX:
            self.faults.append(fault)
        else:
            self.left_out += 1

    def compare_lowest(self, index: int, entries: Sequence[bytes], leaves: Sequence[bytes]) -> None:
        """Compare the bundle and the lowest tile at an index with the entries there so far, and their leaf hashes."""
        if ("entries", index) in self.widths:
            self.compare(Bundle(index, len(entries)), encode_bundle(entries), entries)
        if ("0", index) in self.widths:
            self.compare(Tile(0, index, len(leaves)), b"".join(leaves), leaves)

    def compare(self, at: Tile | Bundle, content: bytes, pieces: Sequence[bytes]) -> None:
        """Compare the files at a place, whatever their widths, with what follows from the entries so far.

        Args:
            at: the place, as wide as the entries so far make it.
            content: of a file of that width.
            pieces: the hashes or entries that it holds.

        """
        place = _place(at)
        for width in sorted(self.widths.get(place, ())):
            ahead = width > at.width
            if ahead and not self._ahead_allowed:
                continue  # it stays among those not compared, and is named in the end
            path = _path(*place, width)
            self.widths[place].discard(width)
            self.seen.add(path)
            try:
                with open(f"{self._prefix}{path}", "rb") as file:  # noqa: PTH123 - a Path costs more than the reading
                    found = file.read()
            except FileNotFoundError:
                if not self._ahead_allowed:
                    self.add(FileFault(self._folder / path, "is missing"))
                continue
            self.files += 1
            if width == at.width:
                if found != content:
                    self._explain(at, width, found, pieces)
            elif ahead:
                if not found.startswith(content):
                    self._explain(at, width, found, pieces)
            elif found != _content(at, pieces[:width]):
                self._explain(at, width, found, pieces)

    def _explain(self, at: Tile | Bundle, width: int, found: bytes, pieces: Sequence[bytes]) -> None:
        """Name the first hash or entry that differs, or the wrong length."""
        file = self._folder / _path(*_place(at), width)
        begin = 0
        for number, piece in enumerate(pieces[:width]):
            due = _content(at, [piece])
            if found[begin : begin + len(due)] != due and begin + len(due) <= len(found):
                position = at.index * TILE_WIDTH + number if isinstance(at, Bundle) or at.level == 0 else None
                what = "entry" if isinstance(at, Bundle) else "hash"
                self.add(FileFault(file, f"{what} {number} of it is not what follows from the entries", position))
                return
            begin += len(due)
        self.add(FileFault(file, f"is {len(found)} bytes long; {begin} follow from its name and the entries"))


class PublishedFiles:
    """One pass over a log's published files beside a pass over its entries; lives for it.

    Give it all entries in order, then `finish`. What it found is in `faults`. While a writer is at work, files may go
    ahead of the entries that were read, and partial ones may be pruned; otherwise every file must be one that follows
    from the entries, and every one that the checkpoint implies must be there.
    """

    def __init__(self, folder: Path, *, writer_running: bool = False, unfinished_suffix: str | None = None) -> None:
        """List what is there.

        Args:
            folder: the log's prefix: holds `checkpoint` and `tile/`.
            writer_running: a writer is at work.
            unfinished_suffix: behind the name of a file that a killed writer left unfinished.

        """
        self._folder = folder
        self._writer_running = writer_running
        self._unfinished_suffix = unfinished_suffix
        self._comparison = FileComparison(folder, {}, ahead_allowed=writer_running)
        self._size = 0
        self._tail: list[bytes] = []
        """Entries of the bundle that is not full yet."""
        self._tail_leaves: list[bytes] = []
        self._upper = TileEdge()
        """The tiles above the lowest level: a tree over the roots of the lowest level's full tiles."""
        for top, folders, files in os.walk(folder):
            if not folders and not files and Path(top) != folder:
                self._fault(Path(top), "is empty and does not belong here")
            for name in files:
                self._take_file((Path(top) / name).relative_to(folder).as_posix())

    @property
    def faults(self) -> list[FileFault]:
        """What does not hold, so far."""
        found, left_out = self._comparison.faults, self._comparison.left_out
        return [*found, FileFault(self._folder, f"{left_out} more files do not hold")] if left_out else list(found)

    @property
    def files(self) -> int:
        """Tiles and bundles that were compared with what follows from the entries."""
        return self._comparison.files

    def take(self, entries: Sequence[bytes], leaves: Sequence[bytes], roots: Sequence[bytes]) -> None:
        """Compare the files that the next entries complete.

        Args:
            entries: the log's next ones.
            leaves: their leaf hashes.
            roots: of the lowest level's tiles that they fill (`DerivedTree.extend`).

        """
        index = self._size // TILE_WIDTH
        self._size += len(entries)
        self._tail += entries
        self._tail_leaves += leaves
        for at in range(0, len(roots) * TILE_WIDTH, TILE_WIDTH):
            end = at + TILE_WIDTH
            self._comparison.compare_lowest(index, self._tail[at:end], self._tail_leaves[at:end])
            index += 1
        if roots:
            del self._tail[: len(roots) * TILE_WIDTH], self._tail_leaves[: len(roots) * TILE_WIDTH]
            self._raise(roots)

    def part(self, first: int, end: int | None) -> FileComparison:
        """Split off bundles and lowest tiles that somebody else compares, from index `first` to before `end`."""
        return self._comparison.part(first, end)

    def put_back(self, part: FileComparison) -> None:
        """Take back files that were split off and not compared."""
        self._comparison.absorb(part)

    def take_part(self, part: FileComparison, roots: Sequence[bytes]) -> None:
        """Go on behind full tiles that somebody else compared.

        Args:
            part: what was split off for it, as it came back.
            roots: of these tiles, which come next and begin at the edge of one.

        """
        self._comparison.absorb(part)
        self._size += len(roots) * TILE_WIDTH
        self._raise(roots)

    def entries(self, size: int) -> Iterator[list[bytes]]:
        """The first `size` entries as the published bundles have them, bundle by bundle.

        Raises:
            MissingTile: a bundle is not there.
            BadTile: one is none.
        """
        for index in range(-(-size // TILE_WIDTH)):
            due = min(TILE_WIDTH, size - index * TILE_WIDTH)
            bundle = Bundle(index, max(self._comparison.widths.get(("entries", index), ()), default=due))
            if bundle.width < due:
                raise MissingTile(Bundle(index, due).path)
            try:
                yield decode_bundle((self._folder / bundle.path).read_bytes(), bundle.width)[:due]
            except FileNotFoundError as error:
                raise MissingTile(bundle.path) from error
            except MalformedBundle as error:
                raise BadTile(bundle.path, str(error)) from error

    def finish(self, size: int | None) -> None:
        """Compare the right edge, then look for what is missing or too much.

        Args:
            size: of the published checkpoint, if it holds; None if there is none.

        """
        comparison = self._comparison
        if self._tail:
            comparison.compare_lowest(self._size // TILE_WIDTH, self._tail, self._tail_leaves)
        for tile, content in self._upper.partials():
            self._compare_upper(tile, content)
        due: list[Tile | Bundle] = [*bundles_of(size or 0), *tiles_of(size or 0)]
        for place in due:
            if place.path not in comparison.seen and (place.is_full or place.full.path not in comparison.seen):
                self._fault(self._folder / place.path, f"is missing, though {size} entries are signed for")
        if not self._writer_running:
            for (kind, index), widths in comparison.widths.items():
                for width in sorted(widths):
                    path = _path(kind, index, width)
                    self._fault(self._folder / path, f"holds more than the {self._size} entries give")

    def _raise(self, roots: Sequence[bytes]) -> None:
        """Take the roots of full lowest tiles into the tiles above."""
        for tile, content in self._upper.extend(roots):
            self._compare_upper(tile, content)

    def _compare_upper(self, tile: Tile, content: bytes) -> None:
        """Compare a tile of the tree over the lowest level's roots, which is a level up in the whole tree."""
        raised = Tile(tile.level + 1, tile.index, tile.width)
        self._comparison.compare(raised, content, hashes_in(content))

    def _take_file(self, path: str) -> None:
        suffix = self._unfinished_suffix
        finished = path if suffix is None else path.removesuffix(suffix)
        if finished == CHECKPOINT_FILE:
            return
        place = place_of(path)
        if place is not None:
            self._comparison.widths.setdefault(_place(place), set()).add(place.width)
        elif finished == path or place_of(finished) is None:
            self._fault(self._folder / path, "is no tile and no entry bundle, and does not belong here")

    def _fault(self, path: Path, fault: str) -> None:
        self._comparison.add(FileFault(path, fault))


def _content(at: Tile | Bundle, pieces: Sequence[bytes]) -> bytes:
    return encode_bundle(pieces) if isinstance(at, Bundle) else b"".join(pieces)


def _place(place: Tile | Bundle) -> _Place:
    return ("entries" if isinstance(place, Bundle) else str(place.level)), place.index


def _path(kind: str, index: int, width: int) -> str:
    return Bundle(index, width).path if kind == "entries" else Tile(int(kind), index, width).path
