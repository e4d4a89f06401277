"""One record of `usage.checkpoints`: a signed checkpoint and the log record that it ends at; or a genesis, for ever.

Key of a checkpoint: `<origin>|<hour of the signed record's ingest clock>`: compaction keeps one per log and hour.
Key of a genesis: `<origin>|genesis`. Value of a checkpoint: line 0 this header, then LF, then the signed note.
Value of a genesis: the log's first record, verbatim. Key of a beginning: `<origin>|beginning`; value: as a
checkpoint's.

A beginning is the checkpoint at whose record a trimmed log begins; it is written before anything is deleted.

The header also holds the signed checkpoint of the log's second tree (`records_tree`) at the same record, so one Kafka
record publishes both. Records that were written before there was a second tree have none, and stay readable.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from meterproof_proofs.errors import ProofError
from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tree_hashing import hashes_in
from meterproof_schemas.batch import Digest
from meterproof_schemas.errors import InvalidRecord, first_fault
from meterproof_schemas.event import Count, VersionOne

_HOUR_MS = 3_600_000


class RecordsCheckpoint(BaseModel):
    """The second tree after the record that the header names."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    size: Annotated[int, Field(ge=1)]
    """Accepted records of the log, the genesis included."""
    frontier: Annotated[str, StringConstraints(strict=True, pattern=r"^([0-9a-f]{64})+$")]
    """The tree's frontier: its hashes, largest subtree first, in one hexadecimal string. Where the signer goes on."""
    note: str
    """The signed checkpoint of origin `<origin>/records`, a note in the format of tlog-checkpoint."""


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
    records: RecordsCheckpoint | None = None
    """The second tree after that record; absent where it was not signed yet."""


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A signed checkpoint as it stands on the topic; the note is not verified by decoding."""

    header: CheckpointHeader
    note: bytes

    @property
    def records_note(self) -> bytes | None:
        """The signed checkpoint of the second tree, not verified; None in a record from before there was one."""
        return None if self.header.records is None else self.header.records.note.encode()


def checkpoint_key(header: CheckpointHeader) -> bytes:
    """The Kafka key of a checkpoint."""
    return f"{header.origin}|{header.clock_ms // _HOUR_MS}".encode()


def genesis_key(origin: str) -> bytes:
    """The Kafka key of a log's genesis."""
    return f"{origin}|genesis".encode()


def beginning_key(origin: str) -> bytes:
    """The Kafka key of the checkpoint at whose record a trimmed log begins."""
    return f"{origin}|beginning".encode()


def encode_checkpoint_record(record: CheckpointRecord) -> bytes:
    """The value of the Kafka record."""
    return record.header.model_dump_json(exclude_none=True).encode() + b"\n" + record.note


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
        message = f"checkpoint record: {first_fault(error)}"
        raise InvalidRecord(message) from None


def records_frontier(records: RecordsCheckpoint) -> Frontier:
    """The frontier of the second tree; compare its root with the signed one before it is believed.

    Raises:
        InvalidRecord: its number of hashes does not fit the size.
    """
    try:
        return Frontier.of(records.size, hashes_in(bytes.fromhex(records.frontier)))
    except ProofError as error:
        message = f"checkpoint record: frontier of the records: {error}"
        raise InvalidRecord(message) from None
