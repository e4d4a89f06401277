"""What an index on disk stores of identities: blocks of them, whole columns after one another, in no order.

```
n identities (16 bytes each), n entries (32 bytes each), n ages (4 bytes each, big-endian, ms since the span began)
```
"""

from typing import Final

from meterproof_schemas.identity_table import ENTRY_BYTES, IDENTITY_BYTES

BLOCK_IDENTITIES: Final = 128
"""At most in a block: reading one costs 7 KB, and its own key costs next to nothing per identity."""
AGE_BYTES: Final = 4
AGE_MS_MAX: Final = 0xFFFFFFFF
_STORED_BYTES: Final = IDENTITY_BYTES + ENTRY_BYTES + AGE_BYTES


def encode_block(identities: bytes, entries: bytes, ages: bytes) -> bytes:
    """A block of identities, their entries and their ages, all joined."""
    return b"".join((identities, entries, ages))


def encode_ages(age_ms: int, count: int) -> bytes:
    """The ages of identities that came together."""
    return age_ms.to_bytes(AGE_BYTES) * count


def identities_in(block: bytes) -> bytes:
    """The identities of a block, joined.

    Raises:
        ValueError: it is none.
    """
    count, rest = divmod(len(block), _STORED_BYTES)
    if rest:
        message = f"a block of {len(block)} bytes"
        raise ValueError(message)
    return block[: count * IDENTITY_BYTES]


def find_in(block: bytes, identity: bytes) -> tuple[bytes, int] | None:
    """Entry and age of an identity; None if it is not in this block."""
    count = len(block) // _STORED_BYTES
    at = block.find(identity, 0, count * IDENTITY_BYTES)
    while at % IDENTITY_BYTES and at >= 0:  # found across two of them
        at = block.find(identity, at + 1, count * IDENTITY_BYTES)
    if at < 0:
        return None
    number = at // IDENTITY_BYTES
    entry_at = count * IDENTITY_BYTES + number * ENTRY_BYTES
    age_at = count * (IDENTITY_BYTES + ENTRY_BYTES) + number * AGE_BYTES
    return block[entry_at : entry_at + ENTRY_BYTES], int.from_bytes(block[age_at : age_at + AGE_BYTES])
