"""How files of sealed segments are compressed: by zstd, so any zstd program reads them. The library's one importer."""

import hashlib
import io
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydantic import BaseModel, ConfigDict, Field

from meterproof_schemas.batch import Digest
from meterproof_sinks.disk import Disk, naming

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_OPTIONS: Final[Mapping[int, int]] = {
    zstd.CompressionParameter.compression_level: 3,
    zstd.CompressionParameter.checksum_flag: 1,
}
_CHUNK_BYTES: Final = 1 << 20

CompressionFault = (zstd.ZstdError, EOFError)
"""What reading a compressed file raises where its bytes are not as they were written."""


class SealedFile(BaseModel):
    """A file of lines, plain and compressed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    lines: int = Field(ge=0)
    bytes: int = Field(ge=0)
    """Of the lines."""
    sha256: Digest
    """Of the lines."""
    zst_bytes: int = Field(ge=0)
    """Of the compressed file."""
    zst_sha256: Digest
    """Of the compressed file."""


def compress(chunks: Iterable[bytes], file: Path, disk: Disk) -> SealedFile:
    """Write the lines that the chunks make up into a compressed file; returns when its bytes are on the device.

    Raises:
        OSError: it cannot be written.
    """
    lines = plain_bytes = zst_bytes = 0
    plain, packed = hashlib.sha256(), hashlib.sha256()
    compressor = zstd.ZstdCompressor(options=_OPTIONS)
    descriptor = disk.open_append(file)

    def put(content: bytes) -> int:
        if content:
            packed.update(content)
            with naming(file):
                disk.append(descriptor, content)
        return len(content)

    try:
        for chunk in chunks:
            plain.update(chunk)
            lines += chunk.count(b"\n")
            plain_bytes += len(chunk)
            zst_bytes += put(compressor.compress(chunk))
        zst_bytes += put(compressor.flush())
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
    return SealedFile(
        lines=lines,
        bytes=plain_bytes,
        sha256=plain.hexdigest(),
        zst_bytes=zst_bytes,
        zst_sha256=packed.hexdigest(),
    )


def open_compressed(file: Path) -> BinaryIO:
    """A compressed file, to read its lines.

    Raises:
        OSError: it cannot be opened. `CompressionFault` comes from reading.
    """
    return cast("BinaryIO", io.BufferedReader(zstd.ZstdFile(file), _CHUNK_BYTES))


def chunks_of(file: BinaryIO) -> Iterable[bytes]:
    """A file's content, a MiB at a time."""
    return iter(lambda: file.read(_CHUNK_BYTES), b"")
