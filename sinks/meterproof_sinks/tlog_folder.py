"""The log as tiles (c2sp.org/tlog-tiles), beside its lines: files that any static web server can publish.

```
<audit folder>/<log>/tlog/checkpoint                        the signed checkpoint that all below belongs to
                          tile/<L>/<N>[.p/<W>]              hashes of the Merkle tree
                          tile/entries/<N>[.p/<W>]          entries: the event lines' SHA-256 digests, 32 bytes each
                     records-tlog/…                         the same of the second tree, over the records' heads
```
They hold digests only: whoever reads them learns how many events there were, and nothing of what was in them.

All of it follows from the lines and the checkpoint, so it is written when a checkpoint is taken, for exactly the signed
size, and may be deleted while no sink runs: the next start derives it again. A file that is there already must be what
would be written; if it is not, the sink stops (`log_diverged`) and overwrites nothing. A partial tile stays as long as
its full one is not there, because readers of an older checkpoint ask for it; once a checkpoint with the full one is
durable, it goes.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from meterproof_proofs.bundle import decode_bundle, encode_bundle
from meterproof_proofs.checkpoint import Checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.note import SignedNote
from meterproof_proofs.tiles import (
    TILE_WIDTH,
    Bundle,
    TileEdge,
    bundles_of,
    decode_tile,
    partial_tiles,
    tiles_of,
)
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.reasons import StopReason
from meterproof_sinks.audit_folder import CHECKPOINT_FILE
from meterproof_sinks.disk import NEW_SUFFIX, Disk

_CHUNK_ENTRIES: Final = 65_536
_PARTIAL_SUFFIX: Final = ".p"
_WIDTH: Final = re.compile(r"[1-9][0-9]{0,2}")

EntriesFrom = Callable[[int], Iterable[bytes]]
"""Given a position, returns the log's entries from there on, at least up to the checkpoint at hand."""


class TlogFolder:
    """The one writer of one tree's published folder: `tlog`, or `records-tlog` for the second tree.

    Promises: `tlog/checkpoint` never names a tile or bundle that is not on the device; no file is ever overwritten with
    other bytes; writing the same log again, from whatever state, leaves the same full tiles and bundles and the same
    partial ones for the checkpoint. After an `OSError` it must not be used again: a new one goes on. Blocking. Lives as
    long as its log's writer, which sees to it that one publication is at work at a time.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder = folder
        self._disk = disk
        self._edge = TileEdge()
        self._tail: list[bytes] = []
        """Entries of the last bundle while it is partial."""
        self._unsynced: set[Path] = set()
        """Folders in which names were made that may be in memory only."""

    @property
    def size(self) -> int:
        """Entries that are in the tiles."""
        return self._edge.size

    def bring_up(self, checkpoint: Checkpoint, note: bytes, entries_from: EntriesFrom) -> None:
        """Make the folder what it must be for the log's checkpoint, whatever an earlier writer left. Once, on start.

        1. Remove what was not finished. 2. If every file that `tlog/checkpoint` implies is there, go on from it; if
        not, from nothing: what is there then gets compared. 3. Write what is missing. 4. Prune.

        Raises:
            StageStopped: `log_diverged` when what is there is not what follows from the lines.
            OSError: it cannot be written.
        """
        found = self._clean()  # 1
        known = self._read_checkpoint(checkpoint, note)
        if known is not None and all(path in found for path in _paths_of(known.size)):
            self._go_on_from(known)  # 2
        if known is None or known.size < checkpoint.size or self.size != checkpoint.size:
            self.write(checkpoint, note, entries_from)  # 3
        elif adds_a_signature(note, (self.folder / CHECKPOINT_FILE).read_bytes()):
            self._disk.replace(self.folder / CHECKPOINT_FILE, note)
        for path in found:  # 4
            if f"{path}{_PARTIAL_SUFFIX}" in found:
                self._prune(path)

    def write(self, checkpoint: Checkpoint, note: bytes, entries_from: EntriesFrom) -> None:
        """Write the files for a larger checkpoint, whose entries are all on the device.

        1. Chunk by chunk, full bundles, then the full tiles that they complete. 2. Compare the root with the signed
        one. 3. The partial bundle, then the partial tiles. 4. Sync all folders concerned. 5. The checkpoint. 6. Prune
        the partial files that full ones replace.

        Raises:
            StageStopped: `log_diverged` when a file is there with other bytes, or the entries do not give the root.
            OSError: it cannot be written.
        """
        self._make_folder(self.folder)
        completed: list[str] = []
        for chunk in _chunks(entries_from(self.size), checkpoint.size - self.size):  # 1
            completed += self._write_full(chunk)
        if (self.size, self._edge.root()) != (checkpoint.size, checkpoint.root):  # 2
            raise _diverged(
                self.folder,
                f"the lines on disk give size {self.size} the root {self._edge.root().hex()}, but signed is size "
                f"{checkpoint.size} with root {checkpoint.root.hex()}",
            )
        if self._tail:  # 3
            self._put(Bundle(self.size // TILE_WIDTH, len(self._tail)).path, encode_bundle(self._tail))
        for tile, content in self._edge.partials():
            self._put(tile.path, content)
        for folder in sorted(self._unsynced):  # 4
            self._disk.sync_folder(folder)
        self._unsynced.clear()
        self._disk.replace(self.folder / CHECKPOINT_FILE, note)  # 5
        for path in completed:  # 6
            self._prune(path)

    # --- going on ---

    def _clean(self) -> set[str]:
        """Remove unfinished files; the paths of all others, and of all folders, below this one."""
        found: set[str] = set()
        for top, folders, files in os.walk(self.folder):
            within = Path(top).relative_to(self.folder)
            for name in files:
                if name.endswith(NEW_SUFFIX):
                    self._disk.remove(Path(top) / name)
                else:
                    found.add((within / name).as_posix())
            found.update((within / name).as_posix() for name in folders)
        return found

    def _read_checkpoint(self, checkpoint: Checkpoint, note: bytes) -> Checkpoint | None:
        """What `tlog/checkpoint` says; None if there is none."""
        file = self.folder / CHECKPOINT_FILE
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        try:
            known = Checkpoint.parse(SignedNote.parse(content).text)
        except ProofError as error:
            raise _diverged(file, str(error)) from error
        if known.origin != checkpoint.origin:
            raise _diverged(file, f"it is a checkpoint of {known.origin}")
        if known.size > checkpoint.size or (known.size == checkpoint.size and not _is_one_checkpoint(content, note)):
            raise _diverged(file, f"it is of size {known.size} and not the log's checkpoint of size {checkpoint.size}")
        return known

    def _go_on_from(self, known: Checkpoint) -> None:
        """Bring the right edge back from the partial files of an earlier checkpoint."""
        try:
            partials = [(tile, decode_tile(tile, self._read(tile.path))) for tile in partial_tiles(known.size)]
            edge = TileEdge.of(known.size, partials)
            width = known.size % TILE_WIDTH
            bundle = Bundle(known.size // TILE_WIDTH, width) if width else None
            tail = [] if bundle is None else decode_bundle(self._read(bundle.path), width)
        except ProofError as error:
            raise _diverged(self.folder, str(error)) from error
        if edge.root() != known.root or (tail and leaf_hashes(tail) != partials[0][1]):
            raise _diverged(self.folder, f"the files of its right edge do not give size {known.size} the signed root")
        self._edge, self._tail = edge, tail

    def _read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    # --- writing ---

    def _write_full(self, entries: list[bytes]) -> list[str]:
        """Take in entries; write the bundles, then the tiles that they complete. The paths of both."""
        completed: list[str] = []
        index = self.size // TILE_WIDTH
        self._tail += entries
        while len(self._tail) >= TILE_WIDTH:
            path = Bundle(index).path
            self._put(path, encode_bundle(self._tail[:TILE_WIDTH]))
            del self._tail[:TILE_WIDTH]
            index += 1
            completed.append(path)
        for tile, content in self._edge.extend(leaf_hashes(entries)):
            self._put(tile.path, content)
            completed.append(tile.path)
        return completed

    def _put(self, path: str, content: bytes) -> None:
        """Write a file that never changes; one that is there must be equal."""
        file = self.folder / path
        self._make_folder(file.parent)
        self._unsynced.add(file.parent)
        try:
            found = file.read_bytes()
        except FileNotFoundError:
            self._disk.put(file, content)
            return
        if found != content:
            raise _diverged(file, "its bytes are not those that follow from the lines on disk")

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            self._disk.make_folder(folder)
            self._unsynced.add(folder.parent)

    def _prune(self, full_path: str) -> None:
        """Remove the partial files that the full one at this path replaces; nothing else."""
        folder = self.folder / f"{full_path}{_PARTIAL_SUFFIX}"
        if not folder.is_dir():
            return
        for file in folder.iterdir():
            if _WIDTH.fullmatch(file.name):
                self._disk.remove(file)
        if not any(folder.iterdir()):  # else something that is not ours lies there: the verifier names it
            self._disk.remove(folder)


def adds_a_signature(note: bytes, to: bytes) -> bool:
    """Whether a note is another one over the same text, by a key that the other is not signed by.

    A log's key is replaced by signing with the old and the new one for a while; so a size is signed anew, and its root
    stays. Nothing is verified here.
    """
    mine, others = SignedNote.parse(note), SignedNote.parse(to)
    return mine.text == others.text and not _keys_of(mine) <= _keys_of(others)


def _is_one_checkpoint(one: bytes, other: bytes) -> bool:
    """Whether two notes are over the same text and signed by a common key."""
    mine, others = SignedNote.parse(one), SignedNote.parse(other)
    return mine.text == others.text and bool(_keys_of(mine) & _keys_of(others))


def _keys_of(note: SignedNote) -> set[tuple[str, bytes]]:
    return {(line.key_name, line.key_id) for line in note.signatures}


def _paths_of(size: int) -> Iterator[str]:
    for bundle in bundles_of(size):
        yield bundle.path
    for tile in tiles_of(size):
        yield tile.path


def _chunks(entries: Iterable[bytes], count: int) -> Iterator[list[bytes]]:
    rest = islice(entries, count)
    while chunk := list(islice(rest, _CHUNK_ENTRIES)):
        yield chunk


def _diverged(place: Path, fault: str) -> StageStopped:
    return StageStopped(
        StopReason.LOG_DIVERGED,
        f"{place}: {fault}. Nothing was overwritten. Either the published files or the log's lines were changed: run "
        "meterproof verify to see which. If the lines hold, move the tlog folder away; the next start derives it again",
    )
