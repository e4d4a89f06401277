"""A deployment on one machine: the names in its data folder, and the file that tells clients where it is."""

import shlex
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from meterproof.errors import MeterError
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.errors import first_fault

FILE_NAME: Final = "deployment.json"


class NoDeployment(MeterError):
    """The folder holds no deployment, or its file is faulty."""


class DeploymentFile(BaseModel):
    """A deployment as `meterproof up` wrote it. Holds no secrets."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    """Names the logs: the first part of their origins."""
    deployment: str
    """The audience that batches are signed for."""
    bootstrap: str
    topic_prefix: str
    partitions: int


class DataFolder:
    """Where everything of one machine's deployment lies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kafka = root / "kafka"
        self.audit = root / "audit"
        self.clickhouse = root / "clickhouse"
        self.keys = root / "keys"
        self.status = root / "status"
        self.logs = root / "logs"
        self.registry = self.keys / "registry.json"
        self.log_key = self.keys / "log.key"
        self.next_log_key = self.keys / "log.next.key"
        """Signs beside `log_key` while it replaces it; else missing."""
        self.vkeys = self.keys / "log.vkey"
        self.price_book = root / "price-book.json"
        self.budgets = root / "budgets.json"
        self.webhooks = root / "webhooks.json"
        """Where alerts are sent; missing where they are not."""
        self.webhook_deliveries = root / "webhook-deliveries.json"
        """Which topic says what was sent: an alarm for the case that it becomes another one."""
        self.deployment_file = root / FILE_NAME

    @property
    def log_keys(self) -> list[Path]:
        """The files of the keys that sign the logs now."""
        return [self.log_key, *([self.next_log_key] if self.next_log_key.exists() else [])]

    def kafka_settings(self, bootstrap: str | None = None, topic_prefix: str | None = None) -> KafkaSettings:
        """How Kafka is reached: the arguments first, then `METERPROOF_KAFKA_…`, then the deployment file.

        Raises:
            NoDeployment: the deployment file is faulty.
            pydantic.ValidationError: an argument or a variable is.
        """
        settings = KafkaSettings()
        stated = {"bootstrap": bootstrap, "topic_prefix": topic_prefix}
        if self.deployment_file.exists():
            there = self.deployment()
            for name, value in (("bootstrap", there.bootstrap), ("topic_prefix", there.topic_prefix)):
                if stated[name] is None and name not in settings.model_fields_set:
                    stated[name] = value
        return KafkaSettings.model_validate({name: value for name, value in stated.items() if value is not None})

    def deployment(self) -> DeploymentFile:
        """Read the deployment file.

        Raises:
            NoDeployment: there is none, or it is faulty.
        """
        try:
            return DeploymentFile.model_validate_json(self.deployment_file.read_bytes())
        except FileNotFoundError:
            quoted = shlex.quote(str(self.root))
            message = f"{self.root} holds no deployment; start one with `meterproof up --data {quoted}`"
            raise NoDeployment(message) from None
        except ValidationError as error:
            message = f"{self.deployment_file} is faulty: {first_fault(error)}"
            raise NoDeployment(message) from None
