"""Reading records that the broker takes and the client library does not.

Whoever may write to a topic could stop every reader of it: the library raises, and then never gets past the record.
`apply` replaces its parser of fetched bytes. Nothing changes for other batches: the fast parser reads them.

- A header key that is not UTF-8: the one batch concerned is read by the library's own Python parser with a lenient
  decoder.
- A compressed batch that is a bomb, or that cannot be taken apart: each of its records is an `UnreadableRecord`, which
  has no value. So is a record of a compressed batch that is larger than any topic's limit.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

import aiokafka.consumer.fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

from meterproof.kafka.decompression import NotDecompressed, decompressed
from meterproof_schemas.limits import RECORD_BYTES_MAX


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


class UnreadableRecord(NamedTuple):
    """Stands where a record's bytes cannot be had: nothing but its place and time. Reads like the library's record."""

    offset: int
    timestamp: int
    timestamp_type: int | None
    key: None = None
    value: None = None
    headers: tuple[()] = ()
    checksum: None = None


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
        codec: int = self._batch.compression_type
        if codec == DefaultRecordBatch.CODEC_NONE:
            yield from _lenient(self._batch, self._raw)
            return
        read = 0
        try:
            raw = decompressed(self._raw, codec)
            for record in _lenient(DefaultRecordBatch(raw), raw):
                yield (
                    record if len(raw) <= RECORD_BYTES_MAX or _size(record) <= RECORD_BYTES_MAX else self._unread(read)
                )
                read += 1
        except (NotDecompressed, CorruptRecordException):
            # The broker was content with it. The checksum holds, so it will never read otherwise.
            for number in range(read, self._batch.last_offset_delta + 1):
                yield self._unread(number)

    def _unread(self, number: int) -> UnreadableRecord:
        batch = self._batch
        return UnreadableRecord(batch.base_offset + number, batch.max_timestamp, batch.timestamp_type)


def _lenient(batch: Any, raw: bytes | memoryview) -> Iterator[Any]:  # noqa: ANN401 - the library's batch
    """The records of an uncompressed batch."""
    read = 0
    try:
        for record in batch:
            yield record
            read += 1
    except UnicodeDecodeError:
        again: Any = _DefaultRecordBatchPy(raw)
        again._buffer = _LenientBytes(raw)  # noqa: SLF001
        yield from islice(again, read, None)


def _size(record: Any) -> int:  # noqa: ANN401 - the library's record
    headers = sum(len(key) + len(value or b"") for key, value in record.headers)
    return headers + len(record.key or b"") + len(record.value or b"")


class TolerantRecords:
    """The bytes of one fetch as batches of records: what the library's `MemoryRecords` is, and tolerant.

    Lives until they are read.
    """

    def __init__(self, fetched: bytes) -> None:
        self._records: Any = _MemoryRecordsPy(fetched)
        self.has_next = self._records.has_next
        self.size_in_bytes = self._records.size_in_bytes

    def next_batch(self) -> TolerantBatch | None:
        """The next whole batch, or None."""
        raw = self._records._next_slice  # noqa: SLF001 - the bytes of the batch that comes next
        return None if raw is None else TolerantBatch(self._records.next_batch(), raw)
