"""The dedupe index on disk: a RocksDB folder that holds what Kafka acknowledged, and says how far that goes.

Layout: time-partitioned column families. The ingest clock is cut into spans, four to the time that an identity is kept;
each span is a column family of its own, so forgetting is dropping a whole family, and nothing is ever deleted one by
one. A lookup asks the families that are alive, newest first; Bloom filters (also over what is not yet flushed) answer
for nearly every identity that is new. In a family:

```
identity (16 bytes)             entry (32 bytes), ingest clock since the begin of the span (4 bytes, big-endian, ms)
"row" + number (8 bytes)        a row of the caller's, which lives as long as the identities of its span
"cursor"                        JSON: how far the family goes; the newest family that has one tells for the folder
```
"""

import contextlib
import fcntl
import itertools
import os
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson
import rocksdict

from meterproof_stream.errors import IndexDamaged, IndexUnusable

SPANS_KEPT: Final = 4
"""Spans to the time that an identity is kept: disk holds up to 1/4 more than that, a lookup asks 5 or 6 families."""
WRITE_IDENTITIES: Final = 2_000
"""Acknowledged identities that are written together: so many, and the records that brought them, are folded again."""
WRITE_RECORDS: Final = 1_000
"""Acknowledged records that are written together, whatever they hold."""
_SPAN_MS_MAX: Final = 0xFFFFFFFF
_VERSION: Final = 2
_CURSOR: Final = b"cursor"
_ROW: Final = b"row"
_FAMILY: Final = "span-"
_DAMAGED_FILE: Final = "DAMAGED"
_MEMTABLE_BYTES: Final = 8 << 20
"""80,000 identities: small enough for the processor's cache, so writing costs half of what it does with 32 MiB."""
_RUNS: Final = 16
"""Files that a family gathers before some are merged. Each costs a lookup 0.07 µs; a merge 0.6 µs for an identity."""
_MERGED: Final = {
    "level0_file_num_compaction_trigger": "2",
    "compaction_options_universal": "{max_size_amplification_percent=0;}",
}
"""What a family gets that no longer grows: all its files are merged into one."""
_RUNS_STALL: Final = (64, 128)
"""Files at which writers are slowed down and stopped: more than gather while a whole family is merged."""
_BLOCK_CACHE_BYTES: Final = 32 << 20
_BLOCK_BYTES: Final = 8 << 10
_BLOOM_BITS: Final = 16
"""Per identity: 1 in 2,000 new identities costs a read of a block, per family."""
_NEVER: Final = 1_000_000
"""Percent of all but the oldest file to it, at which all are merged."""
_WAL_BYTES: Final = 64 << 20


@dataclass(slots=True)
class _Span:
    """One column family."""

    number: int
    begin_ms: int
    end_ms: int
    """The last clock that belongs to it."""
    table: rocksdict.Rdict
    handle: rocksdict.ColumnFamily
    identities: int = 0


@dataclass(slots=True)
class _Record:
    """What one log record brought, until it is written."""

    clock_ms: int
    identities: Sequence[bytes]
    entries: Sequence[bytes]
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
        self._folder = folder
        self._keep_ms = keep_ms
        self._span_ms = min(self._keep_ms // SPANS_KEPT + 1, _SPAN_MS_MAX)
        self._lock = lock
        self._database = database
        self._spans: list[_Span] = []
        """Newest first."""
        self._unwritten: dict[bytes, bytes] = {}
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
                families = {f"{_FAMILY}{number}": _options(grows=number == numbers[0]) for number in numbers}
                database = rocksdict.Rdict(str(folder), _options(), column_families={"default": _options(), **families})
                spans: list[_Span] = []
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
                    spans[-1].identities = cursor["spans"].pop(str(number), 0)
                if cursor["spans"]:
                    raise ValueError(f"spans {sorted(cursor['spans'])} are missing")
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
        """See `DedupeIndex.get_many`. Costs 0.4 µs a family for an identity that is new, 10 µs for one that is held.

        Raises:
            IndexDamaged: the folder cannot be read.
        """
        found: list[bytes | None] = list(map(self._unwritten.get, identities))
        wanted: list[Any] = list(identities)
        places: Sequence[int] = range(len(wanted))
        if any(found):
            places = [place for place in places if found[place] is None]
            wanted = [identities[place] for place in places]
        oldest_ms = self._oldest_ms
        for span in self._spans:
            if not wanted or span.end_ms < oldest_ms:
                break
            try:
                values: list[Any] = span.table[wanted]  # type: ignore[assignment]  # a list for a list
            except Exception as error:  # rocksdict raises plain Exception
                raise self._condemn(error) from error
            if not any(values):
                continue
            for place, value in zip(places, values, strict=True):
                if value and span.begin_ms + int.from_bytes(value[32:]) >= oldest_ms:
                    found[place] = value[:32]
            places = [place for place in places if found[place] is None]
            wanted = [identities[place] for place in places]
        return found

    def add(self, identities: Sequence[bytes], entries: Sequence[bytes], clock_ms: int) -> None:
        """See `DedupeIndex.add`. Each call is one record for `acknowledge`."""
        self._unwritten.update(zip(identities, entries, strict=True))
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
            for identity in record.identities:
                del self._unwritten[identity]

    def __len__(self) -> int:
        return len(self._unwritten) + sum(span.identities for span in self._spans)

    def acknowledge(self, rows: Sequence[bytes], cursor: Mapping[str, Any]) -> None:
        """The oldest record added and not acknowledged is durable in the log.

        Args:
            rows: what to keep beside it; see `rows`.
            cursor: what `cursor` says after `open` if this is the last record written; not changed afterwards.

        Raises:
            IndexDamaged: the folder cannot be written.

        """
        record = self._appended.popleft()
        if self._acknowledged and record.clock_ms // self._span_ms != self._acknowledged[0].clock_ms // self._span_ms:
            self.write()
        self._acknowledged.append(record)
        self._acknowledged_identities += len(record.identities)
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
            values: dict[bytes, bytes] = {}
            for record in self._acknowledged:
                age = (record.clock_ms - span.begin_ms).to_bytes(4)
                values.update(zip(record.identities, [entry + age for entry in record.entries], strict=True))
            # In order, since a memtable is a sorted list: the next place is then near the one before.
            for identity in sorted(values):
                batch[identity] = values[identity]
            for row in self._rows:
                batch[_ROW + self._row_number.to_bytes(8)] = row
                self._row_number += 1
            span.identities += self._acknowledged_identities
            batch[_CURSOR] = orjson.dumps(
                {
                    "v": _VERSION,
                    "keep_ms": self._keep_ms,
                    "rows": self._row_number,
                    "clock_ms": clock_ms,
                    "spans": {str(each.number): each.identities for each in self._spans if each.end_ms >= oldest_ms},
                    "cursor": self._cursor,
                }
            )
            self._database.write(batch)
            for record in self._acknowledged:
                self._forget(record)
            self._acknowledged.clear()
            self._rows.clear()
            self._acknowledged_identities = 0
            self._clear_away(oldest_ms)
        except Exception as error:  # rocksdict raises plain Exception
            raise self._condemn(error) from error

    def _span_of(self, clock_ms: int) -> _Span:
        """The family for a clock, which is the newest one or a new one."""
        number = clock_ms // self._span_ms
        if self._spans and self._spans[0].number == number:
            return self._spans[0]
        if self._spans:
            # Whatever shows a cursor of the new family shows the older families whole, whatever became of the write-
            # ahead log, for example in a copy of the folder.
            self._spans[0].table.flush()
            self._spans[0].table.set_options(_MERGED)
        self._database.create_column_family(f"{_FAMILY}{number}", _options()).close()
        self._spans.insert(0, self._span(number))
        return self._spans[0]

    def _span(self, number: int) -> _Span:
        name, begin_ms = f"{_FAMILY}{number}", number * self._span_ms
        table, handle = self._database.get_column_family(name), self._database.get_column_family_handle(name)
        return _Span(number, begin_ms, begin_ms + self._span_ms - 1, table, handle)

    def _clear_away(self, oldest_ms: int) -> None:
        """Drop the families of which all is forgotten by the clock that was written."""
        while self._spans and self._spans[-1].end_ms < oldest_ms:
            # The write that moved the clock must not be lost to a power cut while the family is.
            self._database.flush_wal(sync=True)
            span = self._spans.pop()
            span.table.close()
            self._database.drop_column_family(f"{_FAMILY}{span.number}")

    def rows(self) -> Iterator[bytes]:
        """The rows of the families that are alive, in the order in which they came."""
        for span in reversed(self._spans):
            for key, value in span.table.items(from_key=_ROW):
                if not isinstance(key, bytes) or key[: len(_ROW)] != _ROW:
                    break
                if len(key) == len(_ROW) + 8:
                    yield value

    def disk_bytes(self) -> int:
        """What the folder takes, for the operator."""
        taken = 0
        for entry in os.scandir(self._folder):
            with contextlib.suppress(FileNotFoundError):  # merged or flushed meanwhile
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


def _options(*, grows: bool = True) -> rocksdict.Options:
    """Of a family: point lookups of random keys, most of them absent, next to none ever overwritten.

    Nothing is ever outdated, so merging only makes lookups cheaper. The family that grows gathers many files before it
    merges some; one that was left behind is merged into one file, in the background, and then never again. So an
    identity is written three times or four, at whatever size. Nor is anything compressed: it is all digests.

    Memory, whatever the size: two memtables and the block cache. With the size: 2 bytes of filter per identity, and
    about half a byte of block index.
    """
    table = rocksdict.BlockBasedOptions()
    table.set_bloom_filter(_BLOOM_BITS, block_based=False)
    table.set_block_cache(_block_cache)
    table.set_block_size(_BLOCK_BYTES)
    table.set_format_version(5)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(rocksdict.DBCompressionType.none())
    options.set_write_buffer_size(_MEMTABLE_BYTES)
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(0.1)
    options.set_allow_concurrent_memtable_write(False)
    options.set_compaction_style(rocksdict.DBCompactionStyle.universal())
    merging = rocksdict.UniversalCompactOptions()
    merging.max_size_amplification_percent = _NEVER if grows else 0
    options.set_universal_compaction_options(merging)
    options.set_level_zero_file_num_compaction_trigger(_RUNS if grows else 2)
    options.set_level_zero_slowdown_writes_trigger(_RUNS_STALL[0])
    options.set_level_zero_stop_writes_trigger(_RUNS_STALL[1])
    options.set_max_background_jobs(2)
    options.set_max_total_wal_size(_WAL_BYTES)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    options.set_paranoid_checks(True)
    return options


_block_cache: Final = rocksdict.Cache(_BLOCK_CACHE_BYTES)
"""One for all partitions of the process: hits are rare, so it only has to hold what is read again at once."""


def _close(database: rocksdict.Rdict, spans: list[_Span]) -> None:
    """Close all; the spans are taken off the list, since RocksDB lets go when the last handle of a family is gone."""
    while spans:
        spans.pop().table.close()
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
