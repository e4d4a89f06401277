"""Budgets: the file that sets them, the partial sums that track them, the alerts that they raise.

```json
{"version": 1, "budgets": [
  {"name": "agents-daily", "scope": "agent", "subject": "*", "window": "day", "limit": "25", "currency": "USD",
   "thresholds": ["50", "80", "100"]}]}
```
`usage.budget-state`, same partition as the log, holds two kinds of records:

- a partial sum, key `<origin>|<scope>:<subject>|<window>|<zone>|<start>`: the absolute spend of one scope in one window
  as far as this log tells, with the position below which every event is in it. The higher position holds.
- a marker, key `<origin>|marker`: written after every partial sum up to its position was acknowledged; where the stage
  resumes.

`usage.alerts`: key `<budget>|<scope>:<subject>|<window>|<zone>|<start>|<threshold>`; saying it again changes nothing.
"""

from decimal import Decimal
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from meterproof_schemas.batch import Digest, Token
from meterproof_schemas.errors import InvalidRecord, InvalidRegistry
from meterproof_schemas.event import Count, Name, VersionOne
from meterproof_schemas.instant import Instant, format_instant_us
from meterproof_schemas.price_book import Amount, Currency
from meterproof_schemas.quantity import EXACT
from meterproof_schemas.strict_json import NotStrictJson, parse_object
from meterproof_schemas.window import WindowKind

_CLOSED: Final = ConfigDict(extra="forbid", frozen=True, strict=True)


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        message = f"{name!r} is not a time zone of the IANA database"
        raise ValueError(message) from None
    return name


Zone = Annotated[str, AfterValidator(_known_zone)]
Scope = Literal["agent"]
"""Whose spend: an agent's events lie in one log. A scope over several logs will be the sum of its partial sums."""
SignedAmount = Annotated[str, StringConstraints(strict=True, pattern=r"^-?[0-9]{1,26}(\.[0-9]{1,12})?$")]


class Budget(BaseModel):
    """A limit on spend per scope and window, with the shares at which to alert."""

    model_config = _CLOSED
    name: Name
    scope: Scope
    subject: Name
    """The agent, a prefix followed by `*`, or `*`: each one that matches has a budget of its own."""
    window: WindowKind
    zone: Zone = "UTC"
    limit: Amount
    currency: Currency
    thresholds: Annotated[tuple[Amount, ...], Field(min_length=1, strict=False)] = ("50", "80", "100")
    """Percent of the limit; each alerts once per scope and window, when spend reaches it."""

    def reached_at(self, threshold: str) -> Decimal:
        """The spend at which a threshold alerts."""
        return EXACT.multiply(Decimal(self.limit), Decimal(threshold)).scaleb(-2, EXACT)


class BudgetFile(BaseModel):
    """The budgets of a deployment."""

    model_config = _CLOSED
    version: VersionOne
    budgets: Annotated[tuple[Budget, ...], Field(strict=False)]


def parse_budgets(content: bytes) -> tuple[Budget, ...]:
    """Parse a budget file.

    Raises:
        InvalidRegistry: naming the budget and the fault.
    """
    try:
        budgets = BudgetFile.model_validate(parse_object(content, one_line=False)).budgets
    except NotStrictJson as error:
        message = f"budget file: {error}"
        raise InvalidRegistry(message) from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        message = f"budget file: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        raise InvalidRegistry(message) from None
    names = [budget.name for budget in budgets]
    if len(set(names)) != len(names):
        message = "budget file: two budgets have one name"
        raise InvalidRegistry(message)
    for budget in budgets:
        if not Decimal(budget.limit):
            message = f"budget file: {budget.name}: a limit of 0 is always reached; leave the budget out or set a limit"
            raise InvalidRegistry(message)
    return budgets


class PartialSum(BaseModel):
    """Absolute spend of one scope in one window, as far as one log tells."""

    model_config = _CLOSED
    v: VersionOne
    log: str
    scope: Scope
    subject: Name
    window: WindowKind
    zone: Zone
    start: Instant
    position: Count
    """Every accepted event of the log below this position is in the sum."""
    events: Count
    spend: SignedAmount
    currency: Currency | None
    """Null where no price book was in force."""
    definition: Digest
    """SHA-256 of the budgets that the sum was made for."""


class Marker(BaseModel):
    """Up to where the partial sums of one log are complete on the topic."""

    model_config = _CLOSED
    v: VersionOne
    marker: Literal[True]
    log: str
    epoch: Token
    log_offset: int
    digest: Digest
    position: Count
    definition: Digest
    """SHA-256 of the budgets that the sums were made for; other budgets are counted from the log's beginning."""


class Alert(BaseModel):
    """A threshold of a budget that spend reached."""

    model_config = _CLOSED
    v: VersionOne
    budget: Name
    scope: Scope
    subject: Name
    window: WindowKind
    zone: Zone
    start: Instant
    threshold: Amount
    limit: Amount
    spend: SignedAmount
    currency: Currency
    log: str
    position: Count
    """Position of the event that reached it."""
    event_time: Instant
    append_ms: Count
    """The broker's append time of that event's batch."""


def state_key(value: PartialSum) -> bytes:
    """The Kafka key of a partial sum."""
    return f"{value.log}|{value.scope}:{value.subject}|{value.window}|{value.zone}|{value.start}".encode()


def marker_key(origin: str) -> bytes:
    """The Kafka key of a log's marker."""
    return f"{origin}|marker".encode()


def alert_key(alert: Alert) -> bytes:
    """The Kafka key of an alert."""
    return (
        f"{alert.budget}|{alert.scope}:{alert.subject}|{alert.window}|{alert.zone}|{alert.start}|{alert.threshold}"
    ).encode()


def decode_budget_state(value: bytes | None) -> PartialSum | Marker:
    """One record of `usage.budget-state`.

    Raises:
        InvalidRecord: not a record of this version.
    """
    try:
        if value is not None and b'"marker":true' in value:
            return Marker.model_validate_json(value)
        return PartialSum.model_validate_json(value or b"")
    except ValidationError as error:
        message = f"budget state: {str(error)[:200]}"
        raise InvalidRecord(message) from None


def decode_alert(value: bytes | None) -> Alert:
    """One record of `usage.alerts`.

    Raises:
        InvalidRecord: not an alert of this version.
    """
    try:
        return Alert.model_validate_json(value or b"")
    except ValidationError as error:
        message = f"alert: {str(error)[:200]}"
        raise InvalidRecord(message) from None


def window_text(start_us: int) -> str:
    """A window's start as it stands in keys and records."""
    return format_instant_us(start_us)
