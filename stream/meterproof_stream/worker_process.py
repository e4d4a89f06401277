"""One stream worker as a process: logging, the check of the topics, the engine, and the runtime that drives it."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import structlog

from meterproof.deployment import DataFolder
from meterproof.health import HealthSettings
from meterproof.json_log import set_up_logging
from meterproof.kafka.empty_membership import leave_if_partitions_are_nobodys
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_check import require_fit_topics
from meterproof.watchdog import end_at_once_on_signals
from meterproof_schemas.topics import Topic
from meterproof_stream.driver import Driver
from meterproof_stream.engine import Engine
from meterproof_stream.index_kind import IndexKind
from meterproof_stream.runtime import Runtime
from meterproof_stream.settings import WorkerSettings

OnFailure = Callable[[BaseException], None]


def run_worker(
    worker: str,
    topic: Topic,
    make_engine: Callable[[KafkaSettings, WorkerSettings, OnFailure], Engine],
    *,
    data: Path,
    bootstrap: str | None,
    topic_prefix: str | None,
    instance: str | None,
    runtime: Runtime | None,
    registry: Path | None = None,
    index: IndexKind | None = None,
    leave_on_stop: bool | None = None,
) -> int:
    """Run an engine over a topic until SIGTERM; the exit code, see `exit_codes`. A broker that is away is waited for.

    Raises:
        KafkaProblem: Kafka cannot be used, or the topics are not as the contract says.
        PortTaken: its health cannot be served where the settings say.
    """
    end_at_once_on_signals()
    if instance is None and "METERPROOF_WORKER_INSTANCE" not in os.environ:
        instance = f"{worker}-{socket.gethostname()}"
    stated = {
        "data_dir": data,
        "registry": registry,
        "instance": instance,
        "runtime": runtime,
        "index": index,
        "leave_on_stop": leave_on_stop,
    }
    settings = WorkerSettings.model_validate({name: value for name, value in stated.items() if value is not None})
    kafka = DataFolder(data).kafka_settings(bootstrap, topic_prefix)
    set_up_logging(worker, settings.instance)
    drivers: list[Driver] = []

    def on_failure(error: BaseException) -> None:
        # The engine is made before its driver, and cannot fail before it runs.
        drivers[0].die(error)

    engine = make_engine(kafka, settings, on_failure)
    driver = driver_of(settings.runtime)
    drivers.append(driver(engine, worker=worker, topic=topic, kafka=kafka, settings=settings, health=HealthSettings()))
    return drivers[0].run(lambda: _check(kafka, worker, settings.instance, topic))


async def _check(kafka: KafkaSettings, worker: str, instance: str, topic: Topic) -> None:
    """Make sure of the topics, and that joining the group will give this worker what there is."""
    await require_fit_topics(kafka)
    group = f"{kafka.topic_prefix}{worker}"
    if await leave_if_partitions_are_nobodys(kafka, group, instance, kafka.topic(topic)):
        structlog.get_logger("meterproof.worker").warning(
            "membership_left", group=group, reason="it assigned too little"
        )


def driver_of(runtime: Runtime) -> type[Driver]:
    """The driver that is asked for; no other is loaded."""
    if runtime is Runtime.ASYNCIO:
        from meterproof_stream.asyncio_driver import AsyncioDriver  # noqa: PLC0415

        return AsyncioDriver
    from meterproof_stream.faust_driver import FaustDriver  # noqa: PLC0415

    return FaustDriver
