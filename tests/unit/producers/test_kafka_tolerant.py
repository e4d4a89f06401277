"""The tolerant parser on bytes as a broker sends them; the library's own parser is the reference."""

import gzip
import struct
from typing import Any

import aiokafka.consumer.fetcher
import cramjam
import pytest
from aiokafka.codec import snappy_encode
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder, _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from meterproof.kafka.decompression import DECOMPRESSED_BYTES_MAX
from meterproof.kafka.tolerant import TolerantRecords, apply
from meterproof_schemas.limits import RECORD_BYTES_MAX

_LENGTH_OFFSET = 8
"""Of the length in a batch's header, which the library does not name."""


class NotText:
    """A header key that the library's Python builder encodes to bytes that are not UTF-8."""

    def encode(self, encoding: str) -> bytes:
        assert encoding == "utf-8"
        return b"caf\xe9"


def batch_of(builder: type[Any], codec: int, records: list[tuple[bytes, list[Any]]]) -> bytes:
    building = builder(2, codec, False, -1, -1, 0, 1 << 22)
    for number, (value, headers) in enumerate(records):
        building.append(number, 1_000 + number, b"key", value, headers)
    return bytes(building.build())


def read(parser: type[Any], fetched: bytes) -> list[tuple[Any, ...]]:
    records, found = parser(fetched), []
    while records.has_next():
        batch = records.next_batch()
        assert batch.validate_crc()
        assert not batch.is_control_batch
        found += [(record.offset, record.timestamp, record.key, record.value, record.headers) for record in batch]
        assert batch.next_offset == batch.base_offset + batch.last_offset_delta + 1
    assert records.next_batch() is None
    return found


GOOD = [(b"%d" % number, [("h", b"v")] if number % 2 else []) for number in range(5)]


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4], ids=["plain", "gzip", "snappy", "lz4", "zstd"])
def test_batches_read_as_the_library_reads_them(codec: int) -> None:
    fetched = batch_of(DefaultRecordBatchBuilder, codec, GOOD) * 2
    for cut in (len(fetched), len(fetched) - 1, len(fetched) // 2 + 1, 5, 0):
        assert read(TolerantRecords, fetched[:cut]) == read(MemoryRecords, fetched[:cut])
        assert TolerantRecords(fetched[:cut]).size_in_bytes() == cut


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4], ids=["plain", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_key_that_is_not_utf8_costs_nothing_but_its_spelling(codec: int, place: int) -> None:
    records: list[tuple[bytes, list[Any]]] = list(GOOD)
    records[place] = (b"poisoned", [("before", b"1"), (NotText(), b"2"), ("behind", None)])
    fetched = batch_of(_DefaultRecordBatchBuilderPy, codec, records) + batch_of(DefaultRecordBatchBuilder, codec, GOOD)
    with pytest.raises(UnicodeDecodeError):
        read(MemoryRecords, fetched)
    found = read(TolerantRecords, fetched)
    assert [value for _, _, _, value, _ in found] == [value for value, _ in records] + [value for value, _ in GOOD]
    assert [offset for offset, *_ in found] == [0, 1, 2, 3, 4] * 2
    assert found[place][4] == [("before", b"1"), ("caf\\xe9", b"2"), ("behind", None)]


def compressed_anew(batch: bytes, codec: int, compressed: bytes) -> bytes:
    """A batch with other compressed records, and the checksum of these."""
    of = _DefaultRecordBatchBuilderPy
    framed = bytearray(batch[: of.HEADER_STRUCT.size]) + compressed
    struct.pack_into(">i", framed, _LENGTH_OFFSET, len(framed) - of.AFTER_LEN_OFFSET)
    struct.pack_into(">h", framed, of.ATTRIBUTES_OFFSET, codec)
    struct.pack_into(">I", framed, of.CRC_OFFSET, calc_crc32c(bytes(framed[of.ATTRIBUTES_OFFSET :])))
    return bytes(framed)


PLAIN = batch_of(DefaultRecordBatchBuilder, 0, GOOD)
RECORDS = PLAIN[_DefaultRecordBatchBuilderPy.HEADER_STRUCT.size :]
TOO_MANY = bytes(DECOMPRESSED_BYTES_MAX + 1)
UNREADABLE = [(offset, 1_004, None, None, ()) for offset in range(5)]


@pytest.mark.parametrize(
    ("codec", "compressed"),
    [
        (1, cramjam.gzip.compress(TOO_MANY)),
        (2, cramjam.snappy.compress_raw(TOO_MANY)),
        (2, snappy_encode(TOO_MANY)),
        (3, cramjam.lz4.compress(TOO_MANY)),
        (4, cramjam.zstd.compress(TOO_MANY)),
        (1, gzip.compress(RECORDS) + b"behind"),  # Kafka takes it
        (2, snappy_encode(RECORDS)[:16] + struct.pack(">i", -4)),  # never ends, in the library
        (3, bytes(cramjam.lz4.compress(RECORDS)) + b"behind"),  # Kafka takes it
        (4, b"none"),
        (5, b"no such codec"),
    ],
    ids=[
        *("gzip bomb", "snappy bomb", "framed snappy bomb", "lz4 bomb", "zstd bomb"),
        *("gzip and more", "snappy backwards", "lz4 and more", "no zstd", "unknown"),
    ],
)
def test_records_that_cannot_be_had_leave_their_places_and_their_neighbours(codec: int, compressed: bytes) -> None:
    fetched = compressed_anew(PLAIN, codec, bytes(compressed)) + PLAIN
    assert read(TolerantRecords, fetched) == [*UNREADABLE, *read(MemoryRecords, PLAIN)]


def test_bytes_behind_the_records_of_a_compressed_batch_are_nothing() -> None:
    fetched = compressed_anew(PLAIN, 4, bytes(cramjam.zstd.compress(RECORDS + b"behind")))
    with pytest.raises(CorruptRecordException):
        read(MemoryRecords, fetched)
    assert read(TolerantRecords, fetched) == read(MemoryRecords, PLAIN)


@pytest.mark.parametrize("codec", [0, 4], ids=["plain", "zstd"])
def test_a_record_that_no_topic_could_hold_has_no_value(codec: int) -> None:
    large = bytes(RECORD_BYTES_MAX)
    records: list[tuple[bytes, list[Any]]] = [(b"before", []), (large, []), (b"behind", [])]
    fetched = batch_of(_DefaultRecordBatchBuilderPy, codec, records)
    if codec == 0:  # its size on the wire bounds it
        assert [value for *_, value, _ in read(TolerantRecords, fetched)] == [b"before", large, b"behind"]
    else:
        assert [value for *_, value, _ in read(TolerantRecords, fetched)] == [b"before", None, b"behind"]


def test_it_is_in_force_for_every_consumer() -> None:
    apply()
    assert aiokafka.consumer.fetcher.MemoryRecords is TolerantRecords
