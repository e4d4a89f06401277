"""A worker as a process: settings, logging, check of the topics, signals, and an exit code that tells the truth."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final, NoReturn

import structlog

from meterproof.deployment import DataFolder
from meterproof.errors import MeterError
from meterproof.exit_codes import CLEAN, TRY_AGAIN, exit_code_of
from meterproof.health import HealthSettings
from meterproof.json_log import set_up_logging
from meterproof.kafka.errors import KafkaProblem
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_check import require_fit_topics
from meterproof.watchdog import WorkerStalled, end_at_once_on_signals
from meterproof_schemas.errors import ContractError, StageStopped
from meterproof_sinks.batch_bounds import BatchBounds
from meterproof_sinks.sink import Sink, SinkFault
from meterproof_sinks.sink_settings import SinkSettings
from meterproof_sinks.sink_status import SinkStatus
from meterproof_sinks.worker import run_sink

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.sink")
_BEAT_INTERVAL_S: Final = 0.5

Beside = Callable[[KafkaSettings, asyncio.Event], Coroutine[None, None, None]]
"""What a worker does beside carrying records, until the event is set."""
Work = Callable[[SinkStatus, asyncio.Event], Coroutine[None, None, None]]
"""All that a worker does, until the event is set."""


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
        KafkaProblem: Kafka cannot be used, or the topics are not as the contract says.
        PortTaken: its health cannot be served where the settings say.

    """

    @asynccontextmanager
    async def opened(kafka: KafkaSettings) -> AsyncIterator[Work]:
        async with open_sink(kafka) as sink:

            async def work(status: SinkStatus, stop: asyncio.Event) -> None:
                worker = SinkSettings()
                carrying = run_sink(sink, kafka, partitions, status=status, stop=stop, bounds=bounds, worker=worker)
                await run_together(stop, carrying, *([] if beside is None else [beside(kafka, stop)]))

            yield work

    return run_worker_process(opened, name=name, data=data, bootstrap=bootstrap, topic_prefix=topic_prefix)


def run_worker_process(
    open_work: Callable[[KafkaSettings], AbstractAsyncContextManager[Work]],
    *,
    name: str,
    data: Path,
    bootstrap: str | None,
    topic_prefix: str | None,
) -> int:
    """Run a worker until SIGTERM or SIGINT; the exit code.

    Args:
        open_work: opens what the worker needs; what it raises on entering is an error of starting, and comes out.
        name: of the worker and its status file.
        data: folder of the deployment on this machine.
        bootstrap: Kafka's address, instead of the settings'.
        topic_prefix: of the deployment's topics, instead of the settings'.

    Raises:
        KafkaProblem: Kafka cannot be used, or the topics are not as the contract says.
        PortTaken: its health cannot be served where the settings say.

    """
    settings = DataFolder(data).kafka_settings(bootstrap, topic_prefix)
    return run_process(lambda: open_work(settings), name=name, data=data, before=lambda: require_fit_topics(settings))


async def _nothing() -> None:
    """Nothing has to be looked at."""


def run_process(
    open_work: Callable[[], AbstractAsyncContextManager[Work]],
    *,
    name: str,
    data: Path,
    before: Callable[[], Coroutine[None, None, None]] = _nothing,
) -> int:
    """Run any worker, with Kafka or without, until SIGTERM or SIGINT; the exit code.

    Args:
        open_work: opens what the worker needs; what it raises on entering is an error of starting, and comes out.
        name: of the worker and its status file.
        data: folder of the deployment on this machine.
        before: looks whether the worker can start; a signal ends the process meanwhile.

    Raises:
        PortTaken: its health cannot be served where the settings say.

    """
    end_at_once_on_signals()
    worker = SinkSettings()
    set_up_logging(name, worker.instance or name)
    shown: list[SinkStatus] = []

    def die(error: BaseException) -> NoReturn:
        _tell(error)
        try:
            shown[0].failed(error)
        finally:
            logging.shutdown()
            os._exit(_exit_code(error))

    status = SinkStatus(name, DataFolder(data).status, settings=worker, health=HealthSettings(), die=die)
    shown.append(status)
    status.start()
    try:
        return asyncio.run(_run(open_work, status, before))
    finally:
        status.watchdog.loop_ended()


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


class _WorkFailed(Exception):
    """What ends a worker after its start; what it opened is closed by it, and does not finish anything."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


async def _run(
    open_work: Callable[[], AbstractAsyncContextManager[Work]],
    status: SinkStatus,
    before: Callable[[], Coroutine[None, None, None]],
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    beating = asyncio.create_task(_beat(status))
    await before()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    status.watchdog.note_signals()
    try:
        async with open_work() as work:
            try:
                await work(status, stop)
            except Exception as error:
                raise _WorkFailed(error) from error
    except _WorkFailed as failed:  # told when all is closed, so that it is the last word
        return _tell(failed.error)
    finally:
        beating.cancel()
    return CLEAN


async def _beat(status: SinkStatus) -> None:
    while True:
        status.watchdog.beat()
        await asyncio.sleep(_BEAT_INTERVAL_S)


def _tell(error: BaseException) -> int:
    """Log why the worker ends; its exit code."""
    code = _exit_code(error)
    if isinstance(error, StageStopped):
        _log.critical(str(error), stop_reason=error.stop_reason.value, exit_code=code)
    elif isinstance(error, (ContractError, KafkaProblem, MeterError, SinkFault, WorkerStalled)):
        _log.critical(f"{type(error).__name__}: {error}", exit_code=code)
    else:
        _log.critical(f"{type(error).__name__}: {error}", exit_code=code, exc_info=error)
    return code


def _exit_code(error: BaseException) -> int:
    return TRY_AGAIN if isinstance(error, SinkFault) and error.retriable else exit_code_of(error)
