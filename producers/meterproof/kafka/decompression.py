"""Compressed batches of records, taken apart within a bound.

The broker decompresses what it is sent in small pieces, so it takes bombs: a mebibyte of zstd can hold 32 GiB. The
client library decompresses a batch as a whole, and what it raises about one that the broker was content with is of many
kinds. `decompressed` makes an uncompressed batch of a compressed one, or says that it cannot be had.
"""

import mmap
import struct
from typing import Any, Final

import cramjam
from aiokafka.codec import snappy_decode
from aiokafka.record.default_records import _DefaultRecordBatchPy

DECOMPRESSED_BYTES_MAX: Final = 32 * 1024 * 1024
"""Records of one compressed batch. What a batch may measure compressed is at most 2.5 MiB, and our producers compress
nothing."""
_ATTRIBUTES: Final = struct.Struct(">h")
_HEADER_BYTES: Final = _DefaultRecordBatchPy.HEADER_STRUCT.size
_XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES: Final = 16
_LENGTH: Final = struct.Struct(">i")
_INTO: Final[dict[int, Any]] = {
    _DefaultRecordBatchPy.CODEC_GZIP: cramjam.gzip.decompress_into,
    _DefaultRecordBatchPy.CODEC_LZ4: cramjam.lz4.decompress_into,
    _DefaultRecordBatchPy.CODEC_ZSTD: cramjam.zstd.decompress_into,
}


class NotDecompressed(ValueError):
    """A batch's records cannot be had: damaged, of an unknown codec, or larger than `DECOMPRESSED_BYTES_MAX`."""


def decompressed(raw: memoryview, codec: int) -> bytes:
    """The same batch, uncompressed. Its checksum stays the compressed one's: check that before.

    Raises:
        NotDecompressed: always the same for the same bytes.
    """
    records = bytes(raw[_HEADER_BYTES:])
    header = bytearray(raw[:_HEADER_BYTES])
    (attributes,) = _ATTRIBUTES.unpack_from(header, _DefaultRecordBatchPy.ATTRIBUTES_OFFSET)
    attributes &= ~_DefaultRecordBatchPy.CODEC_MASK
    _ATTRIBUTES.pack_into(header, _DefaultRecordBatchPy.ATTRIBUTES_OFFSET, attributes)
    try:
        if codec == _DefaultRecordBatchPy.CODEC_SNAPPY:
            return bytes(header) + _from_snappy(records)
        into = _INTO.get(codec)
        if into is None:
            raise NotDecompressed(f"codec {codec} is unknown")
        with mmap.mmap(-1, DECOMPRESSED_BYTES_MAX) as room:  # pages that nothing is written to cost nothing
            return bytes(header) + room[: into(records, room)]
    except (cramjam.DecompressionError, struct.error) as error:
        raise NotDecompressed(f"not to be decompressed, or to more than {DECOMPRESSED_BYTES_MAX} bytes") from error


def _from_snappy(records: bytes) -> bytes:
    """Snappy states sizes before anything is decompressed: of the whole, or of each block in the framing of Java's."""
    if not records.startswith(_XERIAL_MAGIC):
        size = cramjam.snappy.decompress_raw_len(records)
    else:
        size, at = 0, _XERIAL_HEADER_BYTES
        while at < len(records):
            (length,) = _LENGTH.unpack_from(records, at)
            if length < 0:
                raise NotDecompressed("a block of negative length")
            at += _LENGTH.size + length
            size += cramjam.snappy.decompress_raw_len(records[at - length : at])
    if size > DECOMPRESSED_BYTES_MAX:
        raise NotDecompressed(f"{size} bytes")
    return bytes(snappy_decode(records))
