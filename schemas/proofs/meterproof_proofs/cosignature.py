"""Cosignatures (c2sp.org/tlog-cosignature v1.0.1, Ed25519): a witness vouches for a checkpoint, with a time.

A cosignature says: at this time, this was the largest tree of this log that I have seen, and it extends all those
that I saw before. It says nothing about the entries. Section "Ed25519 signed message": signed are the line
`cosignature/v1`, the line `time <seconds>`, and the whole text of the checkpoint; the payload is the time as 8 bytes,
big-endian, and the signature. The message does not commit to the witness's name, so one key stands for one witness.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from meterproof_proofs.checkpoint import Checkpoint
from meterproof_proofs.errors import MalformedKey, OutOfRange, UnverifiedNote
from meterproof_proofs.named_key import COSIGNATURE_TYPE, NamedKey
from meterproof_proofs.note import NoteSignature, SignedNote

MAX_COSIGNATURE_TIME_S: Final = 2**63 - 1
"""Latest time that a cosignature may state, in POSIX seconds."""

_SEED_BYTES: Final = 32
_TIME_BYTES: Final = 8
_PAYLOAD_BYTES: Final = _TIME_BYTES + 64


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A witness's verified word. Immutable."""

    witness: str
    """Name of its key."""

    time_s: int
    """When it says that it cosigned: POSIX seconds, by its own clock."""


@dataclass(frozen=True, slots=True)
class WitnessVerifier(NamedKey):
    """A trusted witness's Ed25519 cosignature key under a name. Immutable; lives as long as the trust in it."""

    KEY_TYPE = COSIGNATURE_TYPE

    def verified_time_s(self, text: str, signature: bytes) -> int | None:
        """Return the time that a cosignature (72 bytes) states if it is this key's over the note text; None if not."""
        if len(signature) != _PAYLOAD_BYTES:
            return None
        time_s = int.from_bytes(signature[:_TIME_BYTES], "big")
        if time_s > MAX_COSIGNATURE_TIME_S:
            return None
        try:
            key = Ed25519PublicKey.from_public_bytes(self.public_key)
            key.verify(signature[_TIME_BYTES:], _message(text, time_s))
        except (InvalidSignature, ValueError):
            return None
        return time_s


class WitnessSigner:
    """A witness's signing key under a name. It never shows its secret. Lives as long as the process that may cosign."""

    __slots__ = ("_private_key", "verifier")

    verifier: WitnessVerifier
    """The public half."""

    def __init__(self, name: str, seed: bytes) -> None:
        """Make the key of this name from its 32-byte seed (RFC 8032 section 5.1.5).

        Raises:
            MalformedKey: a bad name, or a seed of another length.
        """
        if len(seed) != _SEED_BYTES:
            message = f"the seed is {len(seed)} bytes long, not {_SEED_BYTES}"
            raise MalformedKey(message)
        self._private_key = Ed25519PrivateKey.from_private_bytes(bytes(seed))
        self.verifier = WitnessVerifier(name, self._private_key.public_key().public_bytes_raw())

    def cosign(self, checkpoint: Checkpoint, time_s: int) -> NoteSignature:
        """Return this witness's cosignature of a checkpoint at a time, in POSIX seconds. Deterministic.

        That the checkpoint is signed by its log and extends all that this witness cosigned before is the caller's duty.

        Raises:
            OutOfRange: the time is not from 0 to 2^63 - 1.
        """
        if not 0 <= time_s <= MAX_COSIGNATURE_TIME_S:
            raise OutOfRange("cosignature time", time_s, 0, MAX_COSIGNATURE_TIME_S)
        signature = self._private_key.sign(_message(checkpoint.format(), time_s))
        payload = time_s.to_bytes(_TIME_BYTES, "big") + signature
        return NoteSignature(self.verifier.name, self.verifier.key_id, payload)

    def __repr__(self) -> str:
        """Show the public half."""
        return f"WitnessSigner({self.verifier.vkey})"


def add_signatures(note: bytes, signatures: Iterable[NoteSignature]) -> bytes:
    """Return a signed note with more signature lines behind those it has.

    Raises:
        MalformedNote: the bytes are not a signed note, or one key would have two lines.
    """
    parsed = SignedNote.parse(note)
    return SignedNote(parsed.text, (*parsed.signatures, *signatures)).format()


def verify_cosignatures(note: bytes, witnesses: Iterable[WitnessVerifier]) -> tuple[Cosignature, ...]:
    """Return the known witnesses' cosignatures of a note, in the note's order; none is no error.

    Lines by unknown keys are ignored; a line by a known key that fails refuses the whole note. The log's own
    signature is not looked at: that is `open_checkpoint`.

    Raises:
        MalformedNote: the bytes are not a signed note.
        MalformedKey: one key is given under two names: it would count twice.
        UnverifiedNote: the line of a known witness is wrong.
    """
    known: dict[tuple[str, bytes], WitnessVerifier] = {}
    names: dict[bytes, str] = {}
    for witness in witnesses:
        if names.setdefault(witness.public_key, witness.name) != witness.name:
            message = f"one key is called {names[witness.public_key]} and {witness.name}; it is one witness"
            raise MalformedKey(message)
        known[witness.name, witness.key_id] = witness
    parsed = SignedNote.parse(note)
    found: list[Cosignature] = []
    for signature in parsed.signatures:
        trusted = known.get((signature.key_name, signature.key_id))
        if trusted is None:
            continue
        time_s = trusted.verified_time_s(parsed.text, signature.signature)
        if time_s is None:
            message = "the cosignature by a known witness is wrong"
            raise UnverifiedNote(message, (signature.key_name,))
        found.append(Cosignature(trusted.name, time_s))
    return tuple(found)


def _message(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()
