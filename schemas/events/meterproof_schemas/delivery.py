"""What was sent to destinations that cannot be asked what they have: `usage.deliveries`, the cursor of whoever sends.

Key `<sink>|<endpoint>|<message id>`: the newest record of a key holds. A key whose newest record has no value was never
sent as far as anybody knows, so that taking a record away lets its message be sent again. Keys of any other form are
other people's.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from meterproof_schemas.errors import InvalidRecord, first_fault
from meterproof_schemas.event import Count, VersionOne
from meterproof_schemas.instant import Instant

EndpointName = Annotated[str, StringConstraints(strict=True, pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""Names an endpoint for ever: what was delivered is remembered under it, whatever its address becomes."""
MessageId = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_-]{1,128}$")]
"""The idempotency key that a message carries each time it is sent."""
Outcome = Literal["delivered", "retrying", "dead"]
"""`delivered` and `dead` (given up) are final."""
REASON_LENGTH_MAX: Final = 200


class Delivery(BaseModel):
    """How far the sending of one message to one endpoint has come."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    v: VersionOne
    sink: Literal["webhook"]
    endpoint: EndpointName
    id: MessageId
    alert: str
    """The key on `usage.alerts` of the alert that the message tells."""
    outcome: Outcome
    attempts: Annotated[Count, Field(ge=1)]
    time: Instant
    """Of the last attempt's end, by the sender's clock."""
    status: int | None
    """What the endpoint answered; null if nothing."""
    reason: Annotated[str, StringConstraints(max_length=REASON_LENGTH_MAX)] | None
    """Why it is not delivered; holds neither addresses nor secrets."""
    next_attempt: Instant | None
    """Of one that is being retried: not before."""


def encode_delivery(delivery: Delivery) -> bytes:
    """The value of a record."""
    return delivery.model_dump_json().encode()


def delivery_key(sink: str, endpoint: str, message_id: str) -> bytes:
    """The Kafka key of a delivery."""
    return f"{sink}|{endpoint}|{message_id}".encode()


def parse_delivery_key(key: bytes | None) -> tuple[str, str, str] | None:
    """Sink, endpoint and message id of a key; None for a key that is no delivery's."""
    try:
        parts = (key or b"").decode().split("|")
    except UnicodeDecodeError:
        return None
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None


def decode_delivery(value: bytes) -> Delivery:
    """One record of `usage.deliveries`.

    Raises:
        InvalidRecord: not a delivery of this version.
    """
    try:
        return Delivery.model_validate_json(value)
    except ValidationError as error:
        message = f"delivery: {first_fault(error)}"
        raise InvalidRecord(message) from None
