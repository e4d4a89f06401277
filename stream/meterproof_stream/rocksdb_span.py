"""A column family of an index on disk: the identities of a span of the ingest clock, and in which block each may be."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import rocksdict

from meterproof_schemas.identity_table import IDENTITY_BYTES
from meterproof_stream.identity_block import identities_in
from meterproof_stream.place_table import PLACES, PlaceTable

_BLOCK: Final = b"block"
_ROWS: Final = b"rows"
_NUMBER_BYTES: Final = 8
_CAPACITY_MIN: Final = 1 << 16
"""Identities that the first table takes: 330 KB of memory."""
_READAHEAD_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Places:
    """Some blocks of a span that follow one another: which of them an identity may be in."""

    span: int
    """Its number."""
    first: int
    """The number of the block that has place 0."""
    table: PlaceTable


@dataclass(slots=True)
class RocksdbSpan:
    """One column family, and in memory the places of what it holds.

    The first table of places is made for what is expected; each further one is half as large as all before it, so that
    nothing is ever moved. Lives as long as its index; a family that is dropped is not used afterwards.
    """

    number: int
    begin_ms: int
    end_ms: int
    """The last clock that belongs to it."""
    table: rocksdict.Rdict
    handle: rocksdict.ColumnFamily
    seed: bytes
    """Of the tables of places."""
    expected: int = 0
    """Identities that it will hold, as far as one can know."""
    identities: int = 0
    blocks: int = 0
    places: list[Places] = field(default_factory=list)

    def key_of(self, block: int) -> bytes:
        """Where a block stands in the family."""
        return _BLOCK + block.to_bytes(_NUMBER_BYTES)

    def rows_key(self, number: int) -> bytes:
        """Where rows stand; a later number behind an earlier one."""
        return _ROWS + number.to_bytes(_NUMBER_BYTES)

    def note(self, identities: bytes) -> bool:
        """Note the identities (joined) of the next block, which is on disk; True if that took a new table."""
        count = len(identities) // IDENTITY_BYTES
        grows = not self.places or (
            self.places[-1].table.capacity - len(self.places[-1].table) < count
            or self.blocks - self.places[-1].first >= PLACES
        )
        if grows:
            capacity = max(_CAPACITY_MIN, self.identities // 2, self.expected - self.identities, count)
            self.places.append(Places(self.number, self.blocks, PlaceTable(capacity, self.seed)))
        latest = self.places[-1]
        latest.table.add(identities, self.blocks - latest.first)
        self.blocks += 1
        self.identities += count
        return grows

    def load(self, identities: int) -> None:
        """Note all blocks that are on disk, which verifies their checksums; they must hold so many identities.

        Raises:
            ValueError: they hold others.
            Exception: RocksDB cannot read them.
        """
        self.expected = identities
        for number, block in self._values(_BLOCK):
            if number != self.blocks:
                break
            self.note(identities_in(block))
        if self.identities != identities:
            message = f"span {self.number} holds {self.identities} identities, not {identities}"
            raise ValueError(message)

    def rows(self) -> Iterable[bytes]:
        """What stands under `rows_key`, in order."""
        return (value for _, value in self._values(_ROWS))

    def close(self) -> None:
        """Give the family back; not used afterwards.

        RocksDB lets go of a folder when the last handle of a family is gone, and an error's traceback may refer to this
        object for longer: so the handle goes now.
        """
        self.table.close()
        del self.handle

    def _values(self, kind: bytes) -> Iterator[tuple[int, bytes]]:
        """Numbers and values of the keys of a kind, in order."""
        options = rocksdict.ReadOptions()
        options.fill_cache(False)  # type: ignore[call-arg]  # declared without its argument
        options.set_readahead_size(_READAHEAD_BYTES)
        for key, value in self.table.items(from_key=kind, read_opt=options):
            if not isinstance(key, bytes) or not key.startswith(kind) or len(key) != len(kind) + _NUMBER_BYTES:
                return
            yield int.from_bytes(key[len(kind) :]), value
