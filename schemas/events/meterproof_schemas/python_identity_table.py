"""What `identity_table` offers, in Python, and its definition: identities, their entries, and what repeats them."""

from collections import deque
from typing import Final

IDENTITY_BYTES: Final = 16
ENTRY_BYTES: Final = 32
_SEED_BYTES: Final = 16


class IdentityTable:
    """Identities (16 bytes) with their entries (32 bytes), in the order in which they came. Lives as long as its index.

    Many are given one behind the other, in one `bytes`. An identity that is held is not added again.
    """

    def __init__(self, seed: bytes) -> None:
        """An empty table; `seed` is 16 random bytes, which let nobody guess what is near what in memory.

        Raises:
            ValueError: another number of bytes.
        """
        if len(seed) != _SEED_BYTES:
            message = "a seed of 16 bytes, once"
            raise ValueError(message)
        self._entries: dict[bytes, bytes] = {}
        self._order: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def get(self, identity: bytes, /) -> bytes | None:
        """The entry of an identity, or None."""
        return self._entries.get(identity)

    def repeats(self, identities: bytes, entries: bytes, /) -> list[int] | None:
        """The numbers of those identities that are held, or come before in the row, with the same entry.

        None says that one of them has another entry, and nothing about any.

        Raises:
            ValueError: half an identity, or not an entry for each.
        """
        found: list[int] = []
        before: dict[bytes, bytes] = {}
        for number, (identity, entry) in enumerate(_pairs(identities, entries)):
            first = self._entries.get(identity) or before.get(identity)
            if first is None:
                before[identity] = entry
            elif first == entry:
                found.append(number)
            else:
                return None
        return found

    def add(self, identities: bytes, entries: bytes, /) -> None:
        """Hold these too.

        Raises:
            ValueError: as in `repeats`; nothing was added.
        """
        pairs = _pairs(identities, entries)
        self._entries.update(pairs)
        self._order.extend(identity for identity, _ in pairs)

    def forget(self, count: int, /) -> None:
        """Hold the oldest ones no more.

        Raises:
            ValueError: there are not so many; nothing was forgotten.
        """
        if not 0 <= count <= len(self._order):
            message = f"{count} identities cannot be forgotten of {len(self._order)}"
            raise ValueError(message)
        for _ in range(count):
            del self._entries[self._order.popleft()]

    def held(self) -> tuple[bytes, bytes]:
        """All identities and all entries, oldest first."""
        return b"".join(self._order), b"".join([self._entries[identity] for identity in self._order])


def _pairs(identities: bytes, entries: bytes) -> list[tuple[bytes, bytes]]:
    count, rest = divmod(len(identities), IDENTITY_BYTES)
    if rest or len(entries) != count * ENTRY_BYTES:
        message = "whole identities (16 bytes), and an entry (32 bytes) for each"
        raise ValueError(message)
    return [
        (
            identities[number * IDENTITY_BYTES : (number + 1) * IDENTITY_BYTES],
            entries[number * ENTRY_BYTES : (number + 1) * ENTRY_BYTES],
        )
        for number in range(count)
    ]
