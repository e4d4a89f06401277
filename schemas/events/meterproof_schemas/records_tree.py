"""The second tree of a log: one leaf per accepted record, so that refusals and producers' series have proofs too.

The log's own tree holds the accepted lines. What was *not* accepted, and why, stands in the record headers; which batch
a producer sent after which, in the batch headers. Both are in a record's **head**: the record header and, where the
record carries them, the batch's header and signatures, verbatim, each line with its LF. That is the record's value
without the event lines, and what the audit folder's `.records.jsonl` holds between two frames.

Entry n of the second tree is the 32 bytes SHA-256(head of the n-th accepted record); the genesis is entry 0. The leaf
is SHA-256(0x00 || entry), as in the first tree. Its origin is the log's with `/records` behind it, and the log's key
signs it under that name.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from meterproof_proofs.note import Verifier
from meterproof_schemas.log_record import LogRecord

_SUFFIX: Final = "/records"


def records_origin(origin: str) -> str:
    """The name of a log's second tree in its checkpoints."""
    return origin + _SUFFIX


def head_of(record: LogRecord) -> bytes:
    """What a record says beside its event lines: one line, or three with the batch's header and signatures."""
    return b"\n".join([record.header_line, *(record.carried or ()), b""])


def head_entry(head: bytes) -> bytes:
    """The entry of a head in the second tree (32 bytes)."""
    return sha256(head).digest()


def records_verifiers(verifiers: Iterable[Verifier], origin: str) -> list[Verifier]:
    """The keys that may sign a log's second tree, from those that may sign the log: same public keys, its own name.

    Args:
        verifiers: the keys that are trusted for the log; one that is named otherwise than the log keeps its name.
        origin: the log's.

    """
    second = records_origin(origin)
    derived = [Verifier(second, key.public_key) if key.name == origin else key for key in verifiers]
    return list(dict.fromkeys(derived))
