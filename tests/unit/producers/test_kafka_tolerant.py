"""The tolerant parser on bytes as a broker sends them; the library's own parser is the reference."""

from typing import Any

import aiokafka.consumer.fetcher
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder, _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords

from meterproof.kafka.tolerant import TolerantRecords, apply


class NotText:
    """A header key that the library's Python builder encodes to bytes that are not UTF-8."""

    def encode(self, encoding: str) -> bytes:
        assert encoding == "utf-8"
        return b"caf\xe9"


def batch_of(builder: type[Any], codec: int, records: list[tuple[bytes, list[Any]]]) -> bytes:
    building = builder(2, codec, False, -1, -1, 0, 1 << 20)
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


def test_it_is_in_force_for_every_consumer() -> None:
    apply()
    assert aiokafka.consumer.fetcher.MemoryRecords is TolerantRecords
