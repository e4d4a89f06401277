"""A second sequencer under another group and with a registry of its own, which Kafka gives every partition.

    python -m tests.chaos.rival BOOTSTRAP DATA REGISTRY

Nothing but the log's own rule stands between it and the deployment's sequencers.
"""

import os
import sys
from pathlib import Path

from meterproof.health import HealthSettings
from meterproof.json_log import set_up_logging
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.topics import Topic
from meterproof_stream.asyncio_driver import AsyncioDriver
from meterproof_stream.sequencer import Sequencer
from meterproof_stream.settings import WorkerSettings


def main(bootstrap: str, data: str, registry: str) -> int:
    """Run until SIGTERM."""
    set_up_logging("rival", "rival-0")
    kafka = KafkaSettings(bootstrap=bootstrap, topic_prefix="")
    settings = WorkerSettings(instance="rival-0", data_dir=Path(data), registry=Path(registry))
    drivers: list[AsyncioDriver] = []

    def die(error: BaseException) -> None:
        drivers[0].die(error)

    engine = Sequencer(kafka, settings.registry_path, random_bytes=os.urandom, on_failure=die)
    drivers.append(
        AsyncioDriver(
            engine, worker="rival", topic=Topic.BATCHES, kafka=kafka, settings=settings, health=HealthSettings()
        )
    )
    return drivers[0].run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
