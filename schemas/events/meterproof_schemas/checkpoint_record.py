"""One record of `usage.checkpoints`: a signed checkpoint and the log record that it ends at; or a genesis, for ever.

Key of a checkpoint: `<origin>|<hour of the signed record's ingest clock>`: compaction keeps one per log and hour.
Key of a genesis: `<origin>|genesis`. Value of a checkpoint: line 0 this header, then LF, then the signed note.
Value of a genesis: the log's first record, verbatim.
"""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from meterproof_schemas.batch import Digest
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.event import Count, VersionOne

_HOUR_MS = 3_600_000


class CheckpointHeader(BaseModel):
    """Line 0: where in `usage.log` the signed size is."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    v: VersionOne
    origin: str
    size: Count
    log_offset: Count
    """Offset of the log record after which the log has this size."""
    digest: Digest
    """SHA-256 of that record's value."""
    clock_ms: Count
    """Ingest clock of that record."""


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A signed checkpoint as it stands on the topic; the note is not verified by decoding."""

    header: CheckpointHeader
    note: bytes


def checkpoint_key(header: CheckpointHeader) -> bytes:
    """The Kafka key of a checkpoint."""
    return f"{header.origin}|{header.clock_ms // _HOUR_MS}".encode()


def genesis_key(origin: str) -> bytes:
    """The Kafka key of a log's genesis."""
    return f"{origin}|genesis".encode()


def encode_checkpoint_record(record: CheckpointRecord) -> bytes:
    """The value of the Kafka record."""
    return record.header.model_dump_json().encode() + b"\n" + record.note


def decode_checkpoint_record(value: bytes | None) -> CheckpointRecord:
    """Take a record's value apart.

    Raises:
        InvalidRecord: not a checkpoint record of this version.
    """
    head, separator, note = (value or b"").partition(b"\n")
    try:
        if not separator:
            raise InvalidRecord("checkpoint record: no header line")
        return CheckpointRecord(CheckpointHeader.model_validate_json(head), note)
    except ValidationError as error:
        message = f"checkpoint record: {str(error)[:200]}"
        raise InvalidRecord(message) from None
