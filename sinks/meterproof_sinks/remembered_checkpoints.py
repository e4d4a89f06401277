"""Checkpoints that somebody kept from before: a log that is shown now must have grown out of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.event_proof import keys_of_log
from meterproof_proofs.note import SignedNote, Verifier


class NoCheckpoint(Exception):
    """A file is not a checkpoint that one of the keys signed; the text says which and why."""


@dataclass(frozen=True, slots=True)
class RememberedCheckpoint:
    """A validly signed checkpoint of one of a log's trees, and where it was kept."""

    file: Path
    checkpoint: Checkpoint


def load_remembered(paths: Sequence[Path], verifiers: Sequence[Verifier]) -> list[RememberedCheckpoint]:
    """The checkpoints in files, or in all files of folders.

    Raises:
        NoCheckpoint: one of them is none, or is signed by another key, or a folder is empty.
        OSError: one cannot be read.
    """
    return [_load(file, verifiers) for path in paths for file in _files(path)]


def _files(path: Path) -> list[Path]:
    """The file, or a folder's: at least one, for who names what was kept wants it compared."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    if not files:
        raise NoCheckpoint(f"{path}: holds no checkpoint")
    return files


def _load(file: Path, verifiers: Sequence[Verifier]) -> RememberedCheckpoint:
    note = file.read_bytes()
    try:
        origin = Checkpoint.parse(SignedNote.parse(note).text).origin
        return RememberedCheckpoint(file, open_checkpoint(note, keys_of_log(verifiers, origin), origin=origin))
    except ProofError as error:
        raise NoCheckpoint(f"{file}: {error}") from error
