"""Agents go where Kafka's own partitioner would send them."""

import pytest
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from meterproof_schemas.partitioner import murmur2, partition_of


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_vectors_of_apache_kafka(data: bytes, signed: int) -> None:
    """From UtilsTest.testMurmur2 of Apache Kafka."""
    assert murmur2(data) == signed & 0xFFFFFFFF


@given(st.binary(max_size=300))
def test_same_as_aiokafka(data: bytes) -> None:
    assert murmur2(data) == aiokafka_murmur2(data) & 0xFFFFFFFF


@given(st.text(min_size=1, max_size=64), st.integers(1, 1000))
def test_partition_is_the_positive_hash_modulo(subject: str, partitions: int) -> None:
    encoded = subject.encode("utf-8", "replace").decode()
    assert partition_of(encoded, partitions) == (aiokafka_murmur2(encoded.encode()) & 0x7FFFFFFF) % partitions
