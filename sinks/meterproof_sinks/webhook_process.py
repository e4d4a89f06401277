"""The webhook worker as a process."""

import asyncio
import hashlib
import random
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from meterproof.deployment import DataFolder
from meterproof.kafka.settings import KafkaSettings
from meterproof_sinks.sink_process import Work, run_worker_process
from meterproof_sinks.sink_settings import SinkSettings
from meterproof_sinks.sink_status import SinkStatus
from meterproof_sinks.webhook import NAME, run_webhooks
from meterproof_sinks.webhook_endpoints import Endpoint


def run_webhook_process(
    endpoints: Sequence[Endpoint], data: Path, *, bootstrap: str | None, topic_prefix: str | None
) -> int:
    """Run the worker until SIGTERM or SIGINT; its exit code, see `sink_process`.

    Args:
        endpoints: where alerts go.
        data: the deployment's folder on this machine.
        bootstrap: Kafka's address, instead of the settings'.
        topic_prefix: of the deployment's topics, instead of the settings'.

    Raises:
        TopicsUnfit, KafkaProblem, MeterError: see `run_worker_process`.

    """

    @asynccontextmanager
    async def opened(kafka: KafkaSettings) -> AsyncIterator[Work]:
        async def work(status: SinkStatus, stop: asyncio.Event) -> None:
            await run_webhooks(
                endpoints,
                kafka,
                instance=_instance(data),
                memory=DataFolder(data).webhook_deliveries,
                status=status,
                stop=stop,
                now_ms=lambda: time.time_ns() // 1_000_000,
                draw=random.SystemRandom().random,
            )

        yield work

    return run_worker_process(opened, name=NAME, data=data, bootstrap=bootstrap, topic_prefix=topic_prefix)


def _instance(data: Path) -> str:
    """A name that no other worker has, the same after a restart: so its turn comes back without being waited for."""
    place = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:16]
    return f"{SinkSettings().instance or NAME}-{socket.gethostname()}-{place}"
