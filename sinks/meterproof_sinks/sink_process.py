"""One sink as a process: settings, logging, the check of the topics, signals, and an exit code that tells the truth.

| code | meaning | started again at once |
|---|---|---|
| 0 | stopped as asked | - |
| 1 | could not start: a topic, file or database is missing, faulty or in use, Kafka does not answer | when put right |
| 2 | wrong usage | no |
| 70 | unexpected error; nothing was counted after it | goes on where the destination ends |
| 78 | stopped for a person: `log_diverged` | stops again until a person has acted |
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import structlog

from meterproof.deployment import DataFolder
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import check_topics
from meterproof.status import StatusFile
from meterproof_schemas.errors import StageStopped
from meterproof_sinks.batch_bounds import BatchBounds
from meterproof_sinks.sink import Sink
from meterproof_sinks.worker import run_sink

CLEAN: Final = 0
UNEXPECTED: Final = 70
STOPPED: Final = 78

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.sink")


Beside = Callable[[KafkaSettings, asyncio.Event], Coroutine[None, None, None]]
"""What a worker does beside carrying records, until the event is set."""


class TopicsUnfit(Exception):
    """The topics are not as the contract says; the text names each fault and its remedy."""


def run_sink_process(
    open_sink: Callable[[KafkaSettings], AbstractAsyncContextManager[Sink]],
    *,
    name: str,
    data: Path,
    bootstrap: str | None,
    topic_prefix: str | None,
    partitions: Sequence[int] | None,
    bounds: BatchBounds,
    beside: Beside | None = None,
) -> int:
    """Run a sink until SIGTERM or SIGINT; the exit code.

    Args:
        open_sink: opens the destination; what it raises on entering is an error of starting, and comes out.
        name: of the worker and its status file.
        data: folder of the deployment on this machine.
        bootstrap: Kafka's address, instead of the settings'.
        topic_prefix: of the deployment's topics, instead of the settings'.
        partitions: to carry; None is all.
        bounds: of a batch.
        beside: what else the worker does as long as it runs; if it or the sink fails, both stop.

    Raises:
        TopicsUnfit: the topics are not as the contract says.
        KafkaProblem: Kafka does not answer or denies access.

    """
    _set_up_logging(name)
    settings = kafka_settings(data, bootstrap, topic_prefix)
    status = StatusFile(DataFolder(data).status, name)
    return asyncio.run(_run(open_sink, settings, status, partitions=partitions, bounds=bounds, beside=beside))


def kafka_settings(data: Path, bootstrap: str | None, topic_prefix: str | None) -> KafkaSettings:
    """Arguments first, then `METERPROOF_KAFKA_…`, then the deployment file of the data folder if there is one.

    Raises:
        NoDeployment: the deployment file is faulty.
    """
    settings = KafkaSettings()
    stated: dict[str, str | None] = {"bootstrap": bootstrap, "topic_prefix": topic_prefix}
    folder = DataFolder(data)
    if folder.deployment_file.exists():
        deployment = folder.deployment()
        for field, value in (("bootstrap", deployment.bootstrap), ("topic_prefix", deployment.topic_prefix)):
            if stated[field] is None and field not in settings.model_fields_set:
                stated[field] = value
    return settings.model_copy(update={field: value for field, value in stated.items() if value is not None})


async def run_together(stop: asyncio.Event, *parts: Coroutine[None, None, None]) -> None:
    """Run the parts of a worker until one ends; then set `stop`, let the others finish, and raise the first error."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _run(
    open_sink: Callable[[KafkaSettings], AbstractAsyncContextManager[Sink]],
    settings: KafkaSettings,
    status: StatusFile,
    *,
    partitions: Sequence[int] | None,
    bounds: BatchBounds,
    beside: Beside | None,
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if faults := await check_topics(settings):
        lines = "\n".join(f"  {fault.topic}: {fault.fault}; {fault.remedy}" for fault in faults)
        raise TopicsUnfit(f"the topics are not as the contract says:\n{lines}")
    async with open_sink(settings) as sink:
        try:
            carrying = run_sink(sink, settings, partitions, status=status, stop=stop, bounds=bounds)
            await run_together(stop, carrying, *([] if beside is None else [beside(settings, stop)]))
        except StageStopped as stopped:
            _log.critical(str(stopped), stop_reason=stopped.stop_reason.value, exit_code=STOPPED)
            return STOPPED
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the process ends
            _log.critical(f"{type(error).__name__}: {error}", exit_code=UNEXPECTED, exc_info=error)
            return UNEXPECTED
    return CLEAN


def _set_up_logging(worker: str) -> None:
    """Send our events and the libraries' warnings to stderr as JSON lines. Never a payload, never a secret."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _logger, _method, event: {"worker": worker} | dict(event),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("aiokafka", "asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(logging.WARNING)
