"""The standard library's zstd, where this Python has it, or its backport: for tests that look into compressed files."""

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import compress, decompress
else:
    from backports.zstd import compress, decompress

__all__ = ["compress", "decompress"]
