"""What every runtime of an engine does alike: start, status, watching, and the end of the process."""

import asyncio
import gc
import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, Final, NoReturn

import structlog

from meterproof.exit_codes import CLEAN, exit_code_of
from meterproof.health import Health, HealthServer, HealthSettings
from meterproof.kafka.errors import KafkaProblem
from meterproof.kafka.group_members import remove_member
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_ends import TopicEnds
from meterproof.metrics import StatusMetrics
from meterproof.progress import Progress
from meterproof.status import StatusFile
from meterproof.watchdog import Watchdog, WorkerStalled
from meterproof_schemas.errors import ContractError, StageStopped
from meterproof_schemas.topics import Topic
from meterproof_stream.engine import Engine
from meterproof_stream.errors import StreamError
from meterproof_stream.settings import WorkerSettings

BROKER_POLL_INTERVAL_S: Final = 1.0
"""How often a start or a take-over is tried again while the broker is away."""
LEAVE_TIMEOUT_S: Final = 3.0
"""How long the group may take to let a member go."""
_TEND_INTERVAL_S: Final = 1.0
_GC_THRESHOLDS: Final = 50_000, 20, 20
"""Objects made and not freed until the youngest are gone through, and how many times until older ones are."""
_SLUGGISH_S: Final = 5.0
"""An event loop that did nothing for this long carries nothing."""

_log: Final = structlog.get_logger("meterproof.worker")


class Driver(ABC):
    """Runs one engine over one topic in this process, as a member of a group, until it is told to stop.

    Promises, whatever the runtime: a record reaches the engine only after the engine has taken its partition over, and
    not after the group has begun to give the partition away; any unexpected error, a stop that takes too long, and a
    delivery that stands still end the process at once, without another acknowledgement. A broker that is away is waited
    for. Members of one group may have different runtimes. Lives once: `run`, then the process ends.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        worker: str,
        topic: Topic,
        kafka: KafkaSettings,
        settings: WorkerSettings,
        health: HealthSettings,
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
        self._watchdog = Watchdog(
            stop_deadline_s=settings.stop_deadline_s, stall_timeout_s=settings.stall_timeout_s, die=self.die
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._lag: dict[int, int | None] = {}
        self._rebalances = 0
        """How often the group has begun to give partitions away."""
        self._take_overs = 0
        self._broker_fault: str | None = None
        """Why the broker does not answer; None while it does."""
        self._progress = Progress()
        self._stuck: tuple[str, ...] = ()
        self._slow: tuple[str, ...] = ()
        self._shown: Mapping[str, Any] = {}
        """The latest status; never changed once it stands here, since other threads read it."""
        self._server = HealthServer(
            health,
            health=self.health,
            about={"worker": worker, "instance": settings.instance},
            metrics=StatusMetrics(worker, settings.instance, lambda: self._shown),
        )

    @abstractmethod
    def _prepare(self) -> None:
        """Make what needs no broker; called once, before the engine starts."""

    @abstractmethod
    def _drive(self, loop: asyncio.AbstractEventLoop) -> int:
        """Deliver records until SIGTERM or SIGINT, and stop the engine; the exit code."""

    @abstractmethod
    def _ends(self) -> dict[int, int | None]:
        """By partition assigned, the offset behind its last record, as far as the last fetch tells."""

    def run(self, check: Callable[[], Awaitable[None]] | None = None) -> int:
        """Run until SIGTERM or SIGINT; the exit code. Errors of the start come out, later ones end the process.

        Args:
            check: awaited before the engine starts, and again at each try: whether Kafka is as it must be.

        Raises:
            KafkaProblem: Kafka cannot be used, or was away for as long as a start may wait for it.
        """
        self._server.start()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self._prepare()
        self._watchdog.beat()
        self._watchdog.start()
        self._tasks = [loop.create_task(self._tend())]
        try:
            loop.run_until_complete(self._start(check))
        except StageStopped as error:
            self.die(error)
        except BaseException as error:
            self._state = "failed"
            self._write_status(error=str(error))
            self._watchdog.loop_ended()
            for task in self._tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(self._tasks))
            raise
        self._tasks.append(loop.create_task(self._watch_progress()))
        for task in self._tasks:
            task.add_done_callback(self._must_go_on)
        _collect_garbage_rarely()
        code = self._drive(loop)
        self._watchdog.loop_ended()
        if code == CLEAN and self._settings.leave_on_stop:
            self._leave()
        self._state = "stopped" if code == CLEAN else "failed"
        self._write_status()
        return code

    def health(self) -> Health:
        """What probes are told; any thread may ask."""
        silence_s, settings = self._watchdog.silence_s, self._settings
        unhealthy, waiting = [*self._stuck], [*self._slow]
        if silence_s > settings.stall_timeout_s:
            unhealthy.append(f"the event loop did nothing for {silence_s:.0f} s")
        elif silence_s > _SLUGGISH_S:
            waiting.append(f"the event loop did nothing for {silence_s:.0f} s")
        if self._state != "running":
            waiting.append(self._state)
        if self._broker_fault is not None:
            waiting.append(self._broker_fault)
        return Health(tuple(unhealthy), tuple(waiting))

    def die(self, error: BaseException) -> NoReturn:
        """End the process now: nothing that a runtime would do on its way out may acknowledge anything."""
        code = exit_code_of(error)
        if isinstance(error, StageStopped):
            _log.critical(str(error), stop_reason=error.stop_reason.value, exit_code=code)
        elif isinstance(error, (ContractError, KafkaProblem, StreamError, WorkerStalled)):
            _log.critical(f"{type(error).__name__}: {error}", exit_code=code)
        else:
            _log.critical(f"{type(error).__name__}: {error}", exit_code=code, exc_info=error)
        self._state = "failed"
        try:
            self._write_status(error=str(error))
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    # --- the engine --------------------------------------------------------------------------------------------------

    async def _start(self, check: Callable[[], Awaitable[None]] | None) -> None:
        """Start the engine. A broker that is away is waited for, but not for ever: the address may be wrong."""
        give_up_s = time.monotonic() + self._settings.start_timeout_s
        while True:
            try:
                if check is not None:
                    await check()
                await self._engine.start()
            except KafkaProblem as error:
                if not error.retriable or time.monotonic() >= give_up_s:
                    raise
                if self._broker_fault is None:
                    _log.warning("start_waits", error=str(error), at_most_s=self._settings.start_timeout_s)
                self._broker_fault = str(error)
                await asyncio.sleep(BROKER_POLL_INTERVAL_S)
            else:
                self._broker_fault = None
                return

    async def _take_over(self, assigned: Callable[[], tuple[Collection[int], int]]) -> None:
        """After a rebalance, before any record: let the engine take over what is assigned, with its generation.

        A broker that is away is waited for: `assigned` is asked again before each try. If another rebalance began
        meanwhile, no record is taken before the take-over that follows it.
        """
        try:
            self._generation = None
            while True:
                rebalances = self._rebalances
                partitions, generation = assigned()
                self._enter("taking over")
                try:
                    await self._engine.take_over(partitions, generation)
                except KafkaProblem as error:
                    if not error.retriable:
                        raise
                    self._broker_fault = str(error)
                    self._enter("waiting for the broker")
                    _log.warning("take_over_waits", error=str(error))
                    await asyncio.sleep(BROKER_POLL_INTERVAL_S)
                else:
                    break
            self._broker_fault = None
            self._take_overs += 1
            if self._rebalances != rebalances:
                self._enter("rebalancing")
                return
            self._generation = generation
            self._enter("running")
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - a runtime would log it and go on
            self.die(error)

    async def _revoke(self, partitions: Iterable[int]) -> None:
        try:
            self._generation = None
            self._rebalances += 1
            if self._state == "running":
                self._enter("rebalancing")
            await self._engine.revoke(partitions)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001
            self.die(error)

    def _enter(self, state: str) -> None:
        """Show a state; a process that was asked to stop shows no other."""
        if self._state != "stopping":
            self._state = state
            self._write_status()

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

    def _must_go_on(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.die(error)

    def _leave(self) -> None:
        """Give up the place in the group, so that the others need not wait for a session to end."""
        try:
            asyncio.run(remove_member(self._kafka, self._group, self._settings.instance, patience_s=LEAVE_TIMEOUT_S))
        except KafkaProblem as error:
            _log.warning("group_not_left", error=str(error))

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
        """Tell by partition whether records wait and none is taken: runtimes can fall silent, alive.

        1. Ask the broker where the partitions end; that it answers is part of being ready.
        2. Records that wait long are a reason not to be ready, whoever is to blame.
        3. Records that wait for this process alone, and really stand there, make it unhealthy.
        4. If they still do at the next look, end the process: no probe may be there to do it.
        """
        stall_s, slow_s = self._settings.stall_timeout_s, self._settings.slow_after_s
        ends_of = TopicEnds(self._kafka, self._topic)
        while True:
            await asyncio.sleep(min(2.0, stall_s / 5))
            due = self._engine.next_offsets() if self._state == "running" else {}
            ends: dict[int, int] | None = None
            try:
                ends = await ends_of.ask(due or {0})  # 1
            except KafkaProblem as error:
                if self._broker_fault is None:
                    _log.warning("progress_unknown", error=str(error))
                self._broker_fault = str(error)
            else:
                if self._state != "waiting for the broker":
                    self._broker_fault = None
            now_s, waits_for = time.monotonic(), self._engine.waits_for()
            self._progress.look(now_s, due, ends, waits_for=waits_for)
            self._slow = tuple(  # 2
                f"partition {partition}: nothing was taken for {waited_s:.0f} s, though records wait"
                + ("" if waits_for is None else f"; waiting for {waits_for}")
                for partition, waited_s in self._progress.waiting_s(now_s).items()
                if waited_s >= slow_s
            )
            stuck = [
                partition
                for partition, stuck_s in self._progress.stuck_s(now_s).items()
                if stuck_s >= stall_s and await self._really_stands(partition, due[partition], (ends or {})[partition])
            ]
            if self._stuck and stuck:  # 4
                self.die(WorkerStalled("; ".join(self._stuck)))
            self._stuck = tuple(  # 3
                f"{self._topic}[{partition}]: nothing was taken for {stall_s} s, though records stand at offset "
                f"{due[partition]} and behind it"
                for partition in stuck
            )
            for reason in self._stuck:
                _log.error("partition_stuck", reason=reason)

    async def _really_stands(self, partition: int, offset: int, end: int) -> bool:
        if self._engine.next_offsets().get(partition) != offset or self._state != "running":
            return False
        stands = await self._stands_at_or_behind(partition, offset)
        if stands is False:
            self._progress.nothing_stands(partition, offset, end)
        return bool(stands) and self._engine.next_offsets().get(partition) == offset

    async def _stands_at_or_behind(self, partition: int, offset: int) -> bool | None:
        """Whether a record stands there; None if that cannot be found out."""
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
            return None
        return False

    def _write_status(self, error: str | None = None) -> None:
        status: dict[str, Any] = {
            "worker": self._worker,
            "instance": self._settings.instance,
            "pid": os.getpid(),
            "state": self._state,
            "written_ms": time.time_ns() // 1_000_000,
            "error": error,
            "generation": self._generation,
            "topic": self._topic,
            "rebalances": self._take_overs,
            "health_port": self._server.port,
        }
        status |= self.health().as_json() | self._engine.status()
        waiting = self._progress.waiting_s(time.monotonic())
        for name, part in status["partitions"].items():
            part["lag"] = self._lag.get(int(name))
            part["waiting_s"] = round(waiting.get(int(name), 0.0), 1)
        self._shown = status
        self._status.write(status)


def _collect_garbage_rarely() -> None:
    """Keep the garbage collector from going through what the start has made, and from going through the rest so often.

    What a record leaves behind is freed without it; cycles come from errors and tasks, and are few.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
