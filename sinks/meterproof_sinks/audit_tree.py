"""One of a log's two trees beside its lines: its checkpoint, its published folder, and the newest entries in memory."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Final

from meterproof_proofs.checkpoint import Checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.note import SignedNote
from meterproof_proofs.tile_proofs import TileTree
from meterproof_proofs.tree import EMPTY_ROOT, node_hash
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.tlog_folder import TlogFolder, adds_a_signature

_BOUNDARIES_MAX: Final = 16_384
"""Record ends whose roots are kept in memory; the roots of older ones are read from disk."""
_RECENT_MAX: Final = 262_144
"""Entries kept in memory for the next checkpoint's tiles (about 20 MB); if more come, they are read from disk then."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed checkpoint: what it says, and the note itself. Whoever makes one has verified the signature."""

    checkpoint: Checkpoint
    note: bytes


def read_signed(file: Path) -> Signed | None:
    """The checkpoint in a file of an audit folder; None if there is no such file. Its signature is not verified.

    Raises:
        DamagedAudit: it is no checkpoint.
        OSError: it cannot be read.
    """
    try:
        note = file.read_bytes()
        return Signed(Checkpoint.parse(SignedNote.parse(note).text), note)
    except FileNotFoundError:
        return None
    except ProofError as error:
        raise DamagedAudit(file, None, None, str(error)) from error


@dataclass(frozen=True, slots=True)
class SignedPair:
    """The checkpoints of a log's two trees at one record, as one record of the topic publishes them."""

    events: Signed
    records: Signed | None = None
    """None in what was signed before logs had a second tree."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Entries of the two trees: grows from pair to pair of a log."""
        return self.events.checkpoint.size, 0 if self.records is None else self.records.checkpoint.size


@dataclass(slots=True)
class AuditTree:
    """One of a log's two trees, as far as the lines on disk have it. Lives as long as its log's writer."""

    origin: str
    file: Path
    """Of its signed checkpoint."""
    tlog: TlogFolder
    size: int = 0
    """Entries on disk."""
    recent: list[bytes] = field(default_factory=list)
    """The last entries before the end, for the next checkpoint's tiles."""
    edges: OrderedDict[int, list[bytes]] = field(default_factory=OrderedDict)
    """What folds to the root at the last record ends, by size: the frontier's hashes, or the root alone."""
    kept_from: int = 0
    """Entries before this one stand in no segment any more: they were given up, and only the tiles tell of them."""
    signed: Signed | None = None
    """The checkpoint on disk."""

    def take(self, entries: Iterable[bytes], hashes: list[bytes]) -> None:
        """Count entries that are on the device."""
        before = len(self.recent)
        self.recent += entries
        self.size += len(self.recent) - before
        if len(self.recent) > _RECENT_MAX:
            self.recent = []
        self.note_end(hashes)

    def note_end(self, hashes: list[bytes]) -> None:
        """Remember what folds to the root at the present size."""
        self.edges[self.size] = hashes
        if len(self.edges) > _BOUNDARIES_MAX:
            self.edges.popitem(last=False)

    def wants(self, offered: Signed) -> bool:
        """Whether a checkpoint is larger than the one on disk, or of its size with one signature more."""
        if self.signed is None:
            return True
        size, own = offered.checkpoint.size, self.signed.checkpoint.size
        return size > own or (size == own and adds_a_signature(offered.note, self.signed.note))

    def root_in_memory(self, size: int) -> bytes | None:
        """The root over the first `size` entries, if it costs no reading."""
        if size == 0:
            return EMPTY_ROOT
        if (hashes := self.edges.get(size)) is None:
            return None
        return reduce(lambda root, left: node_hash(left, root), reversed(hashes))

    def published_root(self, size: int) -> bytes | None:
        """The root over the first `size` entries, by the published tiles; None if they do not tell."""
        if self.signed is None or size > self.signed.checkpoint.size:
            return None

        def read(path: str) -> bytes | None:
            file = self.tlog.folder / path
            return file.read_bytes() if file.is_file() else None

        try:
            return TileTree(self.signed.checkpoint.size, self.signed.checkpoint.root, read).root_at(size)
        except ProofError:
            return None
