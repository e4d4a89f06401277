"""What can be found out about a source record without the log before it: so for many records at once.

Everything here is a function of the records' bytes, of the genesis of the log and of the registry in force.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from meterproof_proofs.tree_hashing import text_tree
from meterproof_schemas.batch import Batch, BatchHeader, decode_batch
from meterproof_schemas.errors import InvalidBatch
from meterproof_schemas.keys import KeyEntry, KeyRegistry, SignedHeader
from meterproof_schemas.log_record import Genesis
from meterproof_schemas.plain_lines import PlainLines, read_plain_lines
from meterproof_schemas.reasons import Reason

Fault = tuple[Reason, str]
"""Why something is refused, and in words."""


class Sourced(Protocol):
    """A record as it stands on the source topic."""

    @property
    def value(self) -> bytes | None:
        """Its bytes."""

    @property
    def append_ms(self) -> int:
        """The broker's append time."""


class SourceRecord(NamedTuple):
    """A `Sourced` of its own."""

    value: bytes | None
    append_ms: int


@dataclass(slots=True)
class OpenedRecord:
    """A source record, taken apart and verified as far as it can be by itself."""

    value: bytes | None
    append_ms: int
    fault: Fault | None = None
    """Why nobody vouches for the record; what stands below is then empty."""
    batch: Batch | None = None
    authorities: Sequence[KeyEntry] = ()
    """The keys that vouch for the batch."""
    digest: bytes = b""
    """SHA-256 of the value."""
    entries: bytes = b""
    """One per line, one behind the other, as all below."""
    leaves: bytes = b""
    plain: PlainLines | None = None
    """None says nothing about the lines: they must be read one by one."""
    root_holds: bool = False
    """Whether the signed root is the root over the lines."""


def open_records(records: Iterable[Sourced], genesis: Genesis, registry: KeyRegistry) -> list[OpenedRecord]:
    """Take records apart: steps 1 to 4 of `judge`, each for all of them, since code that runs again at once is cheap.

    Args:
        records: of the log's source; best so many that their lines fit the processor's caches.
        genesis: of the log.
        registry: who may report what.

    """
    opened = [_addressed(record, genesis) for record in records]  # 1, 2
    claimed = [(record, record.batch) for record in opened if record.batch is not None]
    vouched: list[tuple[OpenedRecord, Batch]] = []
    found = registry.authorities_of(
        [
            SignedHeader(batch.header_line, batch.signatures, batch.header.producer, record.append_ms)
            for record, batch in claimed
        ]
    )
    for (record, batch), authorities in zip(claimed, found, strict=True):  # 3
        if isinstance(authorities, InvalidBatch):
            record.fault, record.batch = (authorities.reason, authorities.detail), None
        else:
            record.authorities = authorities
            vouched.append((record, batch))
    # From here on a known key vouches for the header of each.
    for record, batch in vouched:
        record.digest, record.entries, record.leaves, root = text_tree(batch.value, batch.start)
        record.root_holds = root.hex() == batch.header.root  # 4
    for record, batch in vouched:
        record.plain = read_plain_lines(batch.value, batch.start)
    return opened


def _addressed(record: Sourced, genesis: Genesis) -> OpenedRecord:
    """Structure and address; nobody vouches for anything yet.

    1. size and structure
    2. audience, topic, partition
    """
    value, append_ms = record.value, record.append_ms
    if not value:
        return OpenedRecord(
            value, append_ms, (Reason.UNREADABLE_RECORD, "a record without a value, or whose bytes cannot be read")
        )
    try:
        batch = decode_batch(value)  # 1
        _check_address(batch.header, genesis)  # 2
    except InvalidBatch as error:
        return OpenedRecord(value, append_ms, (error.reason, error.detail))
    return OpenedRecord(value, append_ms, None, batch)


def _check_address(header: BatchHeader, genesis: Genesis) -> None:
    """Raise `InvalidBatch` unless the batch is meant for this deployment, topic and partition."""
    if header.audience != genesis.deployment:
        raise InvalidBatch(Reason.WRONG_AUDIENCE, "signed for another deployment")
    if header.topic != genesis.source_topic:
        raise InvalidBatch(Reason.WRONG_AUDIENCE, "signed for another topic")
    if header.partition != genesis.partition:
        raise InvalidBatch(Reason.WRONG_PARTITION, f"signed for partition {header.partition}")
