"""Which ClickHouse: read from `METERPROOF_CLICKHOUSE_…` variables or arguments into a frozen value."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from meterproof.deployment import DataFolder
from meterproof_sinks.clickhouse import ANSWER_TIMEOUT_S, DATABASE, ENGINE_MEMORY_MIB, ClickHouse


class ClickHouseSettings(BaseSettings):
    """A server, or the folder of the deployment. Each field can come from `METERPROOF_CLICKHOUSE_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix="METERPROOF_CLICKHOUSE_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    url: str | None = None
    """Of a server, `https://host:8443`; None opens the data folder's own ClickHouse in this process."""
    username: str = "default"
    password: SecretStr = SecretStr("")
    database: str = Field(default=DATABASE, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    """One for each deployment: its tables hold one deployment's logs."""
    replicated: bool = False
    """Make replicated tables. The database must exist, with engine `Replicated`, which does it on all replicas."""
    answer_timeout_s: float = Field(default=ANSWER_TIMEOUT_S, gt=0)
    """After which a server that does not answer counts as away."""
    memory_mib: int = Field(default=ENGINE_MEMORY_MIB, ge=1024)
    """What the engine of a folder may hold; what would go beyond is refused."""

    def open(self, data: Path) -> ClickHouse:
        """Open for reading and writing.

        Raises:
            ClickHouseError: it cannot be opened or reached.
        """
        if self.url is None:
            return ClickHouse.open_folder(
                DataFolder(data).clickhouse, database=self.database, memory_mib=self.memory_mib
            )
        return self.connect(self.url, create=True)

    def connect(self, url: str, *, create: bool = False) -> ClickHouse:
        """Connect to a server with these credentials.

        Raises:
            ClickHouseError: it cannot be reached, or refuses.
        """
        password = self.password.get_secret_value()
        return ClickHouse.connect(
            url,
            username=self.username,
            password=password,
            database=self.database,
            create=create,
            answer_timeout_s=self.answer_timeout_s,
        )
