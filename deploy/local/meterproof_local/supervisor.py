"""The whole pipeline on this machine under one supervisor: broker, topics, and every worker as a child process."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from meterproof.deployment import DataFolder
from meterproof.kafka.price_books import publish_price_book
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import create_topics
from meterproof.status import read_status
from meterproof_local.broker import LocalBroker
from meterproof_local.errors import LocalKafkaError, NotInTime, PipelineStopped
from meterproof_local.jars import Progress
from meterproof_local.log_ends import LogEnds
from meterproof_local.setup import SetupWish, read_price_book, set_up, write_deployment
from meterproof_local.worker import FIRST_PAUSE_S, LONGEST_PAUSE_S, STABLE_AFTER_S, State, Worker, WorkerSpec

POLL_INTERVAL_S: Final = 0.1
"""How often processes are looked at."""
_DRAIN_INTERVAL_S: Final = 0.2
BROKER: Final = "kafka"
SINK_PATIENCE_S: Final = 95.0
"""A sink that is asked to stop finishes the write that it is in, and ends within 90 s whatever happens."""


def worker_specs(folder: DataFolder, sequencers: int) -> list[WorkerSpec]:
    """The workers of a pipeline, in the order in which data flows through them; webhooks where there are endpoints."""
    data = ("--data", str(folder.root))
    specs = [
        WorkerSpec(
            f"sequencer-{number}",
            ("sequencer", "run", *data, "--instance", f"sequencer-{number}"),
            f"sequencer-{number}",
        )
        for number in range(sequencers)
    ]
    specs += [
        WorkerSpec("checkpointer", ("checkpointer", "run", *data, "--instance", "checkpointer-0"), "checkpointer-0"),
        WorkerSpec("budgets", ("budgets", "run", *data, "--instance", "budgets-0"), "budgets-0"),
        WorkerSpec("clickhouse", ("sink", "clickhouse", "run", *data), "clickhouse", patience_s=SINK_PATIENCE_S),
        WorkerSpec("audit", ("sink", "audit", "run", *data), "audit", patience_s=SINK_PATIENCE_S),
    ]
    if folder.webhooks.is_file():
        command = ("sink", "webhook", "run", *data)
        specs.append(WorkerSpec("webhook", command, "webhook", patience_s=SINK_PATIENCE_S, carries_logs=False))
    return specs


@dataclass(frozen=True, slots=True)
class Drainage:
    """How far everything is behind what was sent."""

    waiting: dict[str, str]
    """By stage, what it is waited for; empty once everything has arrived everywhere."""
    size: int
    """Accepted events, all logs together."""

    @property
    def done(self) -> bool:
        """Whether every record is answered in the log, and every stage has carried all of it and made it durable."""
        return not self.waiting


class Supervisor:
    """Starts a deployment on this machine and keeps it running.

    Promises: a worker that ends unexpectedly is started again, with back-off; one that stopped because going on could
    do harm is not, and `needing_you` names it; `stop` ends workers first and the broker last; nothing survives the
    process that holds it, however that ends. Lives from `start` (or `async with`) to `stop`, in the event loop of the
    main thread. Starting or stopping the broker blocks that loop for some seconds.
    """

    def __init__(
        self,
        folder: DataFolder,
        wish: SetupWish | None = None,
        *,
        sequencers: int = 1,
        say: Callable[[str], None] = lambda _: None,
        on_download: Callable[[Progress], None] | None = None,
        specs: Callable[[DataFolder, int], list[WorkerSpec]] = worker_specs,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Describe a pipeline; nothing happens before `start`.

        Args:
            folder: where everything of it lies; made if missing.
            wish: what a new deployment begins with.
            sequencers: how many share the partitions.
            say: told about each step and each unexpected end, in one line.
            on_download: told about the broker's jars.
            specs: the workers.
            random_bytes: source of keys and epoch.

        """
        self.folder = DataFolder(folder.root.absolute())
        self.workers: dict[str, Worker] = {}
        """By name, in the order in which data flows."""
        self.broker = LocalBroker(self.folder.kafka, on_progress=on_download)
        self.broker_restarts = 0
        self.partitions = 0
        self.origins: tuple[str, ...] = ()
        """The logs' origins, by partition."""
        self._wish = wish or SetupWish()
        self._sequencers = sequencers
        self._say = say
        self._specs = specs
        self._random_bytes = random_bytes
        self._kafka: KafkaSettings | None = None
        self._watching: asyncio.Task[None] | None = None
        self._broker_pause_s = FIRST_PAUSE_S
        self._broker_started_s = 0.0

    @property
    def kafka(self) -> KafkaSettings:
        """How this pipeline's broker is reached; once started."""
        if self._kafka is None:
            message = "the pipeline was not started"
            raise RuntimeError(message)
        return self._kafka

    async def start(self) -> Self:
        """Start everything; returns when all processes run (which is before all workers are ready).

        1. Files: keys, registry, price book, budgets. 2. The broker. 3. Topics and geneses. 4. What clients need to
        know. 5. The price book, before any event is priced. 6. The workers. 7. Watch them.

        Raises:
            LocalError: a file is faulty, or the broker does not start.
            MeterError: a key file is faulty.
            KafkaProblem: the topics cannot be created, or contradict the folder.
            ContractError: a file in the folder is faulty.
        """
        deployment = set_up(self.folder, self._wish, self._random_bytes)  # 1
        try:
            with _interruptible():
                self.broker.start()  # 2
            self._broker_started_s = time.monotonic()
            self._kafka = KafkaSettings(bootstrap=self.broker.bootstrap, topic_prefix="", security_protocol="PLAINTEXT")
            self._say(f"Kafka is ready at {self.broker.bootstrap}")
            report = await create_topics(  # 3
                self._kafka, deployment, now_ms=time.time_ns() // 1_000_000, random_bytes=self._random_bytes
            )
            self.partitions, self.origins = deployment.partitions, report.origins
            write_deployment(self.folder, deployment, self.broker.bootstrap, report.origins)  # 4
            await publish_price_book(self._kafka, read_price_book(self.folder))  # 5
            for status in self.folder.status.glob("*.json"):
                status.unlink()
            for spec in self._specs(self.folder, self._sequencers):  # 6
                worker = self.workers[spec.name] = Worker(spec, self.folder.logs, self.folder.root)
                worker.start(time.monotonic())
            self._say(f"{len(self.workers)} workers started")
            self._watching = asyncio.create_task(self._watch())  # 7
        except BaseException:
            await self.stop()
            raise
        return self

    async def stop(self) -> None:
        """Workers first, broker last. Harmless when repeated; interrupted, it kills what is left."""
        try:
            await self.stop_workers()
        finally:
            for worker in self.workers.values():
                worker.end()
            self.broker.close()

    async def stop_workers(self) -> None:
        """Ask all workers to stop and wait for them; the broker goes on."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        for worker in self.workers.values():
            worker.ask_to_stop(time.monotonic())
        await _until_ended(self.workers.values())

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def kill(self, name: str) -> None:
        """End a worker, or the broker (`kafka`), with SIGKILL, as a crash would; it is started again."""
        if name == BROKER:
            self.broker.kill()
        else:
            self.workers[name].kill()

    async def restart(self, name: str) -> None:
        """Stop a worker as asked to, and start it again; also one that needs a person."""
        worker = self.workers[name]
        worker.ask_to_stop(time.monotonic())
        await _until_ended([worker])
        worker.start(time.monotonic())

    def needing_you(self) -> list[Worker]:
        """Workers that ended and are not started again, because going on could do harm."""
        return [worker for worker in self.workers.values() if worker.state is State.NEEDS_YOU]

    def status(self, name: str) -> dict[str, Any] | None:
        """What a worker last said of itself; None before it said anything."""
        return read_status(self.folder.status, self.workers[name].spec.status)

    async def wait_until(
        self, condition: Callable[[], bool | Awaitable[bool]], what: str, *, patience_s: float = 60.0
    ) -> None:
        """Wait until a condition holds.

        Raises:
            NotInTime: it did not within `patience_s`; names `what`.
            PipelineStopped: a worker needs a person, so waiting has no point.
        """
        limit_s = time.monotonic() + patience_s
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            for worker in self.needing_you():
                words = "\n  ".join(worker.last_words(3))
                raise PipelineStopped(f"{worker.spec.name} stopped (exit code {worker.exit_code}):\n  {words}")
            if time.monotonic() > limit_s:
                raise NotInTime(f"{what}: not within {patience_s:g} s; {self.folder.logs} says more")
            await asyncio.sleep(_DRAIN_INTERVAL_S)

    async def wait_until_ready(self, *, patience_s: float = 90.0) -> None:
        """Wait until every partition is in the hands of a worker of each kind that holds partitions.

        Raises:
            NotInTime: not within `patience_s`.
            PipelineStopped: a worker needs a person.
        """

        def ready() -> bool:
            held: dict[str, set[str]] = {}
            for name, worker in self.workers.items():
                if not worker.spec.carries_logs:
                    continue
                kind = "sequencer" if name.startswith("sequencer") else name
                held.setdefault(kind, set()).update((self.status(name) or {}).get("partitions", {}))
            return all(len(partitions) == self.partitions for partitions in held.values())

        await self.wait_until(ready, "every worker at work", patience_s=patience_s)

    async def wait_until_drained(self, *, patience_s: float = 120.0) -> Drainage:
        """Wait until everything that stands on the source topic has arrived everywhere, durably.

        Raises:
            NotInTime: it did not within `patience_s`; the text says what was waited for.
            PipelineStopped: a worker needs a person.
        """
        latest = Drainage({"start": "nothing looked at yet"}, 0)
        async with LogEnds(self.kafka, self.partitions) as ends:

            async def drained() -> bool:
                nonlocal latest
                latest = await self.drainage(ends)
                return latest.done

            try:
                await self.wait_until(drained, "everything arrived", patience_s=patience_s)
            except NotInTime as error:
                waiting = "; ".join(f"{stage}: {what}" for stage, what in latest.waiting.items())
                raise NotInTime(f"{error}; waiting for {waiting}") from None
        return latest

    async def drainage(self, ends: LogEnds) -> Drainage:
        """Look how far everything is.

        Per partition: the log answers every record of the source; the checkpoint covers the log; every other stage has
        made the log's last accepted record durable. Where the log ends is read from Kafka, not from the sequencer.
        """
        logs = await ends.refresh()
        waiting: dict[str, str] = {}
        for partition, log in enumerate(logs):
            if not log.sequenced:
                behind = log.source_end - log.chain.next_source_offset
                waiting.setdefault("sequencer", f"{behind} batches of partition {partition}")
        for name, worker in self.workers.items():
            if name.startswith("sequencer") or not worker.spec.carries_logs:
                continue
            parts = (self.status(name) or {}).get("partitions", {})
            for partition, log in enumerate(logs):
                part = parts.get(str(partition))
                if part is None:
                    waiting.setdefault(name, f"partition {partition} not taken over yet")
                elif not _has_all(name, part, log.chain.log_offset, log.chain.position):
                    waiting.setdefault(name, f"partition {partition} is not at log offset {log.chain.log_offset}")
        return Drainage(waiting, sum(log.chain.position for log in logs))

    async def _watch(self) -> None:
        """Start again what ended, for as long as the pipeline runs."""
        broker_due_s: float | None = None
        while True:
            now_s = time.monotonic()
            for worker in self.workers.values():
                if worker.watch(now_s):
                    self._tell(worker)
            if self.broker.poll() is not None:
                if broker_due_s is None:
                    if now_s - self._broker_started_s >= STABLE_AFTER_S:
                        self._broker_pause_s = FIRST_PAUSE_S
                    broker_due_s = now_s + self._broker_pause_s
                    self._say(f"Kafka ended (exit code {self.broker.poll()})")
                elif now_s >= broker_due_s:
                    broker_due_s = None
                    await self._restart_broker()
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _restart_broker(self) -> None:
        self._broker_pause_s = min(self._broker_pause_s * 2, LONGEST_PAUSE_S)
        self.broker_restarts += 1
        try:
            with _interruptible():
                self.broker.restart()
        except LocalKafkaError as error:
            self._say(f"Kafka does not start: {error}")
            return
        self._broker_started_s = time.monotonic()
        if self.broker.bootstrap != self.kafka.bootstrap:
            # Another program took the port. Workers and clients learn of the new one from the deployment file.
            deployment = set_up(self.folder, replace(self._wish, prices=None, budgets=None), self._random_bytes)
            self._kafka = self.kafka.model_copy(update={"bootstrap": self.broker.bootstrap})
            write_deployment(self.folder, deployment, self.broker.bootstrap, self.origins)
            for name in self.workers:
                self.kill(name)
        self._say(f"Kafka is back at {self.broker.bootstrap}")

    def _tell(self, worker: Worker) -> None:
        name, code = worker.spec.name, worker.exit_code
        ended = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        match worker.state:
            case State.RUNNING:
                self._say(f"{name} was started again (process {worker.pid})")
            case State.WAITING:
                self._say(f"{name} ended {ended}; starting it again")
            case State.NEEDS_YOU:
                words = "; ".join(worker.last_words(1))
                self._say(f"{name} ended {ended} and is not started again: {words}")
            case State.STOPPED:
                pass


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """While the event loop is blocked nobody would hear Ctrl-C or SIGTERM, so they interrupt what blocks it."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _until_ended(workers: Iterable[Worker]) -> None:
    """Return when all of them, asked to stop before, are gone."""
    running = list(workers)
    while running:
        now_s = time.monotonic()
        running = [worker for worker in running if not worker.has_ended(now_s)]
        if running:
            await asyncio.sleep(POLL_INTERVAL_S / 2)


def _has_all(worker: str, part: dict[str, Any], log_offset: int, position: int) -> bool:
    """Whether a stage's own status says that it has made everything up to a record durable."""
    match worker:
        case "checkpointer":
            return bool(part["signed_size"] >= position)
        case "budgets":
            return bool(part["marked"] >= log_offset)
        case _:
            return bool(part["log_offset"] >= log_offset)
