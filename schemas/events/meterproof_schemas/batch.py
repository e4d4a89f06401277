"""What one producer instance sends in one Kafka record: header, signatures, 1 to 1,000 event lines, all NDJSON.

```
line 0      header      who, for whom, which series, how many events, the root over them
line 1      signatures  over line 0 alone (DSSE pre-authentication encoding)
line 2…n+1  events      verbatim
```
Every line ends with LF. A batch is self-contained: one event's origin is proved by its line, its path to `root`, the
header and the signatures, without showing its neighbours.
"""

import hashlib
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
import orjson
from msgspec import Meta
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from meterproof_proofs.frontier import batch_root
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.errors import InvalidBatch, first_fault
from meterproof_schemas.event import Name, VersionOne, entry_of
from meterproof_schemas.instant import Instant, parse_instant_us
from meterproof_schemas.limits import (
    BATCH_BYTES_MAX,
    BATCH_LINES_MAX,
    HEADER_LINE_BYTES_MAX,
    NAME_BYTES_MAX,
    SIGNATURES_LINE_BYTES_MAX,
)
from meterproof_schemas.reasons import Reason
from meterproof_schemas.strict_json import NotStrictJson, parse_object
from meterproof_schemas.trusted import trusted

try:
    from meterproof_schemas._usual_batch import read_usual_batch
except ImportError:  # there was no C compiler when this package was installed

    def read_usual_batch(value: bytes, /) -> tuple[bytes, dict[str, Any], bytes, dict[str, Any], int] | None:
        """None, which says nothing about the batch."""
        del value
        return None


HEADER_PAYLOAD_TYPE: Final = "application/vnd.meterproof.batch-header.v1+json"
_DSSE_BEGIN: Final = f"DSSEv1 {len(HEADER_PAYLOAD_TYPE)} {HEADER_PAYLOAD_TYPE} ".encode()
SIGNATURES_MAX: Final = 8
"""Signatures of one batch: a rotation needs two."""

Digest = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in lower-case hexadecimal."""
Token = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{32}$")]
"""16 random bytes in lower-case hexadecimal."""
Algorithm = Literal["ed25519", "hmac-sha256"]

_CLOSED: Final = ConfigDict(extra="forbid", frozen=True, strict=True)


class BatchHeader(BaseModel):
    """Line 0. Binds the events to a deployment, topic, partition and to the producer's own series."""

    model_config = _CLOSED
    v: VersionOne
    audience: Name
    """The deployment that may count this batch."""
    topic: Name
    partition: Annotated[int, Field(ge=0)]
    producer: Name
    instance: Token
    """Random per start of a producer; a series is (producer, instance) within one partition."""
    sequence: Annotated[int, Field(ge=0, le=2**63 - 1)]
    """0, 1, 2 … within the series."""
    previous: Digest | None
    """SHA-256 of the previous header line of the series; null for sequence 0."""
    count: Annotated[int, Field(ge=1, le=BATCH_LINES_MAX)]
    root: Digest
    """RFC 6962 root over the entries of the lines."""
    sent_at: Instant
    """The producer's clock, for people; no rule looks at it."""


class Signature(BaseModel):
    """One signature over line 0."""

    model_config = _CLOSED
    key_id: Name
    algorithm: Algorithm
    signature: Annotated[str, StringConstraints(strict=True, max_length=128, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]
    """Base64 with padding (RFC 4648 section 4)."""


class Signatures(BaseModel):
    """Line 1."""

    model_config = _CLOSED
    signatures: Annotated[tuple[Signature, ...], Field(min_length=1, max_length=SIGNATURES_MAX, strict=False)]


@dataclass(slots=True)
class Batch:
    """A batch whose structure holds; nothing is verified yet."""

    header_line: bytes
    header: BatchHeader
    signatures_line: bytes
    signatures: tuple[Signature, ...]
    value: bytes
    """The whole batch."""
    start: int
    """Where its events begin."""

    @property
    def lines(self) -> list[bytes]:
        """The events verbatim, without their LF; cut anew each time."""
        return self.value[self.start :].split(b"\n")[:-1]


def signed_bytes(header_line: bytes) -> bytes:
    """What the signatures cover: the DSSE v1 pre-authentication encoding of (payload type, line 0)."""
    return b"%s%d %s" % (_DSSE_BEGIN, len(header_line), header_line)


def header_digest(header_line: bytes) -> str:
    """SHA-256 of a header line in hexadecimal: what the next header of the series names as `previous`."""
    return hashlib.sha256(header_line).hexdigest()


def root_of_entries(entries: list[bytes]) -> bytes:
    """RFC 6962 root over the entries (32 bytes each) of a batch."""
    return batch_root(leaf_hashes(entries))


def root_of_lines(lines: list[bytes]) -> bytes:
    """RFC 6962 root over the entries of event lines."""
    return root_of_entries([entry_of(line) for line in lines])


def encode_header(header: BatchHeader) -> bytes:
    """Line 0, without LF."""
    return orjson.dumps(header.__dict__)


def encode_signatures(signatures: list[tuple[str, Algorithm, bytes]]) -> bytes:
    """Line 1, without LF, from (key id, algorithm, raw signature)."""
    return orjson.dumps(
        {
            "signatures": [
                {"key_id": key_id, "algorithm": algorithm, "signature": b64encode(raw).decode()}
                for key_id, algorithm, raw in signatures
            ]
        }
    )


def encode_batch(header_line: bytes, signatures_line: bytes, lines: list[bytes]) -> bytes:
    """The value of the Kafka record."""
    return b"\n".join([header_line, signatures_line, *lines, b""])


def decode_batch(value: bytes) -> Batch:
    """Take a record's value apart and check its structure; verifies no signature and no root.

    Raises:
        InvalidBatch: `too_large` or `malformed_batch`.
    """
    if len(value) > BATCH_BYTES_MAX:
        raise InvalidBatch(Reason.TOO_LARGE, f"batch of {len(value)} bytes; at most {BATCH_BYTES_MAX}")
    usual = read_usual_batch(value)
    if usual is not None:
        header_line, fields, signatures_line, signature, start = usual
        signatures = (trusted(Signature, signature),)
        return Batch(header_line, trusted(BatchHeader, fields), signatures_line, signatures, value, start)
    return _decoded(value)


def _decoded(value: bytes) -> Batch:
    """`decode_batch` for whatever spelling; `_usual_batch.c` does the same for the commonest one."""
    if value[-1:] not in {b"\n", b""}:
        raise InvalidBatch(Reason.MALFORMED_BATCH, "the last line does not end with LF")
    # What is removed is found by memchr; `count` looks at each byte, which takes six times as long.
    count = len(value) - len(value.replace(b"\n", b"")) - 2
    if count < 1:
        raise InvalidBatch(Reason.MALFORMED_BATCH, "fewer than three lines: header, signatures and an event")
    header_end = value.index(b"\n")
    signatures_end = value.index(b"\n", header_end + 1)
    header_line, signatures_line = value[:header_end], value[header_end + 1 : signatures_end]
    if len(header_line) > HEADER_LINE_BYTES_MAX:
        raise InvalidBatch(Reason.MALFORMED_BATCH, f"header line above {HEADER_LINE_BYTES_MAX} bytes")
    if len(signatures_line) > SIGNATURES_LINE_BYTES_MAX:
        raise InvalidBatch(Reason.MALFORMED_BATCH, f"signatures line above {SIGNATURES_LINE_BYTES_MAX} bytes")
    try:
        header = _usual_header(header_line) or BatchHeader.model_validate(parse_object(header_line))
        signatures = (
            _usual_signatures(signatures_line) or Signatures.model_validate(parse_object(signatures_line)).signatures
        )
    except NotStrictJson as error:
        raise InvalidBatch(Reason.MALFORMED_BATCH, f"header or signatures line: {error}") from None
    except ValidationError as error:
        raise InvalidBatch(Reason.MALFORMED_BATCH, first_fault(error)) from None
    if header.count != count:
        raise InvalidBatch(Reason.MALFORMED_BATCH, f"header counts {header.count} events, {count} came")
    if len(signatures) > 1 and len({signature.key_id for signature in signatures}) != len(signatures):
        raise InvalidBatch(Reason.MALFORMED_BATCH, "two signatures by one key")
    if (header.sequence == 0) != (header.previous is None):
        raise InvalidBatch(Reason.MALFORMED_BATCH, "previous is null for sequence 0 and only there")
    return Batch(header_line, header, signatures_line, signatures, value, signatures_end + 1)


# --- the spelling of our own helper, accepted at once; all else is left to the models, which alone refuse ------------


class _Header(msgspec.Struct, frozen=True, gc=False):
    """`BatchHeader` as far as `msgspec` can say it, in the same order."""

    v: Annotated[int, Meta(ge=1, le=1)]
    audience: Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]
    topic: Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]
    partition: Annotated[int, Meta(ge=0, le=2**31)]
    producer: Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]
    instance: Annotated[str, Meta(min_length=32, max_length=32)]
    sequence: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    previous: Annotated[str, Meta(min_length=64, max_length=64)] | None
    count: Annotated[int, Meta(ge=1, le=BATCH_LINES_MAX)]
    root: Annotated[str, Meta(min_length=64, max_length=64)]
    sent_at: str


_decode_header: Final = msgspec.json.Decoder(_Header).decode
_encode_header: Final = msgspec.json.Encoder().encode
_BACKSLASH: Final = 0x5C
_DELETE: Final = 0x7F
_one_signature: Final = re.compile(
    rb'\{"signatures":\[\{"key_id":"([0-9a-f]{64})","algorithm":"ed25519","signature":"([A-Za-z0-9+/]{86}==)"\}\]\}'
).fullmatch


def _usual_header(line: bytes) -> BatchHeader | None:
    """The header of a line that is spelled as `encode_header` does; None says nothing about the line.

    1. ASCII without backslash and 0x7f: with JSON's own ban on raw control characters, no string holds any.
    2. Types and bounds.
    3. Written again it is the same line: no name twice, no unknown field, no white space, no other spelling.
    4. Hexadecimal digits and the instant.
    """
    if not line.isascii() or _BACKSLASH in line or _DELETE in line:  # 1
        return None
    try:
        header = _decode_header(line)  # 2
        if _encode_header(header) != line:  # 3
            return None
        digits = header.instance + (header.previous or "") + header.root  # 4
        if bytes.fromhex(digits).hex() != digits:
            return None
        parse_instant_us(header.sent_at)
    except ValueError:
        return None
    return trusted(
        BatchHeader,
        {
            "v": 1,
            "audience": header.audience,
            "topic": header.topic,
            "partition": header.partition,
            "producer": header.producer,
            "instance": header.instance,
            "sequence": header.sequence,
            "previous": header.previous,
            "count": header.count,
            "root": header.root,
            "sent_at": header.sent_at,
        },
    )


def _usual_signatures(line: bytes) -> tuple[Signature, ...] | None:
    """The one Ed25519 signature of a line that is spelled as `encode_signatures` does; None says nothing."""
    found = _one_signature(line)
    if found is None:
        return None
    key_id, signature = found.groups()
    return (trusted(Signature, {"key_id": key_id.decode(), "algorithm": "ed25519", "signature": signature.decode()}),)
