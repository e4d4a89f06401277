"""RFC 6962 section 2.1 word for word, slow and recursive: what the package's own algorithms are compared with."""

from collections.abc import Sequence
from hashlib import sha256


def split(size: int) -> int:
    """Return the largest power of two smaller than `size`."""
    k = 1
    while 2 * k < size:
        k *= 2
    return k


def root(entries: Sequence[bytes]) -> bytes:
    """Return MTH(D[n])."""
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    k = split(len(entries))
    return sha256(b"\x01" + root(entries[:k]) + root(entries[k:])).digest()


def path(index: int, entries: Sequence[bytes]) -> list[bytes]:
    """Return PATH(m, D[n])."""
    if len(entries) == 1:
        return []
    k = split(len(entries))
    if index < k:
        return [*path(index, entries[:k]), root(entries[k:])]
    return [*path(index - k, entries[k:]), root(entries[:k])]


def proof(old_size: int, entries: Sequence[bytes]) -> list[bytes]:
    """Return PROOF(m, D[n])."""
    return subproof(old_size, entries, complete=True)


def subproof(old_size: int, entries: Sequence[bytes], *, complete: bool) -> list[bytes]:
    """Return SUBPROOF(m, D[n], b)."""
    if old_size == len(entries):
        return [] if complete else [root(entries)]
    k = split(len(entries))
    if old_size <= k:
        return [*subproof(old_size, entries[:k], complete=complete), root(entries[k:])]
    return [*subproof(old_size - k, entries[k:], complete=False), root(entries[:k])]


def path_sides(index: int, size: int) -> str:
    """Return for each hash of PATH(m, D[n]) whether it stands left (L) or right (R)."""
    if size == 1:
        return ""
    k = split(size)
    return path_sides(index, k) + "R" if index < k else path_sides(index - k, size - k) + "L"


def proof_sides(old_size: int, new_size: int, *, complete: bool = True) -> str:
    """Return for each hash of PROOF(m, D[n]) whether it opens the proof (S) or stands left (L) or right (R)."""
    if old_size == new_size:
        return "" if complete else "S"
    k = split(new_size)
    if old_size <= k:
        return proof_sides(old_size, k, complete=complete) + "R"
    return proof_sides(old_size - k, new_size - k, complete=False) + "L"
