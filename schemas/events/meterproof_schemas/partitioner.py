"""Which partition an agent belongs to: Kafka's own default partitioner, so that any client agrees."""

from functools import lru_cache
from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Unsigned 32-bit murmur2 as Kafka computes it (org.apache.kafka.common.utils.Utils.murmur2)."""
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if whole != length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


@lru_cache(maxsize=65536)
def partition_of(subject: str, partitions: int) -> int:
    """The partition of an agent among `partitions`: positive murmur2 of its UTF-8 name, modulo."""
    return (murmur2(subject.encode()) & 0x7FFFFFFF) % partitions
