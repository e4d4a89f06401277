"""How one sink worker runs: read from `METERPROOF_WORKER_…` variables into a frozen value."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class SinkSettings(BaseSettings):
    """How long a sink worker may take for what. Each field can come from `METERPROOF_WORKER_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix="METERPROOF_WORKER_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    instance: str | None = Field(default=None, min_length=1)
    """Name of the status file, unique among the workers of one data folder, like `audit-0`; None: the sink's name."""
    stop_deadline_s: int = Field(default=85, ge=1)
    """A worker that was asked to stop and has not is ended after this."""
    stall_timeout_s: int = Field(default=60, ge=5)
    """A worker that reads nothing for this long while records wait, and waits for nobody, is unhealthy and ended."""
    slow_after_s: int = Field(default=10, ge=1)
    """A worker that reads nothing for this long while records wait, for whatever reason, is not ready."""
