"""Files that hold 32 secret bytes: written once, for their owner only, with a prefix that says what they are."""

import os
import stat
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Final

from meterproof.errors import InvalidKey

SEED_BYTES: Final = 32


def read_seed(path: Path, prefix: str, command: str) -> bytes:
    """The 32 secret bytes of a key file.

    Raises:
        InvalidKey: the file is missing, readable by others, or of another kind; the text never quotes its content.
    """
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
    if len(seed) != SEED_BYTES:
        message = f"key file {path} is not of the kind that `{command}` makes"
        raise InvalidKey(message)
    return seed


def write_seed(path: Path, prefix: str, seed: bytes) -> None:
    """Write 32 secret bytes to a new key file with mode 600; on the device, with its name, when this returns.

    Raises:
        InvalidKey: there is a file already; a key is never overwritten.
        OSError: the disk is full or fails; nothing is left that would look like a key.
    """
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
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
