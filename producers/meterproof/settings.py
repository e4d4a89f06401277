"""What a service sets up once: read from arguments or from `METERPROOF_…` variables into a frozen value."""

from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from meterproof.errors import InvalidSettings
from meterproof_schemas.limits import BATCH_LINES_MAX


class MeterSettings(BaseSettings):
    """How a meter names, batches and sends. Each field can come from `METERPROOF_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="METERPROOF_", frozen=True, extra="ignore", hide_input_in_errors=True)

    deployment: str
    """The audience that batches are signed for; must be the deployment's own name."""
    producer: str
    """Who signs, as the key registry knows it."""
    source: str
    """The service that reports (`source` of its events)."""
    key_file: Path
    """File of the producer's key, made by `meterproof keygen`."""
    partitions: int | None = Field(default=None, ge=1)
    """Expected number of partitions; None takes what the topic has."""
    batch_lines_max: int = Field(default=500, ge=1, le=BATCH_LINES_MAX)
    """A batch is sealed at this many events: larger ones are cheaper per event, smaller ones arrive sooner."""
    flush_interval_s: float = Field(default=0.1, gt=0)
    """A batch is sealed at latest this long after its first event."""
    buffer_events_max: int = Field(default=100_000, ge=1)
    """Events recorded and not yet acknowledged: bounds memory while Kafka is away."""
    room_timeout_s: float = Field(default=5.0, ge=0)
    """How long `record` waits for room before `BufferFull`."""


_Settings = TypeVar("_Settings", bound=BaseSettings)


def from_variables(kind: type[_Settings], **stated: object) -> _Settings:
    """Settings of the environment's variables, and of what is `stated`, which comes first.

    Raises:
        InvalidSettings: a variable is missing or faulty; the text names all of them, and no values.
    """
    try:
        return kind.model_validate(stated)
    except ValidationError as error:
        raise InvalidSettings(_faults(kind, error)) from None


def _faults(kind: type[BaseSettings], error: ValidationError) -> str:
    prefix = kind.model_config.get("env_prefix", "")
    missing, faulty = [], []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        variable = prefix + ".".join(map(str, fault["loc"])).upper()
        if fault["type"] == "missing":
            missing.append(variable)
        else:
            faulty.append(f"{variable}: {fault['msg']}" if fault["loc"] else fault["msg"])
    return "; ".join([*([f"set {', '.join(missing)} in the environment"] if missing else []), *faulty])
