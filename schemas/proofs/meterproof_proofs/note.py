"""Signed notes (c2sp.org/signed-note v1.0.0) with Ed25519 keys: parse, sign, open.

A note is a text that ends in a newline, an empty line, and one signature line or more. The signature covers the text,
its last newline included, the empty line not. Only the bytes of a note that `open_note` returned may be believed.
"""

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from meterproof_proofs.canonical_base64 import decode_base64
from meterproof_proofs.errors import MalformedKey, MalformedNote, UnverifiedNote
from meterproof_proofs.named_key import (
    CONTROL_CHARACTER,
    ED25519_TYPE,
    KEY_ID_BYTES,
    NamedKey,
    check_key_name,
    split_key,
)

MAX_NOTE_BYTES: Final = 1_000_000
"""Longest note accepted, in bytes."""

MAX_SIGNATURES: Final = 100
"""Most signature lines accepted in a note; the format demands at least 16."""

_SEED_BYTES: Final = 32
_SIGNATURE_PREFIX: Final = "\u2014 "
_PRIVATE_PREFIX: Final = "PRIVATE+KEY+"


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line, not verified: who claims to have signed, and the bytes that should show it."""

    key_name: str
    """Name of the key, as the line states it."""

    key_id: bytes
    """First 4 bytes of the hash over name, type and public key: a hint which key to try, nothing to trust."""

    signature: bytes
    """What the key's algorithm produced over the text: 64 bytes for Ed25519."""

    def __post_init__(self) -> None:
        """Refuse what would not survive a round trip through a signature line."""
        check_key_name(self.key_name)
        if len(self.key_id) != KEY_ID_BYTES:
            message = f"the key id is {len(self.key_id)} bytes long, not {KEY_ID_BYTES}"
            raise MalformedKey(message)
        if not self.signature:
            message = "an empty signature"
            raise MalformedNote(message)


@dataclass(frozen=True, slots=True)
class SignedNote:
    """A note as it stands on the wire: well formed, but nothing of it verified. To believe it, use `open_note`."""

    text: str
    """What is signed; ends in a newline."""

    signatures: tuple[NoteSignature, ...]
    """The signature lines in order: at least one, no two by the same key name and key id."""

    def __post_init__(self) -> None:
        """Refuse what `parse` would not give back."""
        _check_text(self.text)
        if not 1 <= len(self.signatures) <= MAX_SIGNATURES:
            message = f"{len(self.signatures)} signatures; there must be 1 to {MAX_SIGNATURES}"
            raise MalformedNote(message)
        keys = [(signature.key_name, signature.key_id) for signature in self.signatures]
        if len(set(keys)) != len(keys):
            message = "two signature lines by one key"
            raise MalformedNote(message)

    def format(self) -> bytes:
        """Return the bytes of the note; `parse` reads exactly them back."""
        lines = [
            f"{_SIGNATURE_PREFIX}{one.key_name} {base64.b64encode(one.key_id + one.signature).decode('ascii')}\n"
            for one in self.signatures
        ]
        return "".join([self.text, "\n", *lines]).encode()

    @classmethod
    def parse(cls, note: bytes) -> "SignedNote":
        """Read a note strictly: `parse(note).format() == note` for everything it accepts.

        Beyond the format's own rules, two lines with the same key name and key id are refused whether or not the key is
        known (the format leaves it open), as are more than `MAX_NOTE_BYTES` or `MAX_SIGNATURES`.

        Raises:
            MalformedNote: says what is wrong, and in which line.
        """
        if len(note) > MAX_NOTE_BYTES:
            message = f"{len(note)} bytes; at most {MAX_NOTE_BYTES} are accepted"
            raise MalformedNote(message)
        try:
            whole = note.decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"not UTF-8 at byte {error.start}"
            raise MalformedNote(message, note.count(b"\n", 0, error.start) + 1) from error
        control = CONTROL_CHARACTER.search(whole)
        if control:
            message = f"control character U+{ord(control[0]):04X}"
            raise MalformedNote(message, whole.count("\n", 0, control.start()) + 1)
        if not whole.endswith("\n"):
            message = "the last line does not end in a newline"
            raise MalformedNote(message, whole.count("\n") + 1)
        separator = whole.rfind("\n\n")
        if separator < 0:
            message = "no empty line between text and signatures"
            raise MalformedNote(message)
        if separator + 2 == len(whole):
            message = "no signature line after the last empty line"
            raise MalformedNote(message)
        text = whole[: separator + 1]
        lines = whole[separator + 2 : -1].split("\n")
        if len(lines) > MAX_SIGNATURES:
            message = f"{len(lines)} signature lines; at most {MAX_SIGNATURES} are accepted"
            raise MalformedNote(message)
        first = text.count("\n") + 2
        signatures: dict[tuple[str, bytes], NoteSignature] = {}
        for number, line in enumerate(lines, first):
            signature = _parse_signature_line(line, number)
            key = (signature.key_name, signature.key_id)
            if key in signatures:
                message = "a second signature line by one key"
                raise MalformedNote(message, number)
            signatures[key] = signature
        return cls(text, tuple(signatures.values()))


@dataclass(frozen=True, slots=True)
class Verifier(NamedKey):
    """A trusted Ed25519 public key under a name. Immutable; lives as long as the trust in it."""

    KEY_TYPE = ED25519_TYPE

    def verifies(self, text: str, signature: bytes) -> bool:
        """Tell whether `signature` (64 bytes) is this key's over `text`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, text.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


class Signer:
    """An Ed25519 signing key under a name.

    Promises to show its secret through `private_key_text` alone: not in `repr`, not in an error, not in a pickle.
    Signing is deterministic. Lives as long as the process that may sign.
    """

    __slots__ = ("_private_key", "_seed", "verifier")

    verifier: Verifier
    """The public half."""

    def __init__(self, name: str, seed: bytes) -> None:
        """Make the key of this name from its 32-byte seed (RFC 8032 section 5.1.5).

        Raises:
            MalformedKey: a bad name, or a seed of another length.
        """
        if len(seed) != _SEED_BYTES:
            message = f"the seed is {len(seed)} bytes long, not {_SEED_BYTES}"
            raise MalformedKey(message)
        self._seed = bytes(seed)
        self._private_key = Ed25519PrivateKey.from_private_bytes(self._seed)
        self.verifier = Verifier(name, self._private_key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, name: str, random_bytes: Callable[[int], bytes]) -> "Signer":
        """Make a new key from `random_bytes(32)`; give it `os.urandom` or `secrets.token_bytes`."""
        return cls(name, random_bytes(_SEED_BYTES))

    @classmethod
    def parse(cls, private_key: str) -> "Signer":
        """Read `PRIVATE+KEY+<name>+<8 hex digits of key id>+<base64 of type byte and seed>`.

        Raises:
            MalformedKey: not of that form, the key id is not the key's, or another type than Ed25519.
        """
        if not private_key.startswith(_PRIVATE_PREFIX):
            message = f"a private key starts with {_PRIVATE_PREFIX}"
            raise MalformedKey(message)
        name, key_id, seed = split_key(private_key.removeprefix(_PRIVATE_PREFIX), ED25519_TYPE)
        signer = cls(name, seed)
        if signer.verifier.key_id != key_id:
            message = f"key id {key_id.hex()} does not belong to this name and key"
            raise MalformedKey(message)
        return signer

    @property
    def name(self) -> str:
        """Name of the key."""
        return self.verifier.name

    def private_key_text(self) -> str:
        """Return the secret in the text form that `parse` reads. Whoever has it can sign."""
        secret = base64.b64encode(ED25519_TYPE + self._seed).decode("ascii")
        return f"{_PRIVATE_PREFIX}{self.name}+{self.verifier.key_id.hex()}+{secret}"

    def sign(self, text: str) -> NoteSignature:
        """Return this key's signature over a note text.

        Raises:
            MalformedNote: the text cannot stand in a note.
        """
        _check_text(text)
        return NoteSignature(self.name, self.verifier.key_id, self._private_key.sign(text.encode()))

    def __repr__(self) -> str:
        """Show the public half only."""
        return f"Signer({self.verifier.vkey!r})"

    def __reduce__(self) -> str:
        """Refuse to be pickled or deep-copied, which would carry the secret along unseen."""
        message = "a Signer is not pickled; use private_key_text() where the secret must travel"
        raise TypeError(message)


@dataclass(frozen=True, slots=True)
class VerifiedNote:
    """A note that at least one trusted key signed and no trusted key's signature contradicts."""

    text: str
    """What was signed; ends in a newline."""

    verified: tuple[NoteSignature, ...]
    """The signatures by trusted keys, in the note's order: at least one."""

    unverified: tuple[NoteSignature, ...]
    """Signature lines by keys that are not known here. They prove nothing."""


def sign_note(text: str, signers: Iterable[Signer]) -> bytes:
    """Return the signed note over `text` with one line per signer, in order.

    Raises:
        MalformedNote: the text cannot stand in a note, no signer was given, or one twice.
    """
    return SignedNote(text, tuple(signer.sign(text) for signer in signers)).format()


def open_note(note: bytes, verifiers: Iterable[Verifier]) -> VerifiedNote:
    """Parse a note and verify it against the trusted keys.

    Lines by unknown keys are ignored, even if they share a name or a key id with a known one. A line by a known key
    that fails refuses the whole note, as does a note without a line by a known key.

    Raises:
        MalformedNote: the bytes are not a note.
        MalformedKey: two different verifiers share name and key id.
        UnverifiedNote: a known key's signature is wrong, or no known key signed.
    """
    known: dict[tuple[str, bytes], Verifier] = {}
    for verifier in verifiers:
        if known.setdefault((verifier.name, verifier.key_id), verifier) != verifier:
            message = f"two different keys are called {verifier.name}+{verifier.key_id.hex()}"
            raise MalformedKey(message)
    parsed = SignedNote.parse(note)
    verified, unverified = [], []
    for signature in parsed.signatures:
        trusted = known.get((signature.key_name, signature.key_id))
        if trusted is None:
            unverified.append(signature)
        elif trusted.verifies(parsed.text, signature.signature):
            verified.append(signature)
        else:
            message = "the signature by a known key is wrong"
            raise UnverifiedNote(message, (signature.key_name,))
    if not verified:
        message = "no signature by a known key"
        raise UnverifiedNote(message, tuple(signature.key_name for signature in unverified))
    return VerifiedNote(parsed.text, tuple(verified), tuple(unverified))


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        message = "the text does not end in a newline"
        raise MalformedNote(message)
    control = CONTROL_CHARACTER.search(text)
    if control:
        message = f"control character U+{ord(control[0]):04X} in the text"
        raise MalformedNote(message, text.count("\n", 0, control.start()) + 1)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = "the text cannot be written as UTF-8"
        raise MalformedNote(message, text.count("\n", 0, error.start) + 1) from error


def _parse_signature_line(line: str, number: int) -> NoteSignature:
    if not line.startswith(_SIGNATURE_PREFIX):
        message = "a signature line starts with an em dash and a space"
        raise MalformedNote(message, number)
    name, space, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
    try:
        check_key_name(name)
    except MalformedKey as error:
        raise MalformedNote(error.problem, number) from error
    payload = decode_base64(encoded)
    if not space or payload is None or len(payload) <= KEY_ID_BYTES:
        message = "after the key name there must be one space and the base64 of key id and signature"
        raise MalformedNote(message, number)
    return NoteSignature(name, payload[:KEY_ID_BYTES], payload[KEY_ID_BYTES:])
