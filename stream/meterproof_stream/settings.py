"""What a stream worker is told: read from arguments or `METERPROOF_WORKER_…` variables into a frozen value."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from meterproof.deployment import DataFolder
from meterproof_stream.index_kind import IndexKind
from meterproof_stream.runtime import Runtime


class WorkerSettings(BaseSettings):
    """How one worker process runs. Each field can come from `METERPROOF_WORKER_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix="METERPROOF_WORKER_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    instance: str = Field(min_length=1)
    """Stable name of this process, unique among the workers of the deployment, like `sequencer-0`: it lets a restarted
    worker take its partitions back at once, and names its status file. Two live workers with one name push each other
    out."""
    runtime: Runtime = Runtime.FAUST
    """What delivers the records."""
    session_timeout_s: int = Field(default=10, ge=6)
    """How long the group waits for a worker that is gone and not back."""
    start_timeout_s: int = Field(default=300, ge=0)
    """How long a start waits for a broker that does not answer; then it fails. 0: it does not wait."""
    stop_deadline_s: int = Field(default=18, ge=1)
    """A worker that was asked to stop and has not is ended after this."""
    stall_timeout_s: int = Field(default=60, ge=5)
    """A worker that takes nothing for this long while records wait, and waits for nobody, is unhealthy and ended."""
    slow_after_s: int = Field(default=10, ge=1)
    """A worker that takes nothing for this long while records wait, for whatever reason, is not ready."""
    refused_after_s: float = Field(default=60, gt=0)
    """A producer whose every event is refused for this long is told."""
    leave_on_stop: bool = False
    """Whether a worker that stops as asked gives up its place in the group, because it will not come back."""
    data_dir: Path = Path("data")
    """Folder of the deployment on this machine; what workers keep there is a cache or a status, never the truth."""
    registry: Path | None = None
    """The key registry; None takes the data folder's own."""
    index: IndexKind = IndexKind.MEMORY
    """Where the sequencer keeps the identities of the horizon."""

    @property
    def heartbeat_interval_s(self) -> float:
        """How often the group hears of this worker, and this worker of a change in the group."""
        return min(1.0, self.session_timeout_s / 3)

    @property
    def registry_path(self) -> Path:
        """Where the key registry is."""
        return self.registry or DataFolder(self.data_dir).registry

    @property
    def index_dir(self) -> Path | None:
        """Where the sequencer keeps its dedupe indexes, a cache of the log; None: in memory."""
        return None if self.index is IndexKind.MEMORY else self.data_dir / "cache" / self.instance / "index"

    @property
    def status_dir(self) -> Path:
        """Where workers write their status."""
        return DataFolder(self.data_dir).status
