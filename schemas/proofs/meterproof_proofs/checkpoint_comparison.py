"""Two signed checkpoints of one log: the same, consistent, a fork, or not to be known from what is here."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.errors import BadProof, BadTile, MissingTile, ProofError, WrongOrigin
from meterproof_proofs.event_proof import keys_of_log
from meterproof_proofs.note import SignedNote, Verifier
from meterproof_proofs.tile_proofs import TileTree
from meterproof_proofs.tree import verify_consistency

ComparisonVerdict = Literal["same", "consistent", "fork", "unknown"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two validly signed checkpoints of one log say of each other."""

    verdict: ComparisonVerdict
    """`same`: one size, one root. `consistent`: the larger one extends the smaller. `fork`: one size and two roots, or
    the tree behind the larger one, verified against it, has another root where the smaller one stands: both are signed,
    so this is proof against the log. `unknown`: nothing that was given shows either."""
    old: Checkpoint
    """The smaller one."""
    new: Checkpoint
    detail: str


def compare_checkpoints(
    first: bytes,
    second: bytes,
    verifiers: Iterable[Verifier],
    *,
    read: Callable[[str], bytes | None] | None = None,
    proof: Sequence[bytes] | None = None,
) -> Comparison:
    """Compare two signed checkpoints, in either order.

    Args:
        first: a signed note.
        second: another.
        verifiers: keys of logs; one named like the log is the only one for it.
        read: reads a file of the log as tiles, by its path, at least up to the larger size; tiles decide both ways.
        proof: a consistency proof. A wrong one proves nothing: what it does not show stays unknown.

    Raises:
        UnverifiedNote: one is not signed by the log's key.
        WrongOrigin: they are of two logs.
        ProofError: one of them is no checkpoint.
    """
    keys = list(verifiers)
    opened = []
    for note in (first, second):
        origin = Checkpoint.parse(SignedNote.parse(note).text).origin
        opened.append(open_checkpoint(note, keys_of_log(keys, origin)))
    old, new = sorted(opened, key=lambda one: one.size)
    if old.origin != new.origin:
        raise WrongOrigin(opened[0].origin, opened[1].origin)
    if old.size == new.size:
        if old.root == new.root:
            return Comparison("same", old, new, f"both are of size {old.size} with the same root")
        return Comparison("fork", old, new, f"two roots are signed for size {old.size}: keep both files, they prove it")
    if old.size == 0:
        return Comparison("consistent", old, new, "everything extends the empty log")
    if proof is not None:
        return _by_proof(old, new, proof)
    if read is not None:
        return _by_tiles(old, new, read)
    return Comparison("unknown", old, new, "the sizes differ: give the log as tiles, or a consistency proof")


def read_tlog(folder: Path) -> Callable[[str], bytes | None]:
    """A reader of a folder that holds a log as tiles."""

    def read(path: str) -> bytes | None:
        try:
            return (folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    return read


def _by_proof(old: Checkpoint, new: Checkpoint, proof: Sequence[bytes]) -> Comparison:
    try:
        verify_consistency(old_size=old.size, old_root=old.root, new_size=new.size, new_root=new.root, proof=proof)
    except ProofError as error:
        return Comparison("unknown", old, new, f"the proof does not hold, which shows nothing: {error}")
    return Comparison("consistent", old, new, f"the proof shows that size {new.size} extends size {old.size}")


def _by_tiles(old: Checkpoint, new: Checkpoint, read: Callable[[str], bytes | None]) -> Comparison:
    try:
        root = TileTree(new.size, new.root, read).root_at(old.size)
    except (BadTile, MissingTile, BadProof) as error:
        return Comparison("unknown", old, new, f"the tiles do not give the tree of size {new.size}: {error}")
    if root == old.root:
        return Comparison("consistent", old, new, f"the tiles show that size {new.size} extends size {old.size}")
    detail = f"the tree of size {new.size} has another root at size {old.size} than the one that is signed: keep both"
    return Comparison("fork", old, new, detail)
