"""Budgets: the file that sets them, the partial sums that track them, the alerts that they raise.

```json
{"version": 1, "budgets": [
  {"name": "agents-daily", "scope": "agent", "subject": "*", "window": "day", "limit": "25", "currency": "USD",
   "thresholds": ["50", "80", "100"]},
  {"name": "teams-tokens", "scope": "team", "subject": "*", "window": "month", "zone": "Europe/Berlin",
   "limit": "1000000", "meters": ["input_tokens", "output_tokens"]}]}
```
`usage.budget-state`, same partition as the log, holds two kinds of records:

- a partial sum, key `<origin>|<scope>:<subject>|<window>|<zone>|<start>`: the absolute spend of one scope in one window
  as far as this log tells, with the position below which every event is in it. The higher position holds, and what a
  scope has spent is the sum of its partial sums, at most one per log.
- a marker, key `<origin>|marker`: written after every partial sum up to its position was acknowledged; where the stage
  resumes.

`usage.alerts`: key `<budget>|<scope>:<subject>|<window>|<zone>|<start>|<threshold>`; saying it again changes nothing.

What was added to a record after its first release is left out where it says nothing, so that a record of a budget which
existed then is the same, byte for byte.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NamedTuple, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from meterproof_schemas.batch import Digest, Token
from meterproof_schemas.errors import InvalidRecord, InvalidRegistry, first_fault
from meterproof_schemas.event import METERS_MAX, Count, MeterName, Name, VersionOne
from meterproof_schemas.instant import Instant, format_instant_us, parse_instant_us
from meterproof_schemas.keys import matches
from meterproof_schemas.price_book import Amount, Currency
from meterproof_schemas.quantity import DECIMAL_PLACES, EXACT, decimal_of
from meterproof_schemas.scopes import ALL, TAG_SCOPE, Scope
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
SignedAmount = Annotated[str, StringConstraints(strict=True, pattern=r"^-?[0-9]{1,26}(\.[0-9]{1,12})?$")]


class Budget(BaseModel):
    """A limit on spend, or on use of meters, per scope and window, with the shares at which to alert."""

    model_config = _CLOSED
    name: Name
    scope: Scope
    subject: Name
    """The agent, customer …, a prefix followed by `*`, or `*`: each one that matches has a budget of its own."""
    window: WindowKind
    zone: Zone = "UTC"
    limit: Amount
    currency: Currency | None = None
    """Of a limit in money. A budget has a currency or meters, never both."""
    thresholds: Annotated[tuple[Amount, ...], Field(min_length=1, strict=False)] = ("50", "80", "100")
    """Percent of the limit; each alerts once per scope and window, when spend reaches it."""
    meters: Annotated[tuple[MeterName, ...], Field(min_length=1, max_length=METERS_MAX, strict=False)] | None = None
    """Of a limit in units: their quantities are added up, so they should have one unit, as all kinds of tokens have."""

    def reached_at(self, threshold: str) -> Decimal:
        """The spend at which a threshold alerts."""
        return EXACT.multiply(Decimal(self.limit), Decimal(threshold)).scaleb(-2, EXACT)

    def used(self, spend: Decimal, usage: Mapping[str, Decimal]) -> Decimal:
        """What counts against the limit: the spend, or the quantities of the budget's meters."""
        if self.meters is None:
            return spend
        total = Decimal(0)
        for meter in self.meters:
            total = EXACT.add(total, usage.get(meter, Decimal(0)))
        return total

    @property
    def unit(self) -> str:
        """What the limit is stated in, for people: the currency, or the meters."""
        return "+".join(self.meters or ()) or self.currency or ""


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
        message = f"budget file: {first_fault(error)}"
        raise InvalidRegistry(message) from None
    names = [budget.name for budget in budgets]
    if len(set(names)) != len(names):
        message = "budget file: two budgets have one name"
        raise InvalidRegistry(message)
    for budget in budgets:
        wrong = _fault_of(budget)
        if wrong is not None:
            message = f"budget file: {budget.name}: {wrong}"
            raise InvalidRegistry(message)
    return budgets


def _fault_of(budget: Budget) -> str | None:
    """What a model of single fields cannot refuse."""
    if not Decimal(budget.limit):
        return "a limit of 0 is always reached; leave the budget out or set a limit"
    if (budget.currency is None) == (budget.meters is None):
        return "a limit is in money or in units: state either currency or meters"
    if budget.meters is not None and len(set(budget.meters)) != len(budget.meters):
        return "a meter is named twice and would count twice"
    if budget.scope == f"{TAG_SCOPE}team":
        return "the tag team is the scope team"
    if budget.scope == "all" and budget.subject != ALL:
        return 'the scope all has one subject, "*"'
    if "|" in budget.name:
        return "a name with | in it could make two alerts look like one"
    return None


class BudgetKind(NamedTuple):
    """What budgets with equal windows of equal scopes share: one sum per subject and window."""

    scope: str
    window: WindowKind
    zone: str


class SumKey(NamedTuple):
    """Names a sum, over all logs."""

    scope: str
    subject: str
    window: WindowKind
    zone: str
    start_us: int

    @property
    def kind(self) -> BudgetKind:
        """What budgets it is kept for."""
        return BudgetKind(self.scope, self.window, self.zone)

    def as_json(self) -> dict[str, Any]:
        """As sums, alerts and reports state it."""
        return {
            "scope": self.scope,
            "subject": self.subject,
            "window": self.window,
            "zone": self.zone,
            "start": _start_text(self.start_us),
        }


_start_text: Final = lru_cache(maxsize=4096)(format_instant_us)
"""Many sums share a window."""


_SUBJECTS_MAX: Final = 100_000
"""Subjects of which it is remembered what budgets concern them: those above it are looked up each time."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A budget with its thresholds made ready for arithmetic."""

    budget: Budget
    thresholds: tuple[tuple[str, int], ...]
    """Each with the least amount at which it alerts, in 10^-12, the lowest first."""

    def crossed(self, before: int, used: int) -> tuple[tuple[str, int], ...]:
        """The thresholds that are reached by what is used now, in 10^-12, and were not before."""
        return self.thresholds[self.reached(before) : self.reached(used)]

    def reached(self, used: int) -> int:
        """How many of the thresholds are reached by so much, in 10^-12."""
        return bisect_right(self.thresholds, used, key=_amount)


@dataclass(slots=True)
class WatchedKind:
    """The budgets of one kind."""

    zone: ZoneInfo
    watches: list[Watch] = field(default_factory=list)
    meters: frozenset[str] = frozenset()
    """Meters that any of the budgets is stated in."""

    _concerning: dict[str, list[Watch]] = field(default_factory=dict, init=False)

    def concerning(self, subject: str) -> list[Watch]:
        """The budgets whose pattern the subject matches; the first subjects are remembered."""
        found = self._concerning.get(subject)
        if found is None:
            found = [watch for watch in self.watches if matches((watch.budget.subject,), subject)]
            if len(self._concerning) < _SUBJECTS_MAX:
                self._concerning[subject] = found
        return found


def _amount(threshold: tuple[str, int]) -> int:
    return threshold[1]


def _least_amount(reached_at: Decimal) -> int:
    """The least whole number of 10^-12, as all that is used is one, that is not below."""
    return int(EXACT.scaleb(reached_at, DECIMAL_PLACES).to_integral_value(ROUND_CEILING))


def kinds_of(budgets: Iterable[Budget]) -> dict[BudgetKind, WatchedKind]:
    """The sums that budgets need."""
    kinds: dict[BudgetKind, WatchedKind] = {}
    for budget in budgets:
        kind = BudgetKind(budget.scope, budget.window, budget.zone)
        watched = kinds.setdefault(kind, WatchedKind(ZoneInfo(budget.zone)))
        thresholds = ((threshold, _least_amount(budget.reached_at(threshold))) for threshold in budget.thresholds)
        watched.watches.append(Watch(budget, tuple(sorted(thresholds, key=_amount))))
        watched.meters |= frozenset(budget.meters or ())
    return kinds


def definition_of(budgets: Sequence[Budget]) -> str:
    """SHA-256 of the budgets: sums and alerts of other budgets have to be counted from the log's beginning."""
    stated = sorted(budget.model_dump_json(exclude_none=True) for budget in budgets)
    return hashlib.sha256("\n".join(stated).encode()).hexdigest()


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
    usage: dict[MeterName, SignedAmount] | None = None
    """Quantities of the meters that budgets are stated in; null where none is."""
    event_time: Instant | None = None
    """Event time of the last event that was added; stated for scopes that may lie in several logs."""
    append_ms: Count | None = None
    """The broker's append time of that event's batch."""

    @property
    def key(self) -> SumKey:
        """What it is a part of."""
        return SumKey(self.scope, self.subject, self.window, self.zone, parse_instant_us(self.start))

    def exact_usage(self) -> dict[str, Decimal]:
        """Quantities by meter."""
        return {meter: decimal_of(quantity) for meter, quantity in (self.usage or {}).items()}


class CountedFrom(BaseModel):
    """A person's decision that sums begin where a trimmed log begins: what was spent before is not in them."""

    model_config = _CLOSED
    position: Count
    """Of the first event that is counted."""
    clock_ms: Count
    """The log's ingest clock there."""
    who: Name
    why: Name


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
    clock_ms: Count | None = None
    """The log's ingest clock there: a window that ended a horizon before it is final as far as this log goes."""
    floor: Count | None = None
    """Offset on `usage.budget-state`, in this partition, from which on every sum stands that can still change."""
    since: CountedFrom | None = None
    """Null where every event of the log below `position` is counted."""


class Alert(BaseModel):
    """A threshold of a budget that spend reached.

    For a scope that lies in one log it names the event that reached the threshold; for any other scope the last event
    of the partial sum by which the total over all logs was found to have reached it.
    """

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
    """In the currency, or in units of the meters."""
    currency: Currency | None
    """Null for a budget in units."""
    log: str
    position: Count
    """Of the event; for a scope that may lie in several logs: what it spent in `log` up to here is counted."""
    event_time: Instant
    append_ms: Count
    """The broker's append time of that event's batch."""
    meters: tuple[MeterName, ...] | None = Field(default=None, strict=False)
    """Null for a budget in money."""

    @property
    def sum_key(self) -> SumKey:
        """The sum that reached it."""
        return SumKey(self.scope, self.subject, self.window, self.zone, parse_instant_us(self.start))


def encode(record: "PartialSum | SumHead | Marker | Alert") -> bytes:
    """The value of a record; what was added later and says nothing is left out."""
    if isinstance(record, SumHead):
        return _heads_encoder.encode(record)
    return record.model_dump_json(
        exclude={name for name in _ADDED[type(record)] if getattr(record, name) is None}
    ).encode()


_ADDED: Final[Mapping[type[BaseModel], tuple[str, ...]]] = {
    PartialSum: ("usage", "event_time", "append_ms"),
    Marker: ("clock_ms", "floor", "since"),
    Alert: ("meters",),
}


def state_key(value: "PartialSum | SumHead") -> bytes:
    """The Kafka key of a partial sum."""
    return f"{value.log}|{value.scope}:{value.subject}|{value.window}|{value.zone}|{value.start}".encode()


@lru_cache(maxsize=8192)  # whoever follows the sums sees the same keys again and again
def parse_state_key(key: bytes) -> tuple[str, SumKey] | None:
    """Origin and sum that a partial sum's key names; None for any other key. The inverse of `state_key`.

    Window, zone and start hold no `|`, so that a subject may.
    """
    try:
        found = _STATE_KEY.fullmatch(key.decode())
        if found is None:
            return None
        log, scope, subject, window, zone, start = found.groups()
        return log, SumKey(scope, subject, cast("WindowKind", window), zone, parse_instant_us(start))
    except ValueError:
        return None


_STATE_KEY: Final = re.compile(
    r"(.+?/[0-9a-f]{32}/p[0-9]+)\|(tag:[^:|]+|[a-z]+):(.+)\|(minute|hour|day|month)\|([^|]+)\|([^|]+)", re.DOTALL
)


def marker_key(origin: str) -> bytes:
    """The Kafka key of a log's marker."""
    return f"{origin}|marker".encode()


def is_marker_key(key: bytes) -> bool:
    """Whether a key of `usage.budget-state` is a marker's; that of a sum ends with an instant."""
    return key.endswith(b"|marker")


def alert_key(alert: Alert) -> bytes:
    """The Kafka key of an alert."""
    return (
        f"{alert.budget}|{alert.scope}:{alert.subject}|{alert.window}|{alert.zone}|{alert.start}|{alert.threshold}"
    ).encode()


class SumHead(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """A `PartialSum` as quickly as it can be written, or read to know which of many values counts."""

    v: Literal[1]
    log: str
    scope: str
    subject: str
    window: WindowKind
    zone: str
    start: str
    position: Annotated[int, msgspec.Meta(ge=0)]
    events: Annotated[int, msgspec.Meta(ge=0)]
    spend: str
    currency: str | None
    definition: str
    usage: dict[str, str] | None = None
    event_time: str | None = None
    append_ms: int | None = None

    @property
    def key(self) -> SumKey:
        """What it is a part of."""
        return SumKey(self.scope, self.subject, self.window, self.zone, parse_instant_us(self.start))


_heads: Final = msgspec.json.Decoder(SumHead)
_heads_encoder: Final = msgspec.json.Encoder()


def read_sum_head(value: bytes) -> SumHead | None:
    """A partial sum at a tenth of the price of `decode_budget_state`; None for anything else."""
    try:
        return _heads.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


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
        message = f"budget state: {first_fault(error)}"
        raise InvalidRecord(message) from None


def decode_alert(value: bytes | None) -> Alert:
    """One record of `usage.alerts`.

    Raises:
        InvalidRecord: not an alert of this version.
    """
    try:
        return Alert.model_validate_json(value or b"")
    except ValidationError as error:
        message = f"alert: {first_fault(error)}"
        raise InvalidRecord(message) from None
