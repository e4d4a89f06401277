"""Which identities were accepted within the horizon: the index that makes an event count once."""

import secrets
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from meterproof_proofs.tree_hashing import hashes_in
from meterproof_schemas.identity_table import IDENTITY_BYTES, IdentityTable

_SEED_BYTES: Final = 16


class DedupeIndex(Protocol):
    """Identity → entry of the accepted event, for one partition, for at least the horizon.

    Promise: an identity that was added at ingest clock c is found until `evict` is called with a clock above c +
    horizon + future tolerance, and not any more from then on, until it is added again. By then the same bytes are
    `too_late` for ever, so they can never be counted again.
    """

    def get(self, identity: bytes) -> bytes | None:
        """The entry (32 bytes) that was accepted under this identity (16 bytes), or None."""

    def get_many(self, identities: Sequence[bytes]) -> list[bytes | None]:
        """`get` for each identity, in order."""

    def repeats(self, identities: bytes, entries: bytes) -> list[int] | None:
        """What a whole batch asks at once, of its identities and entries, each one behind the other.

        The numbers of those that are held, or come before in the batch, with the same entry. None says that one of them
        has another entry, and nothing about any.
        """

    def add(self, identities: bytes, entries: bytes, clock_ms: int) -> None:
        """Remember what one record accepted, which may be nothing; `clock_ms` is its ingest clock, never falling.

        Identities stand one behind the other, none of which is held, and so does an entry for each.
        """

    def evict(self, clock_ms: int) -> None:
        """Forget what the promise allows to forget at this ingest clock, and all of it: verdicts depend on it."""

    def __len__(self) -> int:
        """Identities held; an index on disk also counts those that it forgot and did not yet clear away."""

    def disk_bytes(self) -> int:
        """What it takes on disk now; 0 in memory."""


class MemoryIndex:
    """A `DedupeIndex` in memory: 65 to 130 bytes per identity, rebuilt from the log.

    Lives as long as the log's state, in one process.
    """

    def __init__(self, keep_ms: int) -> None:
        """Empty; `keep_ms` is `Limits.identities_kept_ms` of the log."""
        self._keep_ms = keep_ms
        self._table = IdentityTable(secrets.token_bytes(_SEED_BYTES))
        self._ages: deque[tuple[int, int]] = deque()
        """Clock and number of identities of each record that brought some."""
        self.get = self._table.get
        self.repeats = self._table.repeats

    def add(self, identities: bytes, entries: bytes, clock_ms: int) -> None:
        """See `DedupeIndex.add`.

        Raises:
            ValueError: half an identity, or not an entry for each; nothing was added.
        """
        if identities or entries:
            self._table.add(identities, entries)
            self._ages.append((clock_ms, len(identities) // IDENTITY_BYTES))

    def get_many(self, identities: Sequence[bytes]) -> list[bytes | None]:
        """See `DedupeIndex.get_many`."""
        return list(map(self.get, identities))

    def evict(self, clock_ms: int) -> None:
        """See `DedupeIndex.evict`."""
        ages = self._ages
        while ages and ages[0][0] + self._keep_ms < clock_ms:
            self._table.forget(ages.popleft()[1])

    def __len__(self) -> int:
        return len(self._table)

    def disk_bytes(self) -> int:
        """See `DedupeIndex.disk_bytes`."""
        return 0

    def items(self) -> dict[bytes, bytes]:
        """A copy of all identities and entries, for comparison."""
        identities, entries = self._table.held()
        return {
            identities[number * IDENTITY_BYTES : (number + 1) * IDENTITY_BYTES]: entry
            for number, entry in enumerate(hashes_in(entries))
        }
