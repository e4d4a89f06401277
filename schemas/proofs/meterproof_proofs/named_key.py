"""Public keys under a name, in the text form of C2SP (c2sp.org/signed-note v1.0.0, section "Verifier keys").

`<name>+<8 hex digits of key id>+<base64 of type byte and key>`: Ed25519 keys of logs and of witnesses have it alike,
and differ in the type byte.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from meterproof_proofs.canonical_base64 import decode_base64
from meterproof_proofs.errors import MalformedKey

KEY_ID_BYTES: Final = 4
"""Length of a key id."""
PUBLIC_KEY_BYTES: Final = 32
"""Length of an Ed25519 public key (RFC 8032)."""
CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
"""What neither a key's name nor a note may hold."""
ED25519_TYPE: Final = b"\x01"
"""Type byte of a key that signs notes."""
COSIGNATURE_TYPE: Final = b"\x04"
"""Type byte of a key that cosigns checkpoints."""
_KEY_TYPES: Final = {ED25519_TYPE: "Ed25519 (0x01)", COSIGNATURE_TYPE: "an Ed25519 cosignature key (0x04)"}
_KEY_ID_HEX: Final = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class NamedKey:
    """An Ed25519 public key under a name; its subclasses say what it is trusted to sign. Immutable."""

    KEY_TYPE: ClassVar[bytes]
    """The type byte."""

    name: str
    """Name of the key: non-empty, no spaces, no `+`; best a schema-less URL, and the origin for a log's key."""

    public_key: bytes
    """The Ed25519 public key, 32 bytes (RFC 8032)."""

    def __post_init__(self) -> None:
        """Refuse a bad name and a public key that is none."""
        check_key_name(self.name)
        if len(self.public_key) != PUBLIC_KEY_BYTES:
            message = f"the public key is {len(self.public_key)} bytes long, not {PUBLIC_KEY_BYTES}"
            raise MalformedKey(message)

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Read a verifier key `<name>+<8 hex digits of key id>+<base64 of type byte and public key>`.

        Base64 may contain `+`, so only the first two separate.

        Raises:
            MalformedKey: not of that form, the key id is not the key's, or another type.
        """
        name, key_id, key = split_key(vkey, cls.KEY_TYPE)
        verifier = cls(name, key)
        if verifier.key_id != key_id:
            message = f"key id {key_id.hex()} does not belong to this name and key, {verifier.key_id.hex()} does"
            raise MalformedKey(message)
        return verifier

    @property
    def key_id(self) -> bytes:
        """First 4 bytes of SHA-256(name || newline || type byte || public key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + self.KEY_TYPE + self.public_key).digest()[:KEY_ID_BYTES]

    @property
    def vkey(self) -> str:
        """The text form that `parse` reads."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self.KEY_TYPE + self.public_key).decode('ascii')}"

    def __str__(self) -> str:
        """Return the text form."""
        return self.vkey


def check_key_name(name: str) -> None:
    """Refuse a key name that is empty or holds a space, a control character or `+`.

    Raises:
        MalformedKey: says which.
    """
    if not name:
        message = "the key name is empty"
        raise MalformedKey(message)
    if "+" in name or CONTROL_CHARACTER.search(name) or any(character.isspace() for character in name):
        message = f"the key name {name!a} holds a space, a control character or '+'"
        raise MalformedKey(message)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        message = f"the key name {name!a} cannot be written as UTF-8"
        raise MalformedKey(message) from error


def split_key(text: str, key_type: bytes) -> tuple[str, bytes, bytes]:
    """Take apart `<name>+<key id>+<base64>` into name, key id and the bytes after the type byte.

    Base64 may contain `+`, so only the first two separate.

    Raises:
        MalformedKey: not of that form, or of another type than `key_type`.
    """
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    check_key_name(name)
    if not _KEY_ID_HEX.fullmatch(key_id):
        message = "the key id between the first and second '+' must be 8 lower-case hex digits"
        raise MalformedKey(message)
    payload = decode_base64(encoded)
    if not payload:
        message = "what follows the second '+' must be the base64 of type byte and key"
        raise MalformedKey(message)
    if payload[:1] != key_type:
        message = f"key type 0x{payload[0]:02x} is not supported; only {_KEY_TYPES[key_type]} is"
        raise MalformedKey(message)
    return name, bytes.fromhex(key_id), payload[1:]
