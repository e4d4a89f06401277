"""One record of `usage.rejected`: a refused line or batch with its reason, kept so that nothing is dropped silently.

Key: `<partition>/<source offset>/<line>`, line `-` for a whole batch. Value: line 0 this header, then LF, then the
payload bytes as they came. A payload that no known key vouches for keeps its first 64 KiB only.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from meterproof_schemas.batch import Digest
from meterproof_schemas.errors import InvalidRecord, first_fault
from meterproof_schemas.event import Count, VersionOne
from meterproof_schemas.limits import REJECTED_PAYLOAD_BYTES_MAX
from meterproof_schemas.reasons import Reason


class RejectionHeader(BaseModel):
    """Line 0 of a rejection."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    v: VersionOne
    reason: Reason
    detail: str
    """What is wrong and where; quotes no value of the payload."""
    partition: Count
    offset: Count
    """Offset on the source topic."""
    line: Count | None
    """Line number in the batch from 0; null for the whole batch."""
    digest: Digest
    """SHA-256 of the whole payload: of a line, its entry."""
    payload_bytes: Count
    """Size of the whole payload."""
    first_digest: Digest | None = None
    """Of a conflicting id: the entry that stands."""
    producer: str | None = None
    """Who signed, where a known key vouched for the batch."""
    append_ms: Count
    """The broker's append time of the source record."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A refusal with its payload, which may be cut (`payload_bytes` tells)."""

    header: RejectionHeader
    payload: bytes


def rejection_key(header: RejectionHeader) -> bytes:
    """The Kafka key of a rejection."""
    return f"{header.partition}/{header.offset}/{'-' if header.line is None else header.line}".encode()


def make_rejection(
    reason: Reason,
    detail: str,
    payload: bytes,
    *,
    partition: int,
    offset: int,
    line: int | None,
    append_ms: int,
    producer: str | None,
    first_digest: str | None = None,
) -> Rejection:
    """A rejection of `payload`; it is kept whole only where `producer` (verified) is known."""
    header = RejectionHeader(
        v=1,
        reason=reason,
        detail=detail[:_DETAIL_CHARACTERS_MAX],
        partition=partition,
        offset=offset,
        line=line,
        digest=hashlib.sha256(payload).hexdigest(),
        payload_bytes=len(payload),
        first_digest=first_digest,
        producer=producer,
        append_ms=append_ms,
    )
    return Rejection(header, payload if producer is not None else payload[:REJECTED_PAYLOAD_BYTES_MAX])


_DETAIL_CHARACTERS_MAX: Final = 500


def encode_rejection(rejection: Rejection) -> bytes:
    """The value of the Kafka record."""
    return orjson.dumps(rejection.header.model_dump(exclude_none=True) | {"line": rejection.header.line}) + (
        b"\n" + rejection.payload
    )


def decode_rejection(value: bytes | None) -> Rejection:
    """Take a record's value apart.

    Raises:
        InvalidRecord: not a rejection of this version.
    """
    head, separator, payload = (value or b"").partition(b"\n")
    try:
        if not separator:
            raise InvalidRecord("rejection: no header line")
        return Rejection(RejectionHeader.model_validate_json(head), payload)
    except ValidationError as error:
        message = f"rejection: {first_fault(error)}"
        raise InvalidRecord(message) from None
