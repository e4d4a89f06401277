"""What a stream worker is told: read from arguments or `METERPROOF_WORKER_…` variables into a frozen value."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from meterproof.deployment import DataFolder
from meterproof.kafka.settings import KafkaSettings
from meterproof_stream.runtime import Runtime


class WorkerSettings(BaseSettings):
    """How one worker process runs. Each field can come from `METERPROOF_WORKER_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="METERPROOF_WORKER_", frozen=True, extra="ignore")

    instance: str = Field(min_length=1)
    """Stable name of this process, unique among the workers of the deployment, like `sequencer-0`: it lets a restarted
    worker take its partitions back at once, and names its status file. Two live workers with one name push each other
    out."""
    runtime: Runtime = Runtime.FAUST
    """What delivers the records."""
    session_timeout_s: int = Field(default=10, ge=6)
    """How long the group waits for a worker that is gone and not back."""
    stop_deadline_s: int = Field(default=20, ge=1)
    """A worker that was asked to stop and has not is ended after this."""
    stall_timeout_s: int = Field(default=60, ge=5)
    """A worker that takes nothing for this long while records wait is ended."""
    data_dir: Path = Path("data")
    """Folder of the deployment on this machine; what workers keep there is a cache or a status, never the truth."""
    registry: Path | None = None
    """The key registry; None takes the data folder's own."""

    @property
    def registry_path(self) -> Path:
        """Where the key registry is."""
        return self.registry or DataFolder(self.data_dir).registry

    @property
    def status_dir(self) -> Path:
        """Where workers write their status."""
        return DataFolder(self.data_dir).status


def kafka_settings(data_dir: Path, bootstrap: str | None, topic_prefix: str | None) -> KafkaSettings:
    """Arguments first, then `METERPROOF_KAFKA_…`, then the deployment file of the data folder if there is one.

    Raises:
        NoDeployment: the deployment file is faulty.
    """
    settings = KafkaSettings()
    stated: dict[str, str | None] = {"bootstrap": bootstrap, "topic_prefix": topic_prefix}
    folder = DataFolder(data_dir)
    if folder.deployment_file.exists():
        deployment = folder.deployment()
        for field, value in (("bootstrap", deployment.bootstrap), ("topic_prefix", deployment.topic_prefix)):
            if stated[field] is None and field not in settings.model_fields_set:
                stated[field] = value
    return settings.model_copy(update={field: value for field, value in stated.items() if value is not None})
