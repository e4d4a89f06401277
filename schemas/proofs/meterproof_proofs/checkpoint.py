"""Checkpoints (c2sp.org/tlog-checkpoint v1.0.0): a log's origin, size and root, signed as a note."""

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from meterproof_proofs.canonical_base64 import decode_base64
from meterproof_proofs.errors import MalformedCheckpoint, WrongHashSize, WrongOrigin
from meterproof_proofs.note import Signer, Verifier, open_note, sign_note
from meterproof_proofs.tree import EMPTY_ROOT, MAX_TREE_SIZE, check_hash

_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f]")
_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log commits to: its first `size` entries have the root `root`. Immutable.

    Extension lines, which the format advises against because no log auditor can check them, are refused: what could not
    be compared between two checkpoints of one size is not worth signing.
    """

    origin: str
    """Name of the log: one non-empty line. The key name of the log's own signature should be the same."""

    size: int
    """Number of entries: 0 to 2^63 - 1."""

    root: bytes
    """RFC 6962 root over them, 32 bytes."""

    def __post_init__(self) -> None:
        """Refuse what no checkpoint can hold.

        Raises:
            MalformedCheckpoint: an impossible origin or size, or size 0 with another root than the empty tree's.
            WrongHashSize: the root is not 32 bytes long.
        """
        _check_origin(self.origin)
        if not 0 <= self.size <= MAX_TREE_SIZE:
            message = f"size {self.size} is not from 0 to {MAX_TREE_SIZE}"
            raise MalformedCheckpoint(message, 2)
        check_hash(self.root, "checkpoint root")
        if self.size == 0 and self.root != EMPTY_ROOT:
            message = "size 0 with another root than the empty tree's"
            raise MalformedCheckpoint(message, 3)

    def format(self) -> str:
        """Return the note text: origin, size and base64 of the root, each on its line."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode('ascii')}\n"

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read a note text strictly: `parse(text).format() == text` for everything it accepts.

        Verifies no signature: for bytes from elsewhere use `open_checkpoint`.

        Raises:
            MalformedCheckpoint: says what is wrong, and in which line.
        """
        lines = text.split("\n")
        if len(lines) <= _LINES or not text.endswith("\n"):
            message = "a checkpoint has three lines (origin, size, root), each ended by a newline"
            raise MalformedCheckpoint(message)
        if len(lines) > _LINES + 1:
            message = "extension lines are not accepted"
            raise MalformedCheckpoint(message, _LINES + 1)
        origin, size, encoded_root, _ = lines
        _check_origin(origin)
        if not _SIZE.fullmatch(size):
            message = "the size must be a decimal number without sign, spaces or leading zeros"
            raise MalformedCheckpoint(message, 2)
        root = decode_base64(encoded_root)
        if root is None:
            message = "the root is not canonical standard base64"
            raise MalformedCheckpoint(message, 3)
        try:
            return cls(origin, int(size), root)
        except WrongHashSize as error:
            raise MalformedCheckpoint(str(error), 3) from error


def sign_checkpoint(checkpoint: Checkpoint, signers: Iterable[Signer]) -> bytes:
    """Return the checkpoint as a signed note, one line per signer in order. The same input gives the same bytes.

    A log must never sign two roots for one size, nor a checkpoint that does not extend all it signed before: that is
    the caller's duty, for it needs memory.

    Raises:
        MalformedNote: no signer was given, or one twice.
    """
    return sign_note(checkpoint.format(), signers)


def open_checkpoint(note: bytes, verifiers: Iterable[Verifier], *, origin: str | None = None) -> Checkpoint:
    """Verify a signed checkpoint and return it.

    Give the `origin` of the log that is meant wherever one key signs for several logs, or keys of several logs are
    trusted: without it, a validly signed checkpoint of any of them is returned.

    Raises:
        MalformedNote: the bytes are not a signed note.
        UnverifiedNote: a known key's signature is wrong, or no known key signed.
        MalformedCheckpoint: a signed note, but not a checkpoint.
        WrongOrigin: a checkpoint of another log than `origin`.
    """
    checkpoint = Checkpoint.parse(open_note(note, verifiers).text)
    if origin is not None and checkpoint.origin != origin:
        raise WrongOrigin(origin, checkpoint.origin)
    return checkpoint


def _check_origin(origin: str) -> None:
    if not origin:
        message = "the origin is empty"
        raise MalformedCheckpoint(message, 1)
    control = _CONTROL_CHARACTER.search(origin)
    if control:
        message = f"control character U+{ord(control[0]):04X} in the origin"
        raise MalformedCheckpoint(message, 1)
