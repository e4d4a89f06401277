"""Offline proofs (c2sp.org/tlog-proof): one file that shows that an entry is in a log, with no call to anybody.

Section "Format": the line `c2sp.org/tlog-proof@v1`; a line `extra <base64>` or none; the line `index <n>`; the hashes
of the inclusion proof, one per line in base64; an empty line; the signed checkpoint, verbatim. The file is best
called `*.tlog-proof`.
"""

import base64
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meterproof_proofs.canonical_base64 import decode_base64
from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.errors import MalformedCheckpoint, MalformedNote, MalformedTlogProof, TooFewWitnesses
from meterproof_proofs.note import MAX_NOTE_BYTES, SignedNote, Verifier
from meterproof_proofs.tree import HASH_BYTES, MAX_TREE_SIZE, check_hashes, verify_inclusion

if TYPE_CHECKING:
    from meterproof_proofs.cosignature import WitnessVerifier

MAX_PROOF_HASHES: Final = 63
"""Most hashes in a proof: the height of a tree of `MAX_TREE_SIZE`."""

_FIRST_LINE: Final = "c2sp.org/tlog-proof@v1"
_INDEX_LINE: Final = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)
_EXTRA: Final = "extra "


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A proof as it stands in its file: well formed, but nothing of it verified. To believe it, use `verify`."""

    index: int
    """Position of the entry in its log, from 0."""

    hashes: tuple[bytes, ...]
    """PATH(index, D[size]) of RFC 6962 section 2.1.1 for the checkpoint's size: at most 63, each 32 bytes."""

    checkpoint: bytes
    """The signed note of the checkpoint, with its cosignatures if there are any."""

    extra: bytes | None = None
    """Opaque and not authenticated: never believe it unverified. None for no such line."""

    def __post_init__(self) -> None:
        """Refuse what `parse` would not give back."""
        if not 0 <= self.index < MAX_TREE_SIZE:
            raise MalformedTlogProof(f"index {self.index} is not from 0 to {MAX_TREE_SIZE - 1}")
        if len(self.hashes) > MAX_PROOF_HASHES:
            raise MalformedTlogProof(f"{len(self.hashes)} hashes; a proof has at most {MAX_PROOF_HASHES}")
        check_hashes(self.hashes, "proof hash")
        if self.extra is not None and not self.extra:
            raise MalformedTlogProof("empty extra data; leave it out")
        try:
            Checkpoint.parse(SignedNote.parse(self.checkpoint).text)
        except (MalformedNote, MalformedCheckpoint) as error:
            raise MalformedTlogProof(str(error)) from error

    def format(self) -> bytes:
        """Return the bytes of the file; `parse` reads exactly them back."""
        lines = [_FIRST_LINE]
        if self.extra is not None:
            lines.append(_EXTRA + base64.b64encode(self.extra).decode("ascii"))
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(one).decode("ascii") for one in self.hashes]
        return "\n".join([*lines, "", ""]).encode() + self.checkpoint

    @classmethod
    def parse(cls, content: bytes) -> "TlogProof":
        """Read a proof strictly: `parse(content).format() == content` for everything it accepts.

        Raises:
            MalformedTlogProof: says what is wrong, and in which line.
        """
        if len(content) > 2 * MAX_NOTE_BYTES:
            raise MalformedTlogProof(f"{len(content)} bytes; at most {2 * MAX_NOTE_BYTES} are accepted")
        head, separator, checkpoint = content.partition(b"\n\n")
        if not separator:
            raise MalformedTlogProof("no empty line before the checkpoint")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise MalformedTlogProof("not ASCII", head.count(b"\n", 0, error.start) + 1) from error
        number = 1
        if lines[0] != _FIRST_LINE:
            raise MalformedTlogProof(f"the first line is not {_FIRST_LINE}", number)
        extra: bytes | None = None
        if number < len(lines) and lines[number].startswith(_EXTRA):
            extra = decode_base64(lines[number].removeprefix(_EXTRA))
            number += 1
            if not extra:
                raise MalformedTlogProof("the extra data is empty, or not canonical standard base64", number)
        index = _INDEX_LINE.fullmatch(lines[number]) if number < len(lines) else None
        number += 1
        if index is None:
            raise MalformedTlogProof("must be 'index' and a decimal number without sign or leading zeros", number)
        encoded = lines[number:]
        if len(encoded) > MAX_PROOF_HASHES:
            raise MalformedTlogProof(f"more than {MAX_PROOF_HASHES} hashes", number + MAX_PROOF_HASHES + 1)
        hashes: list[bytes] = []
        for line in encoded:
            number += 1
            decoded = decode_base64(line)
            if decoded is None or len(decoded) != HASH_BYTES:
                raise MalformedTlogProof("not the canonical standard base64 of a 32-byte hash", number)
            hashes.append(decoded)
        return cls(int(index[1]), tuple(hashes), checkpoint, extra)

    def verify(
        self,
        leaf: bytes,
        verifiers: Iterable[Verifier],
        *,
        origin: str,
        witnesses: "Collection[WitnessVerifier]" = (),
        witnesses_required: int = 0,
    ) -> Checkpoint:
        """Return the checkpoint that covers the entry if the proof holds; raise if not.

        The steps are those of section "Verifying a tlog proof".

        Args:
            leaf: leaf hash of the entry, which the caller computed from what it was told was logged.
            verifiers: keys of the log.
            origin: the log that is meant.
            witnesses: the witnesses that the caller knows.
            witnesses_required: how many of them must have cosigned.

        Raises:
            UnverifiedNote: the log's key did not sign, or the line of a known key is wrong.
            WrongOrigin: a proof from another log.
            TooFewWitnesses: fewer known witnesses cosigned than are required.
            WrongHashSize: the leaf hash is not 32 bytes long.
            BadProof: the entry is not at this index of the signed tree.

        """
        checkpoint = open_checkpoint(self.checkpoint, verifiers, origin=origin)
        if witnesses or witnesses_required:
            from meterproof_proofs.cosignature import verify_cosignatures  # noqa: PLC0415 - few need it

            cosigned = verify_cosignatures(self.checkpoint, witnesses)
            if len(cosigned) < witnesses_required:
                raise TooFewWitnesses(witnesses_required, tuple(one.witness for one in cosigned))
        verify_inclusion(leaf=leaf, index=self.index, size=checkpoint.size, proof=self.hashes, root=checkpoint.root)
        return checkpoint
