"""Where an identity may stand, in 5 bytes of memory: the definition of `place_table`.

A hash table of fingerprints, as in a cuckoo filter (Fan and others, 2014), but with a place beside each fingerprint,
and with linear probing over buckets instead of two choices, since nothing is ever removed.

A slot has 32 bits: 14 of the hash, and the place + 1; 0 is empty. 16 slots are a bucket, one cache line. An identity
goes into the first empty slot of the bucket that the hash names, or of the next that has one. The hash is the 128-bit
product of the identity's two halves, each combined with half of a secret seed, folded: so nobody can look for
identities that meet in one bucket.
"""

from array import array
from collections.abc import Sequence
from typing import Final

from meterproof_schemas.identity_table import IDENTITY_BYTES

_SEED_BYTES: Final = 16
_SLOTS: Final = 16
_FILLED: Final = 13
"""Slots of a bucket that are in use, on average, when the table is full."""
_PLACE_BITS: Final = 18
_CAPACITY_MAX: Final = 1 << 32
_WORD: Final = (1 << 64) - 1
_SLOT: Final = (1 << 32) - 1
PLACES: Final = (1 << _PLACE_BITS) - 1
"""Places are numbered from 0 to this less 1."""


class PlaceTable:
    """Places of up to `capacity` identities; lives as long as they are wanted.

    Promises, through `places_of`: every place that an identity was added with is found. Of an identity that was never
    added, a place is found by accident with a chance of 1 in 1,000.
    """

    def __init__(self, capacity: int, seed: bytes) -> None:
        """An empty table; `seed` is 16 random bytes.

        Raises:
            ValueError: a capacity below 1, or another number of bytes.
        """
        if not 0 < capacity <= _CAPACITY_MAX or len(seed) != _SEED_BYTES:
            message = "a capacity above 0 and a seed of 16 bytes, once"
            raise ValueError(message)
        self._seeds = int.from_bytes(seed[:8], "little"), int.from_bytes(seed[8:], "little")
        self._capacity = capacity
        self._held = 0
        self._buckets = capacity // _FILLED + 1
        self._slots = array("I", bytes(4 * _SLOTS * self._buckets))

    @property
    def capacity(self) -> int:
        """Identities that it takes."""
        return self._capacity

    def __len__(self) -> int:
        return self._held

    def add(self, identities: bytes, place: int, /) -> None:
        """Note that these identities, 16 bytes each and joined, stand at a place.

        Raises:
            ValueError: more than the table takes, a place that there is not, or half an identity; nothing was noted.
        """
        count, rest = divmod(len(identities), IDENTITY_BYTES)
        if rest or not 0 <= place < PLACES or count > self._capacity - self._held:
            message = "whole identities, a place that there is, and not more than the table takes"
            raise ValueError(message)
        for begin in range(0, len(identities), IDENTITY_BYTES):
            bucket, tag = self._hashed(identities[begin : begin + IDENTITY_BYTES])
            while self._slots[_SLOTS * bucket + _SLOTS - 1]:
                bucket = (bucket + 1) % self._buckets
            self._slots[self._slots.index(0, _SLOTS * bucket)] = tag | (place + 1)
        self._held += count

    def places(self, identity: bytes) -> list[int]:
        """Where one identity may stand."""
        found: list[int] = []
        bucket, tag = self._hashed(identity)
        while True:
            line = self._slots[_SLOTS * bucket : _SLOTS * (bucket + 1)]
            found += [(slot & PLACES) - 1 for slot in line if slot and slot & ~PLACES == tag]
            if not line[-1]:
                return found
            bucket = (bucket + 1) % self._buckets

    def _hashed(self, identity: bytes) -> tuple[int, int]:
        """The first bucket, and the fingerprint where it stands in a slot."""
        low, high = int.from_bytes(identity[:8], "little"), int.from_bytes(identity[8:], "little")
        product = (low ^ self._seeds[0]) * (high ^ self._seeds[1])
        scrambled = (product ^ (product >> 64)) & _WORD
        return scrambled * self._buckets >> 64, scrambled << _PLACE_BITS & _SLOT


def places_of(tables: Sequence[PlaceTable], identities: bytes, /) -> list[tuple[int, int, int]]:
    """Where these identities (joined) may stand: number of the identity, number of the table, place; in any order.

    Raises:
        ValueError: half an identity.
    """
    if len(identities) % IDENTITY_BYTES:
        message = "whole identities"
        raise ValueError(message)
    return [
        (at // IDENTITY_BYTES, each, place)
        for at in range(0, len(identities), IDENTITY_BYTES)
        for each, table in enumerate(tables)
        for place in table.places(identities[at : at + IDENTITY_BYTES])
    ]
