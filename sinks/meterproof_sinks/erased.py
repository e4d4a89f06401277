"""An event line that was erased: what stands in its place keeps its entry, so every proof goes on holding."""

import re
from typing import Final

from meterproof_schemas.event import entry_of

ERASED_BEGIN: Final = b'{"erased"'
"""What every erased line begins with, and hardly any other content holds."""
_ERASED: Final = re.compile(rb'\{"erased":"([0-9a-f]{64})"\}')


def erased_line(entry: bytes) -> bytes:
    """What an erased line is replaced with: it states the 32 bytes that the Merkle log holds for it. Without LF."""
    return b'{"erased":"%s"}' % entry.hex().encode()


def erased_entry(line: bytes) -> bytes | None:
    """The entry that an erased line states; None for any other line. No event that a log accepts looks like one."""
    match = _ERASED.fullmatch(line)
    return None if match is None else bytes.fromhex(match[1].decode())


def entry_of_kept(line: bytes) -> bytes:
    """The entry of a line as it is kept: of an event its SHA-256, of an erased one what it states."""
    entry = erased_entry(line) if line.startswith(ERASED_BEGIN) else None
    return entry_of(line) if entry is None else entry
