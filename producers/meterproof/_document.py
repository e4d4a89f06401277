"""From the arguments of `record` to one event line (pure)."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Required, TypedDict

import orjson

from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.event import EVENT_TYPE, encode_event
from meterproof_schemas.instant import format_instant_us
from meterproof_schemas.quantity import plain
from meterproof_schemas.reasons import Reason

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class UsageFields(TypedDict, total=False):
    """The optional fields of `data`, as keyword arguments of `record`."""

    operation: str
    surface: str
    """`rest`, `mcp`, `llm`, `tool` or `agent`."""
    status: str
    """`ok`, `error`, `denied`, `rate_limited` or `payment_required`."""
    status_code: int
    provider: str
    model: str
    latency: Mapping[str, int]
    """`total_us`, `queue_us`, `upstream_us`, `first_token_us`: whole microseconds."""
    request_bytes: int
    response_bytes: int
    session: str
    user: str
    run: str
    parent: str
    traceparent: str
    cost: Mapping[str, int | str | Decimal]
    """`amount` and `currency` as the service knows them: a claim, not the bill."""
    tags: Mapping[str, str]
    governance: Mapping[str, str]
    corrects: Mapping[str, str]
    request_signature: str
    receipt: str


class EventFields(UsageFields, total=False):
    """All keyword arguments of `record`."""

    agent: Required[str]
    customer: Required[str]
    usage: Required[Mapping[str, int | str | Decimal]]
    id: str | None
    time: datetime | None
    source: str | None


def event_line(
    *,
    event_id: str,
    source: str,
    agent: str,
    customer: str,
    usage: Mapping[str, int | str | Decimal],
    time_us: int,
    salt: bytes,
    fields: UsageFields,
) -> bytes:
    """One event as its line, not yet validated.

    Raises:
        InvalidEvent: `malformed_event` for a value that has no spelling in the contract, like a float.
    """
    data: dict[str, Any] = {"customer": customer, "usage": dict(usage), **fields, "salt": salt.hex()}
    document = {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": EVENT_TYPE,
        "time": format_instant_us(time_us),
        "subject": agent,
        "data": data,
    }
    try:
        # Mappings and decimals that orjson does not know pass through `default`; integers beyond 64 bits raise.
        return encode_event(document, default=_spelling)
    except (orjson.JSONEncodeError, TypeError) as error:
        raise InvalidEvent(Reason.MALFORMED_EVENT, f"a value cannot be written: {error}") from None


def spelled_usage(usage: Mapping[str, int | str | Decimal]) -> dict[str, int | str]:
    """Quantities as an event spells them."""
    return {meter: plain(quantity) if isinstance(quantity, Decimal) else quantity for meter, quantity in usage.items()}


def time_us_of(time: datetime) -> int:
    """Microseconds since 1970 of an aware datetime.

    Raises:
        InvalidEvent: the datetime has no zone.
    """
    if time.tzinfo is None:
        raise InvalidEvent(Reason.MALFORMED_EVENT, "time: a datetime without zone; pass datetime.now(timezone.utc)")
    return (time - _EPOCH) // timedelta(microseconds=1)


def _spelling(value: object) -> Any:  # noqa: ANN401 - what orjson asks for
    if isinstance(value, Decimal):
        if not value.is_finite():
            message = "NaN or infinite decimal"
            raise TypeError(message)
        return plain(value)
    if isinstance(value, Mapping):
        return dict(value)
    message = f"type {type(value).__name__}"
    raise TypeError(message)
