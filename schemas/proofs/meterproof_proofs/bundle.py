"""Entry bundles (c2sp.org/tlog-tiles, section "Log entries"): up to 256 entries, each behind its length.

An entry is two bytes of length, big-endian, and so many bytes; so it has at most 65,535.
"""

from collections.abc import Sequence
from typing import Final

from meterproof_proofs.errors import MalformedBundle
from meterproof_proofs.tiles import TILE_WIDTH
from meterproof_proofs.tree import check_range

MAX_ENTRY_BYTES: Final = 65_535
"""Longest entry that a bundle can hold."""

_LENGTH_BYTES: Final = 2


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Return the content of the bundle with these entries.

    Raises:
        OutOfRange: not 1 to 256 of them.
        MalformedBundle: an entry is longer than `MAX_ENTRY_BYTES`.
    """
    check_range("bundle width", len(entries), 1, TILE_WIDTH)
    if (
        len(set(map(len, entries))) == 1 and len(entries[0]) <= MAX_ENTRY_BYTES
    ):  # the usual case, at a quarter of the price
        return len(entries[0]).to_bytes(_LENGTH_BYTES, "big").join((b"", *entries))
    parts: list[bytes] = []
    for number, entry in enumerate(entries):
        if len(entry) > MAX_ENTRY_BYTES:
            raise MalformedBundle(f"{len(entry)} bytes; an entry has at most {MAX_ENTRY_BYTES}", number)
        parts += len(entry).to_bytes(_LENGTH_BYTES, "big"), entry
    return b"".join(parts)


def decode_bundle(content: bytes, width: int) -> list[bytes]:
    """Return the `width` entries of a bundle, strictly: `encode_bundle(decode_bundle(x, w)) == x` for all it accepts.

    They are not verified: compare their leaf hashes with the level-0 tile of the same place.

    Raises:
        OutOfRange: `width` is not from 1 to 256.
        MalformedBundle: it ends within an entry, or bytes follow the last one.
    """
    check_range("bundle width", width, 1, TILE_WIDTH)
    entries: list[bytes] = []
    at = 0
    for number in range(width):
        begin = at + _LENGTH_BYTES
        at = begin + int.from_bytes(content[at:begin], "big")
        if begin > len(content) or at > len(content):
            raise MalformedBundle("the bundle ends before the entry does", number)
        entries.append(content[begin:at])
    if at != len(content):
        raise MalformedBundle(f"{len(content) - at} bytes follow the last of {width} entries")
    return entries
