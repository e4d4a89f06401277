"""What every runtime of an engine does alike: start, status, watching, and the end of the process."""

import asyncio
import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Final, NoReturn

import structlog

from meterproof.exit_codes import CLEAN, exit_code_of
from meterproof.kafka.errors import KafkaProblem
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.status import StatusFile
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.topics import Topic
from meterproof_stream.engine import Engine
from meterproof_stream.errors import StreamError, WorkerStalled
from meterproof_stream.settings import WorkerSettings
from meterproof_stream.watchdog import Watchdog

_TEND_INTERVAL_S: Final = 1.0

_log: Final = structlog.get_logger("meterproof.worker")


class Driver(ABC):
    """Runs one engine over one topic in this process, as a member of a group, until it is told to stop.

    Promises, whatever the runtime: a record reaches the engine only after the engine has taken its partition over, and
    not after the group has begun to give the partition away; any unexpected error, a stop that takes too long, and a
    delivery that stands still end the process at once, without another acknowledgement. Members of one group may have
    different runtimes. Lives once: `run`, then the process ends.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        worker: str,
        topic: Topic,
        kafka: KafkaSettings,
        settings: WorkerSettings,
    ) -> None:
        self._engine = engine
        self._worker = worker
        self._topic = kafka.topic(topic)
        self._group = f"{kafka.topic_prefix}{worker}"
        self._kafka = kafka
        self._settings = settings
        self._status = StatusFile(settings.status_dir, settings.instance)
        self._state = "starting"
        self._generation: int | None = None
        """The group's generation in which the engine took its partitions over; None while it must take no record."""
        self._watchdog = Watchdog(settings.stop_deadline_s, settings.stall_timeout_s, self.die)
        self._tasks: list[asyncio.Task[None]] = []
        self._lag: dict[int, int | None] = {}

    @abstractmethod
    def _prepare(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make what needs no broker; called once, before the engine starts."""

    @abstractmethod
    def _drive(self, loop: asyncio.AbstractEventLoop) -> int:
        """Deliver records until SIGTERM or SIGINT, and stop the engine; the exit code."""

    @abstractmethod
    def _ends(self) -> dict[int, int | None]:
        """By partition assigned, the offset behind its last record, as far as the last fetch tells."""

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; the exit code. Errors of the engine's start come out, later ones end it.

        Raises:
            KafkaProblem: Kafka cannot be used.
        """
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self._prepare(loop)
        self._write_status()
        try:
            loop.run_until_complete(self._engine.start())
        except StageStopped as error:
            self.die(error)
        except BaseException as error:
            self._state = "failed"
            self._write_status(error=str(error), final=True)
            raise
        self._watchdog.start()
        self._tasks = [loop.create_task(self._tend()), loop.create_task(self._watch_progress())]
        code = self._drive(loop)
        self._watchdog.finish()
        self._state = "stopped" if code == CLEAN else "failed"
        self._write_status(final=True)
        return code

    def die(self, error: BaseException) -> NoReturn:
        """End the process now: nothing that a runtime would do on its way out may acknowledge anything."""
        code = exit_code_of(error)
        if isinstance(error, StageStopped):
            _log.critical(str(error), stop_reason=error.stop_reason.value, exit_code=code)
        elif isinstance(error, (KafkaProblem, StreamError)):
            _log.critical(f"{type(error).__name__}: {error}", exit_code=code)
        else:
            _log.critical(f"{type(error).__name__}: {error}", exit_code=code, exc_info=error)
        self._state = "failed"
        try:
            self._write_status(error=str(error), final=True)
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    # --- the engine --------------------------------------------------------------------------------------------------

    async def _take_over(self, partitions: Iterable[int], generation: int) -> None:
        """After a rebalance, before any record."""
        try:
            self._state, self._generation = "taking over", None
            self._write_status()
            await self._engine.take_over(partitions, generation)
            self._state, self._generation = "running", generation
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - a runtime would log it and go on
            self.die(error)

    async def _revoke(self, partitions: Iterable[int]) -> None:
        try:
            self._generation = None
            await self._engine.revoke(partitions)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001
            self.die(error)

    def _asked_to_stop(self) -> None:
        self._state = "stopping"
        self._watchdog.stop_within_deadline()

    async def _stop_engine(self) -> None:
        try:
            self._generation = None
            await self._engine.stop()
            for task in self._tasks:
                task.cancel()
        except BaseException as error:  # noqa: BLE001
            self.die(error)

    # --- watching ----------------------------------------------------------------------------------------------------

    async def _tend(self) -> None:
        while True:
            self._watchdog.beat()
            if self._state == "running":
                ends = self._ends()
                self._lag = {
                    partition: None if (end := ends.get(partition)) is None else max(0, end - due)
                    for partition, due in self._engine.next_offsets().items()
                }
            self._write_status()
            await asyncio.sleep(_TEND_INTERVAL_S)

    async def _watch_progress(self) -> None:
        """End the process if a record stands where one is due and stays there: runtimes can fall silent, alive."""
        before: dict[int, int] = {}
        while True:
            await asyncio.sleep(self._settings.stall_timeout_s)
            now = self._engine.next_offsets() if self._state == "running" else {}
            for partition, offset in now.items():
                if (
                    before.get(partition) == offset
                    and await self._stands_at_or_behind(partition, offset)
                    and self._engine.next_offsets().get(partition) == offset
                ):
                    self.die(
                        WorkerStalled(
                            f"{self._topic}[{partition}]: nothing was taken for {self._settings.stall_timeout_s} s, "
                            f"though records stand at offset {offset} and behind it"
                        )
                    )
            before = now

    async def _stands_at_or_behind(self, partition: int, offset: int) -> bool:
        try:
            async with PartitionReader(self._kafka, self._topic, partition) as reader:
                start, end = await reader.bounds()
                if not start <= offset < end:
                    return False
                async for records in reader.read(offset, end):
                    if records:
                        return True
        except KafkaProblem as error:
            _log.warning("progress_unknown", partition=partition, error=str(error))
        return False

    def _write_status(self, error: str | None = None, *, final: bool = False) -> None:
        status: dict[str, Any] = {
            "worker": self._worker,
            "instance": self._settings.instance,
            "pid": os.getpid(),
            "state": self._state,
            "written_ms": time.time_ns() // 1_000_000,
            "error": error,
            "generation": self._generation,
            "topic": self._topic,
        } | self._engine.status()
        for name, part in status["partitions"].items():
            part["lag"] = self._lag.get(int(name))
        try:
            self._status.write(status)
        except OSError as fault:
            if not final:
                _log.warning("status_unwritten", error=str(fault))
