"""The public keys that a person gives to a command: as text, or in files."""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from meterproof_proofs.canonical_base64 import decode_base64
from meterproof_proofs.errors import MalformedKey
from meterproof_proofs.note import Verifier
from meterproof_proofs.producer_key import ProducerKey

_PUBLIC_KEY_BYTES: Final = 32
_BASE64_LENGTH: Final = len(base64.b64encode(bytes(_PUBLIC_KEY_BYTES)))
_DATES: Final = ("valid_from", "valid_until", "revoked_at")


class NoVerifierKey(Exception):
    """The keys to verify with cannot be had; the text says why."""


def read_verifiers(given: str | Path) -> list[Verifier]:
    """The verifier keys that are given: one as text, a file with one per line, or a folder's `*.vkey` files.

    Empty lines and lines that begin with `#` are ignored.

    Raises:
        NoVerifierKey: there is none, or a line is not a verifier key.
    """
    path = Path(given)
    if isinstance(given, str) and "+" in given and not path.exists():
        return [_verifier(given, "--vkey")]
    files = sorted(path.glob("*.vkey")) if path.is_dir() else [path]
    verifiers = [_verifier(line, where) for file in files for line, where in _lines(file)]
    if not verifiers:
        raise NoVerifierKey(
            f"{path}: holds no verifier key; ask the log's owner for it, not whoever gave you the folder"
        )
    return verifiers


def read_producer_keys(given: str) -> list[ProducerKey]:
    """The producers' Ed25519 public keys that are given.

    As text: base64 of a key; it may be anybody's, at any time. As a file: one such text per line, or a deployment's key
    registry, of which the Ed25519 keys are taken with their producers and dates, and not what they may report.

    Raises:
        NoVerifierKey: there is none, or a line is not a key.
    """
    path = Path(given)
    if len(given) == _BASE64_LENGTH and not path.exists():
        return [ProducerKey(_public_key(given, "--producer-key"))]
    content = _read(path)
    if content.lstrip().startswith("{"):
        try:
            listed = [one for one in json.loads(content)["keys"] if one["algorithm"] == "ed25519"]
            keys = [
                ProducerKey(
                    _public_key(one["public_key"], str(path)),
                    str(one["producer"]),
                    **{name: one[name] for name in _DATES if one.get(name) is not None},
                )
                for one in listed
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NoVerifierKey(f"{path}: is no key registry: {error}") from error
    else:
        keys = [ProducerKey(_public_key(line, where)) for line, where in _lines(path)]
    if not keys:
        raise NoVerifierKey(f"{path}: holds no producer's Ed25519 key")
    return keys


def _lines(file: Path) -> Iterable[tuple[str, str]]:
    """The lines of a file that say something, with the place of each."""
    for number, line in enumerate(_read(file).splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield line.strip(), f"{file}, line {number}"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NoVerifierKey(f"{file}: cannot be read: {error}") from error


def _verifier(text: str, where: str) -> Verifier:
    try:
        return Verifier.parse(text)
    except MalformedKey as error:
        raise NoVerifierKey(f"{where}: {error}") from error


def _public_key(text: object, where: str) -> bytes:
    raw = decode_base64(text) if isinstance(text, str) else None
    if raw is None or len(raw) != _PUBLIC_KEY_BYTES:
        raise NoVerifierKey(f"{where}: is not the base64 of an Ed25519 public key of {_PUBLIC_KEY_BYTES} bytes")
    return raw
