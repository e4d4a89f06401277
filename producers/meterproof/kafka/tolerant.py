"""Reading records whose header keys are not UTF-8.

The broker takes any bytes as a header key; the client library raises on those that are not UTF-8, and then never gets
past the record. Whoever may write to a topic could stop every reader of it. `apply` replaces the library's parser of
fetched bytes by one that falls back, for the one batch concerned, to the library's own Python parser with a lenient
decoder. Nothing changes for other batches: the fast parser reads them.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import aiokafka.consumer.fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


def apply() -> None:
    """Make every consumer of this process tolerant; harmless when repeated.

    Raises:
        RuntimeError: the library no longer has the parts that this relies on.
    """
    if not hasattr(aiokafka.consumer.fetcher, "MemoryRecords") or not hasattr(_MemoryRecordsPy, "_cache_next"):
        raise RuntimeError("this version of aiokafka parses records in another way; install the version that is pinned")
    aiokafka.consumer.fetcher.MemoryRecords = TolerantRecords


class _LenientBytes(bytearray):
    """Bytes whose slices decode as text whatever they hold."""

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - an index or a slice, as in bytearray
        part = super().__getitem__(index)
        return _LenientBytes(part) if isinstance(index, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        r"""The text, with `\xNN` for what is not UTF-8."""
        del errors
        return super().decode(encoding, "backslashreplace")


class TolerantBatch:
    """One batch of records, read by the fast parser as far as that gets. Lives for one pass over its records."""

    def __init__(self, batch: Any, raw: memoryview) -> None:  # noqa: ANN401 - the library's, without types
        self._batch: Final = batch
        self._raw: Final = raw

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the library's batch has
        return getattr(self._batch, name)

    def __next__(self) -> Any:  # noqa: ANN401 - the library's record
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            for record in self._batch:
                yield record
                read += 1
        except UnicodeDecodeError:
            batch: Any = _DefaultRecordBatchPy(self._raw)
            batch._maybe_uncompress()  # noqa: SLF001 - the buffer must hold records before it is replaced
            batch._buffer = _LenientBytes(batch._buffer)  # noqa: SLF001
            yield from islice(batch, read, None)


class TolerantRecords:
    """The bytes of one fetch as batches of records: what the library's `MemoryRecords` is, and tolerant."""

    def __init__(self, fetched: bytes) -> None:
        self._records: Any = _MemoryRecordsPy(fetched)
        self.has_next = self._records.has_next
        self.size_in_bytes = self._records.size_in_bytes

    def next_batch(self) -> TolerantBatch | None:
        """The next whole batch, or None."""
        raw = self._records._next_slice  # noqa: SLF001 - the bytes of the batch that comes next
        return None if raw is None else TolerantBatch(self._records.next_batch(), raw)
