"""One usage fact: a CloudEvents 1.0 JSON object on one line, kept byte for byte as it was hashed and signed."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from meterproof_proofs.tree_hashing import digests
from meterproof_schemas.errors import InvalidEvent, first_fault
from meterproof_schemas.instant import TIME_PATTERN, parse_instant_us
from meterproof_schemas.limits import LINE_BYTES_MAX, NAME_BYTES_MAX
from meterproof_schemas.quantity import Quantity
from meterproof_schemas.reasons import Reason
from meterproof_schemas.strict_json import NotStrictJson, parse_object

EVENT_TYPE: Final = "meterproof.usage.v1"
METERS_MAX: Final = 64
"""Meters in one event."""
TAGS_MAX: Final = 64
"""Tags in one event."""

Name = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=NAME_BYTES_MAX, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")
]
"""1 to 256 UTF-8 bytes without control characters."""
Text = Annotated[str, StringConstraints(strict=True, max_length=4096)]
MeterName = Annotated[str, StringConstraints(strict=True, max_length=64, pattern=r"^[a-z][a-z0-9_.]*$")]
VersionOne = Annotated[int, Field(strict=True, ge=1, le=1)]
"""Version of a format. A `Literal[1]` would take `true` and `1.0` for it."""
Count = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
Surface = Literal["rest", "mcp", "llm", "tool", "agent"]
Status = Literal["ok", "error", "denied", "rate_limited", "payment_required"]

_OPEN: Final = ConfigDict(extra="allow", frozen=True, strict=True)


class Correction(BaseModel):
    """What an event corrects: an earlier one of the same source and subject. See `meterproof_schemas.correction`."""

    model_config = _OPEN
    id: Name
    kind: Literal["void", "replace"]
    line: Annotated[str, StringConstraints(strict=True, max_length=LINE_BYTES_MAX)] | None = None
    """That event's line, verbatim."""


class Latency(BaseModel):
    """Parts of a call's duration, each in whole microseconds."""

    model_config = _OPEN
    total_us: Count | None = None
    queue_us: Count | None = None
    upstream_us: Count | None = None
    first_token_us: Count | None = None


class StatedCost(BaseModel):
    """What the source says the call cost. A claim: spend follows from the price book."""

    model_config = _OPEN
    amount: Quantity
    currency: Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Z]{3}$")]


class Governance(BaseModel):
    """Where, what for and on whose consent."""

    model_config = _OPEN
    residency: Name | None = None
    purpose: Name | None = None
    consent: Name | None = None


class UsageData(BaseModel):
    """The payload of a usage event. Unknown fields are kept."""

    model_config = _OPEN
    customer: Name
    usage: Annotated[dict[MeterName, Quantity], Field(min_length=1, max_length=METERS_MAX)]
    corrects: Correction | None = None
    operation: Name | None = None
    surface: Surface | None = None
    status: Status | None = None
    status_code: Annotated[int, Field(strict=True, ge=0, le=999)] | None = None
    provider: Name | None = None
    model: Name | None = None
    latency: Latency | None = None
    request_bytes: Count | None = None
    response_bytes: Count | None = None
    session: Name | None = None
    user: Name | None = None
    run: Name | None = None
    parent: Name | None = None
    traceparent: (
        Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]
        | None
    ) = None
    cost: StatedCost | None = None
    tags: Annotated[dict[Name, Name], Field(max_length=TAGS_MAX)] | None = None
    governance: Governance | None = None
    request_signature: Text | None = None
    receipt: Text | None = None
    salt: Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{32}$")] | None = None


class UsageEvent(BaseModel):
    """A usage event; identity = `source` + `id`, within the partition of `subject` (the agent).

    Instances come from `parse_event`; a `UsageEvent` that was built by hand has not passed the rules on bytes.
    """

    model_config = _OPEN
    specversion: Literal["1.0"]
    id: Name
    source: Name
    type: Literal["meterproof.usage.v1"]
    time: Annotated[str, StringConstraints(strict=True, pattern=TIME_PATTERN)]
    subject: Name
    data: UsageData

    @property
    def time_us(self) -> int:
        """Event time in microseconds since 1970-01-01 UTC."""
        return parse_instant_us(self.time)


class CorrectionView(Protocol):
    """What rules read of a `Correction`."""

    @property
    def id(self) -> str:
        """Id of the event that is corrected."""

    @property
    def kind(self) -> str:
        """`void` or `replace`."""

    @property
    def line(self) -> str | None:
        """That event's line."""


class RatedDataView(Protocol):
    """What rating reads of `UsageData`."""

    @property
    def usage(self) -> Mapping[str, int | str]:
        """Quantity by meter, at least one; only in a correction negative."""

    @property
    def provider(self) -> str | None:
        """Whose model or service."""

    @property
    def model(self) -> str | None:
        """Which model."""

    @property
    def operation(self) -> str | None:
        """What was called."""


class WhoDataView(Protocol):
    """What scopes ask of `UsageData`."""

    @property
    def customer(self) -> str:
        """Who pays."""

    @property
    def session(self) -> str | None:
        """Session."""

    @property
    def user(self) -> str | None:
        """Whom the agent worked for."""

    @property
    def tags(self) -> Mapping[str, str] | None:
        """Tags, such as team, project and cost centre."""


class DataView(RatedDataView, WhoDataView, Protocol):
    """What rules read of `UsageData`."""

    @property
    def corrects(self) -> CorrectionView | None:
        """What is corrected; None for most events."""

    @property
    def surface(self) -> str | None:
        """How it was called."""

    @property
    def status(self) -> str | None:
        """How it ended."""


class RatedView(Protocol):
    """What rating reads of an event."""

    @property
    def time(self) -> str:
        """Event time as stated."""

    @property
    def data(self) -> RatedDataView:
        """The payload."""


class WhoView(Protocol):
    """What budgets ask of an event: whom it counts for, and when it was."""

    @property
    def source(self) -> str:
        """The service that reports."""

    @property
    def time(self) -> str:
        """Event time as stated."""

    @property
    def subject(self) -> str:
        """The agent."""

    @property
    def data(self) -> WhoDataView:
        """The payload."""


class Event(RatedView, WhoView, Protocol):
    """A valid event as rules, prices and sinks read it: a `UsageEvent`, or what `read_event` makes of the same line."""

    @property
    def id(self) -> str:
        """Unique within the source."""

    @property
    def data(self) -> DataView:
        """The payload."""

    @property
    def time_us(self) -> int:
        """Event time in microseconds since 1970-01-01 UTC."""


_IDENTITY_CONTEXT: Final = hashlib.blake2b(digest_size=16)
_NAMES_ABOVE: Final = NAME_BYTES_MAX // 4
"""A name of no more characters than this cannot exceed the limit in bytes."""


def parse_event(line: bytes) -> UsageEvent:
    """Parse and validate one event line. The only validator: services run it before they sign, the sequencer after.

    Raises:
        InvalidEvent: `too_large`, `malformed_event` or `correction_not_allowed`, naming the field and the fault.
    """
    if len(line) > LINE_BYTES_MAX:
        raise InvalidEvent(Reason.TOO_LARGE, f"line of {len(line)} bytes; at most {LINE_BYTES_MAX}")
    try:
        document = parse_object(line)
        event = UsageEvent.model_validate(document)
        parse_instant_us(event.time)
    except NotStrictJson as error:
        raise InvalidEvent(Reason.MALFORMED_EVENT, str(error)) from None
    except ValidationError as error:
        raise InvalidEvent(Reason.MALFORMED_EVENT, first_fault(error)) from None
    except ValueError as error:
        raise InvalidEvent(Reason.MALFORMED_EVENT, f"time: {error}") from None
    data = event.data
    for field, name in (
        ("id", event.id),
        ("source", event.source),
        ("subject", event.subject),
        ("customer", data.customer),
    ):
        if len(name) > _NAMES_ABOVE and len(name.encode()) > NAME_BYTES_MAX:
            raise InvalidEvent(Reason.MALFORMED_EVENT, f"{field}: more than {NAME_BYTES_MAX} UTF-8 bytes")
    if data.corrects is None:
        for meter, quantity in data.usage.items():
            if quantity < 0 if type(quantity) is int else quantity[0] == "-":  # type: ignore[index]
                raise InvalidEvent(
                    Reason.MALFORMED_EVENT, f"data.usage.{meter}: negative; only a correction may be negative"
                )
    return event


def encode_event(document: dict[str, Any], default: Callable[[Any], Any] | None = None) -> bytes:
    """One event as compact JSON, the spelling that `parse_event` reads fastest; `default` spells other types."""
    return orjson.dumps(document, default)


def entry_of(line: bytes) -> bytes:
    """What the Merkle log holds for an event: SHA-256 of its line, 32 bytes."""
    return hashlib.sha256(line).digest()


def entries_of(lines: Iterable[bytes]) -> list[bytes]:
    """The entry of each line."""
    return digests(lines)


def identity_of(source: str, event_id: str) -> bytes:
    """16 bytes that stand for (source, id): BLAKE2b-128 over both with a NUL between, which neither can contain."""
    context = _IDENTITY_CONTEXT.copy()  # a third cheaper than a new one with its digest size
    context.update(f"{source}\0{event_id}".encode())
    return context.digest()


def identities_of_events(events: Iterable[Event]) -> list[bytes]:
    """`identity_of` each event. Events of one batch mostly have one source, which is hashed once."""
    identities: list[bytes] = []
    append = identities.append
    known: str | None = None
    begun = _IDENTITY_CONTEXT.copy
    for event in events:
        source = event.source
        if source != known:
            known = source
            begun = _context_of(source).copy
        context = begun()
        context.update(event.id.encode())
        append(context.digest())
    return identities


@lru_cache(maxsize=1024)
def _context_of(source: str) -> "hashlib.blake2b":
    """The hash of an identity as far as the source goes."""
    context = _IDENTITY_CONTEXT.copy()
    context.update(f"{source}\0".encode())
    return context
