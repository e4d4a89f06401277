"""One record of `usage.log`: what became of one source record, chained to the record before it.

```
line 0      record header   verdict, positions, root and frontier after, `prev`
line 1, 2   the batch's header and signatures, verbatim — only where a key of the registry vouched for the batch
line 3…     the accepted event lines, verbatim
```
Every line ends with LF. A record is accepted by readers if and only if its `prev` is the SHA-256 of the value of the
last accepted record; everything else on the topic is a late writer's echo.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from meterproof_proofs.errors import ProofError
from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tree import EMPTY_ROOT
from meterproof_proofs.tree_hashing import hashes_in
from meterproof_schemas.batch import Digest, Token
from meterproof_schemas.effect import Effect
from meterproof_schemas.errors import InvalidRecord, first_fault
from meterproof_schemas.event import Count, Name, VersionOne
from meterproof_schemas.limits import BATCH_LINES_MAX
from meterproof_schemas.reasons import DUPLICATE, Reason

GENESIS_PREV: Final = "0" * 64
"""`prev` of a genesis record: nothing came before it."""

Kind = Literal["genesis", "batch", "hole", "unreadable", "quarantined"]
_VERDICT: Final = "|".join([DUPLICATE, *Reason])
NotAccepted = tuple[
    Annotated[int, Field(ge=0, lt=BATCH_LINES_MAX)],
    Annotated[str, StringConstraints(strict=True, pattern=f"^({_VERDICT})$")],
    Digest,
]
"""(line number in the batch from 0, `duplicate` or a reason, entry in hexadecimal)."""
StatedEffect = tuple[Count, Annotated[Effect, Field(strict=False)]]
"""(position of an accepted correction, what it does)."""

_CLOSED: Final = ConfigDict(extra="forbid", frozen=True, strict=True)


LogName = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=128, pattern=r"^[^\s+\x00-\x1f\x7f-\x9f]+$")
]
"""Becomes part of a note's key name, which holds no white space and no `+` (c2sp.org/signed-note)."""


class Limits(BaseModel):
    """The limits that a log was created with, in bytes, lines and milliseconds."""

    model_config = _CLOSED
    line_bytes_max: Count
    batch_bytes_max: Count
    batch_lines_max: Count
    future_tolerance_ms: Count
    horizon_ms: Count
    corrections: bool
    """Whether corrections are taken; a log that says no refuses them with `correction_not_allowed`."""

    @property
    def identities_kept_ms(self) -> int:
        """For how long of the ingest clock an identity is remembered: then its bytes are `too_late` for ever."""
        return self.horizon_ms + self.future_tolerance_ms


class Genesis(BaseModel):
    """What the first record of a log fixes for ever."""

    model_config = _CLOSED
    name: LogName
    """Schema-less URL that names the log's owner, like `meter.example.com/production`."""
    epoch: Token
    """Random at creation, never configured: a new cluster cannot continue an old log by accident."""
    deployment: Name
    """The audience that batches must be signed for."""
    source_topic: Name
    partition: Count
    partitions: Annotated[int, Field(ge=1)]
    limits: Limits
    created_ms: Count

    @property
    def origin(self) -> str:
        """The log's name in checkpoints: `<name>/<epoch>/p<partition>`."""
        return f"{self.name}/{self.epoch}/p{self.partition}"


class Source(BaseModel):
    """The source records that a log record answers for."""

    model_config = _CLOSED
    offset: Count
    count: Annotated[int, Field(ge=1)]
    """Offsets covered: 1, or the length of a hole."""
    digest: Digest | None
    """SHA-256 of the source record's value; null where there was none to read."""


class Operator(BaseModel):
    """Who decided what the machine could not, and why."""

    model_config = _CLOSED
    who: Name
    why: Name


class RecordHeader(BaseModel):
    """Line 0 of a log record. The verdict is stored here and never computed twice."""

    model_config = _CLOSED
    v: VersionOne
    kind: Kind
    prev: Digest
    source: Source | None
    """Null in a genesis record only."""
    append_ms: Count
    """The broker's append time of the source record; of a hole, the ingest clock."""
    clock_ms: Count
    """Ingest clock: running maximum of `append_ms`."""
    reason: Annotated[Reason, Field(strict=False)] | None
    """Why the whole record was refused; null when its lines were judged one by one."""
    not_accepted: Annotated[tuple[Annotated[NotAccepted, Field(strict=False)], ...], Field(strict=False)]
    first: Count
    """Position of the first accepted line."""
    size: Count
    """Entries in the log after this record; `size - first` lines were accepted."""
    root: Digest
    """RFC 6962 root over all entries of the log after this record."""
    frontier: Annotated[str, StringConstraints(strict=True, pattern=r"^([0-9a-f]{64})*$")]
    """The log's frontier after this record: its hashes, largest subtree first, in one hexadecimal string."""
    registry: Digest
    """The key registry in force."""
    price_book: Count
    """The price book in force; 0 is none."""
    writer: Token
    """Random per take-over of the partition by a sequencer."""
    generation: int
    """The consumer group's generation; it repeats, so it proves nothing."""
    operator: Operator | None = None
    genesis: Genesis | None = None
    corrections: Annotated[tuple[Annotated[StatedEffect, Field(strict=False)], ...], Field(strict=False)] | None = None
    """Every accepted correction with its effect, in order; null where there is none."""

    @property
    def effects(self) -> dict[int, Effect]:
        """What each accepted correction does, by position."""
        return dict(self.corrections or ())

    @property
    def accepted(self) -> int:
        """Lines accepted by this record."""
        return self.size - self.first

    @property
    def next_source_offset(self) -> int:
        """The source offset that the next record must begin with."""
        return 0 if self.source is None else self.source.offset + self.source.count


@dataclass(frozen=True)
class LogRecord:
    """A decoded record. `carried` is the batch's header and signatures line, where a known key vouched for them."""

    value: bytes
    digest: str
    """SHA-256 of the value in hexadecimal: the next record's `prev`."""
    header_line: bytes
    header: RecordHeader
    carried: tuple[bytes, bytes] | None

    @property
    def lines_begin(self) -> int:
        """Where the accepted lines begin in the value, each ended by LF."""
        before = (self.header_line, *(self.carried or ()))
        return sum(map(len, before)) + len(before)

    @cached_property
    def lines(self) -> list[bytes]:
        """The accepted lines; cut apart when they are first asked for."""
        return self.value[self.lines_begin : -1].split(b"\n") if self.header.accepted else []


def record_digest(value: bytes) -> str:
    """SHA-256 of a record's value in hexadecimal."""
    return hashlib.sha256(value).hexdigest()


def encode_record(header_line: bytes, carried: tuple[bytes, bytes] | None, lines: Sequence[bytes]) -> bytes:
    """The value of the Kafka record from its lines (each without LF)."""
    return encode_record_text(header_line, carried, b"".join([line + b"\n" for line in lines]))


def encode_record_text(header_line: bytes, carried: tuple[bytes, bytes] | None, text: bytes) -> bytes:
    """The value of the Kafka record; `text` is the accepted lines, each ended by LF."""
    return b"\n".join([header_line, *(carried or ()), text])


def encode_record_header(header: RecordHeader) -> bytes:
    """Line 0, without LF: the fields in their order; those of `_OPTIONAL` only where they say something."""
    fields = header.__dict__.copy()
    for name in _OPTIONAL:
        if fields[name] is None:
            del fields[name]
    if header.source is not None:
        fields["source"] = header.source.__dict__
    return orjson.dumps(fields, _fields_of)


def decode_record(value: bytes | None, digest: str | None = None) -> LogRecord:
    """Take a record apart; `digest` is `record_digest` of the value where the caller has just made it.

    Raises:
        InvalidRecord: the bytes are not a log record of this version.
    """
    if not value or value[-1:] != b"\n":
        raise InvalidRecord("log record: empty, or not ended by LF")
    end = value.index(b"\n")
    header_line = value[:end]
    try:
        header = RecordHeader.model_validate(orjson.loads(header_line))
    except (ValidationError, orjson.JSONDecodeError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else error
        message = f"log record: header: {fault}"
        raise InvalidRecord(message) from None
    if header.accepted < 0:
        raise InvalidRecord("log record: its size is below its first position")
    lines = value.count(b"\n") - 1
    extra = lines - header.accepted
    if extra not in {0, 2} or (extra == 0 and header.accepted):
        message = f"log record: {header.accepted} accepted lines and {lines} lines after the header"
        raise InvalidRecord(message)
    carried = None
    if extra:
        between = value.index(b"\n", end + 1)
        carried = (value[end + 1 : between], value[between + 1 : value.index(b"\n", between + 1)])
    return LogRecord(value, digest or record_digest(value), header_line, header, carried)


def frontier_of(header: RecordHeader) -> Frontier:
    """The Merkle frontier after a record.

    Raises:
        InvalidRecord: its number of hashes does not fit the size.
    """
    try:
        return Frontier.of(header.size, hashes_in(bytes.fromhex(header.frontier)))
    except ProofError as error:
        message = f"log record: frontier: {error}"
        raise InvalidRecord(message) from None


_OPTIONAL: Final = ("operator", "genesis", "corrections")


def _fields_of(model: BaseModel) -> dict[str, Any]:
    return model.__dict__


def make_genesis(
    *,
    name: str,
    epoch: str,
    deployment: str,
    source_topic: str,
    partition: int,
    partitions: int,
    limits: Limits,
    created_ms: int,
) -> bytes:
    """The value of the first record of a log; `epoch` is 16 random bytes in hexadecimal, one per creation."""
    header = RecordHeader(
        v=1,
        kind="genesis",
        prev=GENESIS_PREV,
        source=None,
        append_ms=0,
        clock_ms=0,
        reason=None,
        not_accepted=(),
        first=0,
        size=0,
        root=EMPTY_ROOT.hex(),
        frontier="",
        registry="0" * 64,
        price_book=0,
        writer="0" * 32,
        generation=0,
        genesis=Genesis(
            name=name,
            epoch=epoch,
            deployment=deployment,
            source_topic=source_topic,
            partition=partition,
            partitions=partitions,
            limits=limits,
            created_ms=created_ms,
        ),
    )
    return encode_record(encode_record_header(header), None, ())
