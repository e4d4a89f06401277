"""Keys that are 32 secret bytes, in files written once, for their owner only, whose prefix says what they are."""

import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final, Self

from meterproof.durable_file import sync_folder
from meterproof.errors import InvalidKey

_SEED_BYTES: Final = 32


class SeedKey:
    """A key that is 32 secret bytes, in memory or in a file. Its repr and errors never show them."""

    prefix: ClassVar[str]
    """What its file begins with."""
    command: ClassVar[str]
    """What makes such a file."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != _SEED_BYTES:
            message = f"an Ed25519 seed has {_SEED_BYTES} bytes"
            raise InvalidKey(message)
        self._seed = seed

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes] = os.urandom) -> Self:
        """A new key."""
        return cls(random_bytes(_SEED_BYTES))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key file.

        Raises:
            InvalidKey: the file is missing, readable by others, or of another kind.
        """
        return cls(_read_seed(path, cls.prefix, cls.command))

    def save(self, path: Path) -> None:
        """Write the key file, readable by its owner only; on the device, with its name, when this returns.

        Raises:
            InvalidKey: there is a file already; a key is never overwritten.
            OSError: the disk is full or fails; nothing is left that would look like a key.
        """
        _write_seed(path, self.prefix, self._seed)


def _read_seed(path: Path, prefix: str, command: str) -> bytes:
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"key file {path} cannot be read ({type(error).__name__}); make one with `{command}`"
        raise InvalidKey(message) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        message = f"key file {path} is readable by others; run `chmod 600 {path}`"
        raise InvalidKey(message)
    try:
        seed = b64decode(text.removeprefix(prefix), validate=True) if text.startswith(prefix) else b""
    except ValueError:
        seed = b""
    if len(seed) != _SEED_BYTES:
        message = f"key file {path} is not of the kind that `{command}` makes"
        raise InvalidKey(message)
    return seed


def _write_seed(path: Path, prefix: str, seed: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        message = f"{path} exists, and a key is never overwritten; choose another name"
        raise InvalidKey(message) from None
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(prefix + b64encode(seed).decode() + "\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
