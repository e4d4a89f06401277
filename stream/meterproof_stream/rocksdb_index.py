"""The dedupe index on disk: a RocksDB folder that holds what Kafka acknowledged, and says how far that goes.

Layout: time-partitioned column families. The ingest clock is cut into spans, four to the time that an identity is kept;
each span is a column family of its own, so forgetting is dropping a whole family, and nothing is ever deleted one by
one, merged, or written twice. What a record brought is stored with what came before and after it, in blocks (see
`identity_block`), not under keys of its own; memory holds in which block an identity may be (see `place_table`), so a
lookup of a new identity never reaches RocksDB. In a family:

```
"block" + number (8 bytes)      identities with their entries and ages
"rows" + number (8 bytes)       rows of the caller's, one to a line, which live as long as the identities of their span
"cursor"                        JSON: how far the family goes; the newest family that has one tells for the folder
```

A family's files come one after the other, so each holds a range of numbers, and a block is looked for in one of them.
"""

import contextlib
import fcntl
import itertools
import os
import secrets
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson
import rocksdict

from meterproof_schemas.identity_table import ENTRY_BYTES, IDENTITY_BYTES, IdentityTable
from meterproof_stream.errors import IndexDamaged, IndexUnusable
from meterproof_stream.identity_block import (
    AGE_BYTES,
    AGE_MS_MAX,
    BLOCK_IDENTITIES,
    encode_ages,
    encode_block,
    find_in,
)
from meterproof_stream.place_table import PlaceTable, places_of
from meterproof_stream.rocksdb_span import Places, RocksdbSpan

SPANS_KEPT: Final = 4
"""Spans to the time that an identity is kept: disk and memory hold up to 1/4 more than that."""
WRITE_IDENTITIES: Final = 2_048
"""Acknowledged identities that are written together: so many, and the records that brought them, are folded again."""
WRITE_RECORDS: Final = 1_000
"""Acknowledged records that are written together, whatever they hold."""
_VERSION: Final = 3
_CURSOR: Final = b"cursor"
_FAMILY: Final = "span-"
_DAMAGED_FILE: Final = "DAMAGED"
_SEED_BYTES: Final = 16
_EXPECTED_MORE: Final = 8
"""A span is expected to hold as much as the one before, and the 8th part more."""
_MEMTABLE_BYTES: Final = 16 << 20
"""300,000 identities, which become a file."""
_OPEN_FILES: Final = 64
"""At most for each folder; 20 million identities have so many."""
_BLOCK_CACHE_BYTES: Final = 32 << 20
_WAL_BYTES: Final = 64 << 20


@dataclass(slots=True)
class _Record:
    """What one log record brought, until it is written."""

    clock_ms: int
    identities: bytes
    entries: bytes
    forgotten: bool = False
    """Its identities are no longer looked up."""


class RocksdbIndex:
    """A `DedupeIndex` on disk that is a cache of the log, never ahead of what was acknowledged.

    Promises:
        - what `DedupeIndex` promises, exactly as the index in memory keeps it;
        - on disk stand the records up to a cursor, whole, and nothing behind it: records, rows and cursor are one write
          batch, and a record is written only after `acknowledge`. What is not yet written is looked up in memory;
        - after the end of the process, whatever ended it, `open` finds the state at one of the cursors written; after
          the loss of power perhaps an earlier one;
        - damage is an error, never another answer: `IndexDamaged`, after which `open` refuses the folder for good.

    Not for several processes at once, which a lock beside the folder ensures. Lives as long as its partition is held.
    """

    def __init__(self, folder: Path, keep_ms: int, lock: int, database: rocksdict.Rdict) -> None:
        """Use `create` or `open`."""
        self._seed = secrets.token_bytes(_SEED_BYTES)
        self._folder = folder
        self._keep_ms = keep_ms
        self._span_ms = min(self._keep_ms // SPANS_KEPT + 1, AGE_MS_MAX)
        self._lock = lock
        self._database = database
        self._spans: list[RocksdbSpan] = []
        """Newest first."""
        self._places: list[Places] = []
        """Of all spans."""
        self._tables: list[PlaceTable] = []
        """The tables of `_places`."""
        self._unwritten = IdentityTable(self._seed)
        self._appended: deque[_Record] = deque()
        self._acknowledged: list[_Record] = []
        self._acknowledged_identities = 0
        self._rows: list[bytes] = []
        self._row_number = 0
        self._cursor: Mapping[str, Any] = {}
        self._oldest_ms = 0
        """Identities of lower clocks are forgotten."""

    @classmethod
    def create(cls, folder: Path, keep_ms: int) -> Self:
        """An empty index that keeps an identity for so long; whatever was in the folder is thrown away.

        Raises:
            IndexUnusable: another process holds the folder, or it cannot be written.
        """
        lock = _lock(folder)
        try:
            shutil.rmtree(folder, ignore_errors=True)
            database = rocksdict.Rdict(str(folder), _options())
        except Exception as error:  # rocksdict raises plain Exception
            os.close(lock)
            raise IndexUnusable(folder, str(error)) from error
        return cls(folder, keep_ms, lock, database)

    @classmethod
    def open(cls, folder: Path) -> Self | None:
        """The index as it was written last; None when there is none.

        Raises:
            IndexDamaged: there is one and it cannot be used; `create` makes a new one.
            IndexUnusable: another process holds the folder.
        """
        if not folder.exists():
            return None
        lock = _lock(folder)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, lock)
            if (folder / _DAMAGED_FILE).exists():
                raise IndexDamaged(folder, (folder / _DAMAGED_FILE).read_text(encoding="utf-8"))
            try:
                names = [name for name in rocksdict.Rdict.list_cf(str(folder)) if name.startswith(_FAMILY)]
                numbers = sorted((int(name.removeprefix(_FAMILY)) for name in names), reverse=True)
                families = {f"{_FAMILY}{number}": _options() for number in numbers}
                database = rocksdict.Rdict(str(folder), _options(), column_families={"default": _options(), **families})
                spans: list[RocksdbSpan] = []
                undo.callback(_close, database, spans)
                cursor = cls._newest_cursor(database, numbers)
                index = cls(folder, cursor["keep_ms"], lock, database)
                index._cursor = cursor["cursor"]
                index._row_number = cursor["rows"]
                index._oldest_ms = cursor["clock_ms"] - index._keep_ms
                index._spans = spans
                for number in numbers:
                    spans.append(index._span(number))
                    # Not in the cursor: a family that was made and not written to, or that was about to be dropped.
                    if str(number) in cursor["spans"]:
                        spans[-1].load(cursor["spans"].pop(str(number)))
                if cursor["spans"]:
                    raise ValueError(f"spans {sorted(cursor['spans'])} are missing")
                index._list_places()
            except Exception as error:  # rocksdict raises plain Exception; what is in the folder may be anything
                raise IndexDamaged(folder, str(error)) from error
            undo.pop_all()
        return index

    @property
    def cursor(self) -> Mapping[str, Any]:
        """How far the index goes, in the caller's own words; of an index that was just opened: what stands on disk."""
        return self._cursor

    @staticmethod
    def _newest_cursor(database: rocksdict.Rdict, numbers: Sequence[int]) -> dict[str, Any]:
        for number in numbers:
            found = database.get_column_family(f"{_FAMILY}{number}").get(_CURSOR)
            if found is not None:
                cursor: dict[str, Any] = orjson.loads(found)
                if cursor["v"] != _VERSION:
                    raise ValueError(f"version {cursor['v']} of the layout, not {_VERSION}")
                return cursor
        raise ValueError("it holds no cursor")

    def get(self, identity: bytes) -> bytes | None:
        """See `DedupeIndex.get`."""
        return self.get_many((identity,))[0]

    def get_many(self, identities: Sequence[bytes]) -> list[bytes | None]:
        """See `DedupeIndex.get_many`. Costs 0.2 µs for an identity that is new, 5 to 9 more for one that is held.

        Raises:
            IndexDamaged: the folder cannot be read.
        """
        found: list[bytes | None] = list(map(self._unwritten.get, identities))
        for number, entry in self._written(b"".join(identities)).items():
            found[number] = entry
        return found

    def repeats(self, identities: bytes, entries: bytes) -> list[int] | None:
        """See `DedupeIndex.repeats`.

        Raises:
            IndexDamaged: the folder cannot be read.
        """
        repeats = self._unwritten.repeats(identities, entries)
        written = self._written(identities)
        if not written or repeats is None:
            return repeats
        for number, entry in written.items():
            if entries[number * ENTRY_BYTES : (number + 1) * ENTRY_BYTES] != entry:
                return None
        return sorted({*repeats, *written})

    def _written(self, identities: bytes) -> dict[int, bytes]:
        """By number of the identity, the entries of those that are on disk and not forgotten.

        Raises:
            IndexDamaged: the folder cannot be read.
        """
        hits = places_of(self._tables, identities)
        if not hits:
            return {}
        try:
            return self._look_into_blocks(identities, hits)
        except Exception as error:  # rocksdict raises plain Exception
            raise self._condemn(error) from error

    def _look_into_blocks(self, identities: bytes, hits: Sequence[tuple[int, int, int]]) -> dict[int, bytes]:
        """What is in a block in which it may be."""
        found: dict[int, bytes] = {}
        wanted: dict[int, dict[int, list[int]]] = {}
        for number, each, place in hits:
            blocks = wanted.setdefault(self._places[each].span, {})
            blocks.setdefault(self._places[each].first + place, []).append(number)
        for span in self._spans:
            if span.number not in wanted:
                continue
            blocks = wanted[span.number]
            values: list[Any] = span.table[list(map(span.key_of, blocks))]  # type: ignore[assignment]  # a list for a list
            for block, (at, numbers) in zip(values, blocks.items(), strict=True):
                if block is None:
                    raise ValueError(f"block {at} of span {span.number} is missing")
                for number in numbers:
                    held = find_in(block, identities[number * IDENTITY_BYTES : (number + 1) * IDENTITY_BYTES])
                    if held is not None and span.begin_ms + held[1] >= self._oldest_ms:
                        found[number] = held[0]
        return found

    def add(self, identities: bytes, entries: bytes, clock_ms: int) -> None:
        """See `DedupeIndex.add`. Each call is one record for `acknowledge`."""
        self._unwritten.add(identities, entries)
        self._appended.append(_Record(clock_ms, identities, entries))

    def evict(self, clock_ms: int) -> None:
        """See `DedupeIndex.evict`. Clears nothing away: the clock is perhaps that of a record not yet acknowledged."""
        oldest_ms = clock_ms - self._keep_ms
        if oldest_ms <= self._oldest_ms:
            return
        self._oldest_ms = oldest_ms
        for record in itertools.chain(self._acknowledged, self._appended):
            if record.clock_ms >= oldest_ms:
                break
            self._forget(record)

    def _forget(self, record: _Record) -> None:
        if not record.forgotten:
            record.forgotten = True
            self._unwritten.forget(len(record.identities) // IDENTITY_BYTES)

    def __len__(self) -> int:
        return len(self._unwritten) + sum(span.identities for span in self._spans)

    def acknowledge(self, rows: Sequence[bytes], cursor: Mapping[str, Any]) -> None:
        """The oldest record added and not acknowledged is durable in the log.

        Args:
            rows: what to keep beside it, each without a line feed; see `rows`.
            cursor: what `cursor` says after `open` if this is the last record written; not changed afterwards.

        Raises:
            IndexDamaged: the folder cannot be written.

        """
        record = self._appended.popleft()
        if self._acknowledged and record.clock_ms // self._span_ms != self._acknowledged[0].clock_ms // self._span_ms:
            self.write()
        self._acknowledged.append(record)
        self._acknowledged_identities += len(record.identities) // IDENTITY_BYTES
        self._rows += rows
        self._cursor = cursor
        if self._acknowledged_identities >= WRITE_IDENTITIES or len(self._acknowledged) >= WRITE_RECORDS:
            self.write()

    def write(self) -> None:
        """Write what was acknowledged, in one batch; otherwise that happens every few records.

        Raises:
            IndexDamaged: the folder cannot be written.
        """
        if not self._acknowledged:
            return
        clock_ms = self._acknowledged[-1].clock_ms
        oldest_ms = clock_ms - self._keep_ms
        try:
            span = self._span_of(clock_ms)
            batch = rocksdict.WriteBatch(raw_mode=True)
            batch.set_default_column_family(span.handle)
            identities = b"".join([record.identities for record in self._acknowledged])
            entries = b"".join([record.entries for record in self._acknowledged])
            ages = b"".join(
                [
                    encode_ages(each.clock_ms - span.begin_ms, len(each.identities) // IDENTITY_BYTES)
                    for each in self._acknowledged
                ]
            )
            count = len(identities) // IDENTITY_BYTES
            blocks: list[bytes] = []
            for begin in range(0, count, BLOCK_IDENTITIES):
                end = begin + BLOCK_IDENTITIES
                known = identities[begin * IDENTITY_BYTES : end * IDENTITY_BYTES]
                batch[span.key_of(span.blocks + len(blocks))] = encode_block(
                    known,
                    entries[begin * ENTRY_BYTES : end * ENTRY_BYTES],
                    ages[begin * AGE_BYTES : end * AGE_BYTES],
                )
                blocks.append(known)
            if self._rows:
                batch[span.rows_key(self._row_number)] = b"\n".join(self._rows)
                self._row_number += len(self._rows)
            batch[_CURSOR] = orjson.dumps(
                {
                    "v": _VERSION,
                    "keep_ms": self._keep_ms,
                    "rows": self._row_number,
                    "clock_ms": clock_ms,
                    "spans": {
                        str(each.number): each.identities + (count if each is span else 0)
                        for each in self._spans
                        if each.end_ms >= oldest_ms
                    },
                    "cursor": self._cursor,
                }
            )
            self._database.write(batch)
            for known in blocks:
                if span.note(known):
                    self._list_places()
            for record in self._acknowledged:
                self._forget(record)
            self._acknowledged.clear()
            self._rows.clear()
            self._acknowledged_identities = 0
            self._clear_away(oldest_ms)
        except Exception as error:  # rocksdict raises plain Exception
            raise self._condemn(error) from error

    def _span_of(self, clock_ms: int) -> RocksdbSpan:
        """The family for a clock, which is the newest one or a new one."""
        number = clock_ms // self._span_ms
        if self._spans and self._spans[0].number == number:
            return self._spans[0]
        if self._spans:
            # Whatever shows a cursor of the new family shows the older families whole, whatever became of the write-
            # ahead log, for example in a copy of the folder.
            self._spans[0].table.flush()
        self._database.create_column_family(f"{_FAMILY}{number}", _options()).close()
        self._spans.insert(0, self._span(number))
        if len(self._spans) > 1:
            before = self._spans[1].identities
            self._spans[0].expected = before + before // _EXPECTED_MORE
        return self._spans[0]

    def _span(self, number: int) -> RocksdbSpan:
        name, begin_ms = f"{_FAMILY}{number}", number * self._span_ms
        table, handle = self._database.get_column_family(name), self._database.get_column_family_handle(name)
        return RocksdbSpan(number, begin_ms, begin_ms + self._span_ms - 1, table, handle, self._seed)

    def _list_places(self) -> None:
        self._places = [places for span in self._spans for places in span.places]
        self._tables = [places.table for places in self._places]

    def _clear_away(self, oldest_ms: int) -> None:
        """Drop the families of which all is forgotten by the clock that was written."""
        while self._spans and self._spans[-1].end_ms < oldest_ms:
            # The write that moved the clock must not be lost to a power cut while the family is.
            self._database.flush_wal(sync=True)
            span = self._spans.pop()
            span.close()
            self._database.drop_column_family(f"{_FAMILY}{span.number}")
            self._list_places()

    def rows(self) -> Iterator[bytes]:
        """The rows of the families that are alive, in the order in which they came."""
        for span in reversed(self._spans):
            for rows in span.rows():
                yield from rows.split(b"\n")

    def disk_bytes(self) -> int:
        """See `DedupeIndex.disk_bytes`: all files of the folder; a look at each, 2 µs."""
        taken = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # flushed or dropped meanwhile
                    taken += entry.stat().st_size
        return taken

    def close(self) -> None:
        """Write what was acknowledged and give the folder back; harmless when repeated."""
        if self._lock < 0:
            return
        self.write()
        _close(self._database, self._spans)
        os.close(self._lock)
        self._lock = -1

    def _condemn(self, error: Exception) -> IndexDamaged:
        """Leave a mark, so that the next `open` does not run into the same error again."""
        if isinstance(error, IndexDamaged):
            return error
        with contextlib.suppress(OSError):
            (self._folder / _DAMAGED_FILE).write_text(str(error), encoding="utf-8")
        return IndexDamaged(self._folder, str(error))


def _options() -> rocksdict.Options:
    """Of a family: blocks that are written once, in order, and read now and then.

    Nothing is ever outdated, so nothing is ever merged: an identity is written to the write-ahead log and to one file.
    Nor is anything compressed: it is all digests. Memory, whatever the size: two memtables and the block cache.
    """
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(_block_cache)
    table.set_format_version(5)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(rocksdict.DBCompressionType.none())
    options.set_write_buffer_size(_MEMTABLE_BYTES)
    options.set_allow_concurrent_memtable_write(False)
    options.set_disable_auto_compactions(True)
    options.set_max_open_files(_OPEN_FILES)
    options.set_max_background_jobs(2)
    options.set_max_total_wal_size(_WAL_BYTES)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    options.set_paranoid_checks(True)
    return options


_block_cache: Final = rocksdict.Cache(_BLOCK_CACHE_BYTES)
"""One for all partitions of the process: hits are rare, so it only has to hold what is read again at once."""


def _close(database: rocksdict.Rdict, spans: list[RocksdbSpan]) -> None:
    """Close all, first the spans, which are taken off the list."""
    while spans:
        spans.pop().close()
    database.close()


def _lock(folder: Path) -> int:
    """Hold the file beside the folder; ends with the process, however it ends."""
    path = folder.with_name(f"{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise IndexUnusable(folder, str(error)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise IndexUnusable(folder, "another process holds it; each worker needs an --instance of its own") from None
    return lock
