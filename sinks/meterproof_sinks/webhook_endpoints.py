"""The endpoints file: where alerts go, and which.

```json
{"version": 1, "endpoints": [
  {"name": "pager", "url": "https://hooks.example.com/meterproof", "secret_file": "pager.secret",
   "since": "2026-01-01T00:00:00.000Z", "filter": {"budgets": ["agents-*"], "threshold_min": "100"}}]}
```
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from os import environ
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from yarl import URL

from meterproof_schemas.budget import Alert
from meterproof_schemas.delivery import EndpointName
from meterproof_schemas.errors import InvalidRegistry, first_fault
from meterproof_schemas.event import Name, VersionOne
from meterproof_schemas.instant import Instant, parse_instant_us
from meterproof_schemas.keys import matches
from meterproof_schemas.price_book import Amount
from meterproof_schemas.scopes import Scope
from meterproof_schemas.strict_json import NotStrictJson, parse_object
from meterproof_sinks.webhook_addresses import is_refused_literal
from meterproof_sinks.webhook_backoff import Backoff
from meterproof_sinks.webhook_signature import (
    InvalidWebhookSecret,
    WebhookSecret,
    secret_of_environment,
    secret_of_file,
)

_CLOSED: Final = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)
_ANY: Final = ("*",)
_PAUSE_MAX_MS: Final = 7 * 24 * 3600 * 1000


class AlertFilter(BaseModel):
    """Which alerts an endpoint gets: those that every member admits. A pattern is a name, a prefix and `*`, or `*`."""

    model_config = _CLOSED
    budgets: Annotated[tuple[Name, ...], Field(min_length=1, strict=False)] = _ANY
    subjects: Annotated[tuple[Name, ...], Field(min_length=1, strict=False)] = _ANY
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, strict=False)] | None = None
    """Null for all."""
    threshold_min: Amount = "0"
    """Percent: lower thresholds are left out."""

    def admits(self, alert: Alert) -> bool:
        """Whether the endpoint gets an alert."""
        return (
            matches(self.budgets, alert.budget)
            and matches(self.subjects, alert.subject)
            and (self.scopes is None or alert.scope in self.scopes)
            and Decimal(alert.threshold) >= Decimal(self.threshold_min)
        )


class EndpointEntry(BaseModel):
    """One endpoint as the file states it."""

    model_config = _CLOSED
    name: EndpointName
    """Stays: what was delivered is remembered under it. The address may change."""
    url: str
    """https; http only together with `allow_private_addresses`."""
    secret_file: str | None = None
    """Holds `whsec_…`, or several, one a line; a relative path begins at the endpoints file's folder."""
    secret_env: str | None = None
    """Names the environment variable that holds it instead."""
    since: Instant
    """Alerts of events that reached Kafka before are not sent: a new endpoint does not get those of last year."""
    filter: AlertFilter = AlertFilter()
    allow_private_addresses: bool = False
    """Whether it may be on this machine or in its network."""
    timeout_s: Annotated[int, Field(ge=1, le=60)] = 10
    """For one attempt, from looking up the name to the end of the answer."""
    attempts_max: Annotated[int, Field(ge=1, le=1000)] = 20
    first_pause_ms: Annotated[int, Field(ge=1, le=_PAUSE_MAX_MS)] = 5_000
    longest_pause_ms: Annotated[int, Field(ge=1, le=_PAUSE_MAX_MS)] = 6 * 3600 * 1000

    @model_validator(mode="after")
    def _fits_together(self) -> "EndpointEntry":
        fault = _fault_of_url(self.url, allow_private_addresses=self.allow_private_addresses)
        if fault is not None:
            raise ValueError(fault)
        if (self.secret_file is None) == (self.secret_env is None):
            raise ValueError("state either secret_file or secret_env")
        return self


class EndpointsFile(BaseModel):
    """The endpoints of a deployment."""

    model_config = _CLOSED
    version: VersionOne
    endpoints: Annotated[tuple[EndpointEntry, ...], Field(min_length=1, max_length=100, strict=False)]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place that alerts go to. Immutable; its representation shows neither address nor secret."""

    name: str
    url: URL = field(repr=False)
    secret: WebhookSecret = field(repr=False)
    since_ms: int
    filter: AlertFilter
    allow_private_addresses: bool
    timeout_s: int
    backoff: Backoff

    def wants(self, alert: Alert) -> bool:
        """Whether it gets an alert."""
        return alert.append_ms >= self.since_ms and self.filter.admits(alert)


def load_endpoints(path: Path, environment: Mapping[str, str] = environ) -> tuple[Endpoint, ...]:
    """Read the endpoints file and the secrets that it names.

    Raises:
        InvalidRegistry: it cannot be read or is faulty; names the endpoint and the fault, and quotes no address.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidRegistry(
            f"endpoints file {path} cannot be read ({type(error).__name__}); it states where alerts go"
        ) from None
    try:
        entries = EndpointsFile.model_validate(parse_object(content, one_line=False)).endpoints
    except NotStrictJson as error:
        raise InvalidRegistry(f"endpoints file {path}: {error}") from None
    except ValidationError as error:
        raise InvalidRegistry(f"endpoints file {path}: {first_fault(error)}") from None
    if len({entry.name for entry in entries}) != len(entries):
        raise InvalidRegistry(f"endpoints file {path}: two endpoints have one name")
    return tuple(_endpoint(entry, path, environment) for entry in entries)


def _endpoint(entry: EndpointEntry, path: Path, environment: Mapping[str, str]) -> Endpoint:
    try:
        if entry.secret_file is not None:
            secret = secret_of_file(path.parent / entry.secret_file)
        else:
            secret = secret_of_environment(entry.secret_env or "", environment)
    except InvalidWebhookSecret as error:
        raise InvalidRegistry(f"endpoints file {path}: {entry.name}: {error}") from None
    return Endpoint(
        name=entry.name,
        url=URL(entry.url),
        secret=secret,
        since_ms=parse_instant_us(entry.since) // 1000,
        filter=entry.filter,
        allow_private_addresses=entry.allow_private_addresses,
        timeout_s=entry.timeout_s,
        backoff=Backoff(entry.attempts_max, entry.first_pause_ms, entry.longest_pause_ms),
    )


def _fault_of_url(text: str, *, allow_private_addresses: bool) -> str | None:
    try:
        url = URL(text)
        host, _ = url.host, url.port
    except ValueError:
        return "url is not an address"
    if url.scheme not in {"https", "http"} or not host:
        return "url should be like https://hooks.example.com/path"
    if url.user is not None or url.password is not None:
        return "url holds a user or password; messages are signed, and addresses are no place for secrets"
    if allow_private_addresses:
        return None
    if url.scheme != "https":
        return "url is not https; http is for endpoints with allow_private_addresses"
    if is_refused_literal(host):
        return "url is not a public address; set allow_private_addresses if it is meant"
    return None
