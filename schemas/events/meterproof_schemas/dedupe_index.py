"""Which identities were accepted within the horizon: the index that makes an event count once."""

from collections import deque
from collections.abc import Sequence
from typing import Protocol


class DedupeIndex(Protocol):
    """Identity → entry of the accepted event, for one partition, for at least the horizon.

    Promise: an identity that was added at ingest clock c is found until `evict` is called with a clock above c +
    horizon + future tolerance, and not any more from then on, until it is added again. By then the same bytes are
    `too_late` for ever, so they can never be counted again.
    """

    def get(self, identity: bytes) -> bytes | None:
        """The entry (32 bytes) that was accepted under this identity (16 bytes), or None."""

    def get_many(self, identities: Sequence[bytes]) -> list[bytes | None]:
        """`get` for each identity, in order: what a whole batch asks at once."""

    def add(self, identities: Sequence[bytes], entries: Sequence[bytes], clock_ms: int) -> None:
        """Remember what one record accepted, which may be nothing; `clock_ms` is its ingest clock, never falling."""

    def evict(self, clock_ms: int) -> None:
        """Forget what the promise allows to forget at this ingest clock, and all of it: verdicts depend on it."""

    def __len__(self) -> int:
        """Identities held; an index on disk also counts those that it forgot and did not yet clear away."""

    def disk_bytes(self) -> int:
        """What it takes on disk now; 0 in memory."""


class MemoryIndex:
    """A `DedupeIndex` in a dict: about 200 bytes per identity, lost with the process, rebuilt from the log."""

    def __init__(self, keep_ms: int) -> None:
        """Empty; `keep_ms` is `Limits.identities_kept_ms` of the log."""
        self._keep_ms = keep_ms
        self._entries: dict[bytes, bytes] = {}
        self._ages: deque[tuple[int, Sequence[bytes]]] = deque()
        self.get = self._entries.get

    def add(self, identities: Sequence[bytes], entries: Sequence[bytes], clock_ms: int) -> None:
        """See `DedupeIndex.add`."""
        if identities:
            self._entries.update(zip(identities, entries, strict=True))
            self._ages.append((clock_ms, identities))

    def get_many(self, identities: Sequence[bytes]) -> list[bytes | None]:
        """See `DedupeIndex.get_many`."""
        return list(map(self.get, identities))

    def evict(self, clock_ms: int) -> None:
        """See `DedupeIndex.evict`."""
        ages = self._ages
        while ages and ages[0][0] + self._keep_ms < clock_ms:
            for identity in ages.popleft()[1]:
                del self._entries[identity]

    def __len__(self) -> int:
        return len(self._entries)

    def disk_bytes(self) -> int:
        """See `DedupeIndex.disk_bytes`."""
        return 0

    def items(self) -> dict[bytes, bytes]:
        """A copy of all identities and entries, for comparison."""
        return dict(self._entries)
