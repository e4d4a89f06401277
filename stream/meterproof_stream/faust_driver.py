"""Faust as the runtime of an engine: groups, fetching, flow control, supervision. The only module that knows it.

What Faust is trusted with is delivery of records in order within a partition, mostly. Where to start, what to do about
gaps and repeats, and when something is done is the engine's business, which asks its own output. Faust is bent in three
places, all checked at start against the one version that they were proved with:

- `Consumer.perform_seek`, which Faust calls whenever it wants to know where to start, answers from the engine and never
  from a committed offset. (A seek made inside an agent is not safe: Faust then drops what is read again.)
- `Consumer.wait_first` runs the delivery of a record in place instead of in four tasks.
- The same override brakes at `QUEUE_HIGH` records, far below the line where Faust's fetcher sleeps a whole second.
"""

import asyncio
import functools
import importlib.metadata
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from typing import Any, Final, NoReturn, Protocol

import faust
import faust.streams
import structlog
from faust.sensors.monitor import Monitor
from faust.transport.conductor import Conductor
from faust.transport.drivers import aiokafka as driver

from meterproof.kafka import tolerant
from meterproof.kafka.errors import KafkaProblem
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.status import StatusFile
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.topics import Topic
from meterproof_stream.errors import FaustChanged, StreamError, TopicUnfit, WorkerStalled
from meterproof_stream.exit_codes import CLEAN, UNEXPECTED, exit_code_of
from meterproof_stream.settings import WorkerSettings

FAUST_VERSION: Final = "0.15.3"
"""The version that the overrides were proved with."""
QUEUE_HIGH: Final = 128
"""Records in the agent's queue above which no more are put in."""
QUEUE_LOW: Final = 32
"""Records in the agent's queue below which it is filled again."""
_LOG_APPEND_TIME: Final = 1
_TEND_INTERVAL_S: Final = 1.0
_WATCHDOG_INTERVAL_S: Final = 0.5

_log: Final = structlog.get_logger("meterproof.worker")


class Engine(Protocol):
    """What the driver can run. Any exception ends the process before anything else is acknowledged."""

    async def start(self) -> None:
        """Connect; called once, first."""

    async def stop(self) -> None:
        """Take nothing more, wait for what is on its way, disconnect."""

    async def take_over(self, partitions: Iterable[int], generation: int) -> None:
        """Hold exactly these partitions from now on; may take as long as it needs."""

    async def revoke(self, partitions: Iterable[int]) -> None:
        """These partitions may belong to another from now on."""

    def next_offsets(self) -> dict[int, int]:
        """The offset that is due, by partition held."""

    async def feed(
        self, partition: int, offset: int, value: bytes | None, append_ms: int, acknowledge: Callable[[], object]
    ) -> None:
        """Take one record; it may repeat, or come after a gap."""

    def status(self) -> dict[str, Any]:
        """What an operator wants to see, ready for JSON; `partitions` by number as text."""


class FaustDriver:
    """Runs one engine over one topic as one Faust app with one agent, in this process, until it is told to stop.

    Promises: a record reaches the engine only in the generation for which the engine has taken its partition over; any
    unexpected error, a stop that takes too long, and a delivery that stands still end the process at once, without
    another acknowledgement. Lives once: `run`, then the process ends.
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
        check_faust()
        tolerant.apply()
        self._engine = engine
        self._worker = worker
        self._topic = kafka.topic(topic)
        self._kafka = kafka
        self._settings = settings
        self._status = StatusFile(settings.status_dir, settings.instance)
        self._state = "starting"
        self._generation: int | None = None
        self._watchdog = _Watchdog(settings.stop_deadline_s, settings.stall_timeout_s, self.die)
        self._tasks: list[asyncio.Task[None]] = []
        self._lag: dict[int, int | None] = {}
        self._queue: Any = None
        self._drained: asyncio.Event | None = None

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; the exit code. Errors of the engine's start come out, later ones end it.

        Raises:
            KafkaProblem: Kafka cannot be used.
        """
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self._drained = asyncio.Event()
        app = self._make_app()
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
        self._tasks = [loop.create_task(self._tend(app)), loop.create_task(self._watch_progress())]
        worker = _Worker(app, loop=loop, on_signal=self._stopping)
        code = UNEXPECTED
        try:
            worker.execute_from_commandline()  # always ends by raising
        except SystemExit as end:
            code = CLEAN if end.code in {None, 0} else UNEXPECTED
        except BaseException as error:  # noqa: BLE001 - Faust's own crash
            self.die(error)
        self._watchdog.finish()
        self._state = "stopped" if code == CLEAN else "failed"
        self._write_status(final=True)
        return code

    def die(self, error: BaseException) -> NoReturn:
        """End the process now: nothing that Faust would do on its way out may acknowledge anything."""
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

    # --- the app ---------------------------------------------------------------------------------------------------

    def _make_app(self) -> faust.App:
        this = self

        class Consumer(driver.Consumer):
            async def perform_seek(self) -> None:
                await this._seek(self)

            async def wait_first(self, *waited: Any, timeout: Any = None) -> Any:  # noqa: ANN401, ASYNC109 - as in mode
                if len(waited) == 2 and timeout is None and _is_delivery(waited[0]):
                    return await this._deliver(super().wait_first, *waited)
                return await super().wait_first(*waited, timeout=timeout)

        class Transport(driver.Transport):
            pass

        Transport.Consumer = Consumer

        class App(faust.App):
            def _new_transport(self) -> Any:  # noqa: ANN401 - Faust's protocol
                return Transport(self.conf.broker_consumer, self)

        settings, kafka = self._settings, self._kafka
        folder = settings.data_dir / "cache" / settings.instance
        folder.mkdir(parents=True, exist_ok=True)
        app = App(
            f"{kafka.topic_prefix}{self._worker}",
            broker=[f"kafka://{address.strip()}" for address in kafka.bootstrap.split(",")],
            broker_credentials=_credentials(kafka),
            broker_client_id=f"{kafka.client_id}-{self._worker}",
            consumer_group_instance_id=settings.instance,
            broker_session_timeout=settings.session_timeout_s,
            broker_heartbeat_interval=min(3.0, settings.session_timeout_s / 3),
            broker_request_timeout=max(40, settings.session_timeout_s + 10),
            broker_rebalance_timeout=20,
            broker_max_poll_interval=1000,
            broker_max_poll_records=200,
            broker_commit_interval=1.0,
            stream_buffer_maxsize=4096,
            stream_wait_empty=False,
            table_standby_replicas=0,
            key_serializer="raw",
            value_serializer="raw",
            topic_disable_leader=True,
            topic_allow_declare=False,
            web_enabled=False,
            worker_redirect_stdouts=False,
            datadir=str(folder),
            Monitor=_NoMonitor,
        )
        if app.topics.on_message.__name__ != _DELIVERY:
            raise FaustChanged(f"Faust delivers records by {app.topics.on_message.__name__!r}, not by {_DELIVERY!r}")
        source = app.topic(self._topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

        async def take(stream: Any) -> None:  # noqa: ANN401 - a Faust stream
            await this._take(stream)

        app.agent(source, concurrency=1, name=f"meterproof_stream.{self._worker}")(take)

        @app.on_rebalance_complete.connect
        async def on_rebalance_complete(*_: object, **__: object) -> None:
            await this._take_over(app)

        @app.on_partitions_revoked.connect  # type: ignore[arg-type]  # its type leaves the sender out
        async def on_partitions_revoked(_: object, *revoked: Any, **__: object) -> None:  # noqa: ANN401
            await this._revoke({partition.partition for partition in revoked[0]})

        @app.on_before_shutdown.connect
        async def on_before_shutdown(*_: object, **__: object) -> None:
            await this._stop_engine()

        # Faust keeps handlers weakly.
        app.meterproof_handlers = (on_rebalance_complete, on_partitions_revoked, on_before_shutdown)  # type: ignore[attr-defined]
        return app

    async def _take(self, stream: Any) -> None:  # noqa: ANN401 - a Faust stream
        """The agent: hands the engine one record after the other."""
        self._queue = queue = stream.channel.queue
        engine, drained, die = self._engine, self._drained, self.die
        feed = engine.feed
        async for event in stream.noack().events():
            try:
                message = event.message
                if queue.qsize() < QUEUE_LOW and drained is not None:
                    drained.set()
                if message.generation_id != self._generation:
                    continue  # left over from before a rebalance
                if message.timestamp_type != _LOG_APPEND_TIME:
                    raise TopicUnfit(self._topic)
                # Faust hands milliseconds out as a float of seconds; rounding gives them back exactly.
                await feed(message.partition, message.offset, message.value, round(message.timestamp * 1000), event.ack)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - before any clean-up of Faust's can acknowledge
                die(error)

    async def _take_over(self, app: faust.App) -> None:
        """After a rebalance, before any record: the only place without a time limit and with heartbeats going on."""
        try:
            self._state, self._generation = "taking over", None
            self._write_status()
            generation = app.consumer_generation_id
            await self._engine.take_over([partition.partition for partition in app.consumer.assignment()], generation)
            self._state, self._generation = "running", generation
        except BaseException as error:  # noqa: BLE001 - Faust would log it and go on
            self.die(error)

    async def _revoke(self, partitions: set[int]) -> None:
        try:
            self._generation = None
            await self._engine.revoke(partitions)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001
            self.die(error)

    async def _stop_engine(self) -> None:
        try:
            self._generation = None
            await self._engine.stop()
            for task in self._tasks:
                task.cancel()
        except BaseException as error:  # noqa: BLE001
            self.die(error)

    async def _seek(self, consumer: Any) -> None:  # noqa: ANN401 - a Faust consumer
        """Start every partition where the engine says, and make Faust forget what it thinks of their positions."""
        due = self._engine.next_offsets()
        targets = {
            partition: due[partition.partition] for partition in consumer.assignment() if partition.partition in due
        }
        if targets:
            await consumer.seek_wait(targets)
        for partition, offset in targets.items():
            consumer._read_offset[partition] = offset or None  # noqa: SLF001 - or it drops everything below
            consumer._committed_offset[partition] = None  # noqa: SLF001 - or it never commits below

    async def _deliver(self, wait_first: Callable[..., Awaitable[Any]], delivery: Any, suspended: Any) -> Any:  # noqa: ANN401
        """Run a delivery in place; it nearly never waits for anything. Only if it does, wait as Faust does."""
        try:
            awaited = delivery.send(None)
        except StopIteration:
            queue, drained = self._queue, self._drained
            if queue is not None and drained is not None and queue.qsize() >= QUEUE_HIGH:
                drained.clear()
                return await wait_first(drained.wait(), suspended)
            suspended.close()
            return None
        return await wait_first(_finish(delivery, awaited), suspended)

    # --- watching --------------------------------------------------------------------------------------------------

    async def _tend(self, app: faust.App) -> None:
        while True:
            self._watchdog.beat()
            self._write_status(app)
            await asyncio.sleep(_TEND_INTERVAL_S)

    async def _watch_progress(self) -> None:
        """Faust can stop delivering and stay alive, silent, for ever: look whether a record stands where one is due."""
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

    def _stopping(self) -> None:
        self._state = "stopping"
        self._watchdog.stop_within_deadline()

    def _write_status(self, app: faust.App | None = None, error: str | None = None, *, final: bool = False) -> None:
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
        if app is not None and self._state == "running":
            self._lag = _lag_of(app, self._engine.next_offsets())
        for name, part in status["partitions"].items():
            part["lag"] = self._lag.get(int(name))
        try:
            self._status.write(status)
        except OSError as fault:
            if not final:
                _log.warning("status_unwritten", error=str(fault))


def check_faust() -> None:
    """Refuse to run on a Faust whose inner workings may differ from those that the overrides rely on.

    Raises:
        FaustChanged: another version, or parts that are missing.
    """
    version = importlib.metadata.version("faust-streaming")
    if version != FAUST_VERSION:
        raise FaustChanged(f"faust-streaming {version} is installed; this driver needs {FAUST_VERSION} exactly")
    if getattr(faust.streams, "_CStreamIterator", None) is None:
        raise FaustChanged("faust-streaming was installed without its compiled stream iterator; install its wheel")
    handler_names = Conductor._compile_message_handler.__code__.co_varnames  # noqa: SLF001
    drain = driver.Consumer._drain_messages.__code__.co_names  # noqa: SLF001
    if _DELIVERY not in handler_names or "wait_first" not in drain:
        raise FaustChanged("Faust delivers records in another way than this driver was proved with")


_DELIVERY: Final = "on_message"
"""Name of the coroutine that Faust's conductor makes of a record."""


def _is_delivery(waited: object) -> bool:
    code = getattr(waited, "cr_code", None)
    return code is not None and code.co_name == _DELIVERY


class _Resumed:
    """The rest of a coroutine that has been stepped by hand up to something that it waits for."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], awaited: Any) -> None:  # noqa: ANN401 - what the loop takes
        self._coroutine = coroutine
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, awaited = self._coroutine, self._awaited
        while True:
            try:
                sent = yield awaited
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to handle
                step = functools.partial(coroutine.throw, error)
            else:
                step = functools.partial(coroutine.send, sent)
            try:
                awaited = step()
            except StopIteration as end:
                return end.value


async def _finish(coroutine: Coroutine[Any, Any, Any], awaited: Any) -> Any:  # noqa: ANN401
    return await _Resumed(coroutine, awaited)


class _NoMonitor(Monitor):
    """Faust's statistics per record cost more than they tell."""

    def track_tp_end_offset(self, tp: Any, offset: int) -> None:  # noqa: ANN401
        """Nothing."""

    def on_message_in(self, tp: Any, offset: int, message: Any) -> None:  # noqa: ANN401
        """Nothing."""

    def on_stream_event_in(self, tp: Any, offset: int, stream: Any, event: Any) -> None:  # noqa: ANN401
        """Nothing."""

    def on_stream_event_out(self, tp: Any, offset: int, stream: Any, event: Any, state: Any = None) -> None:  # noqa: ANN401
        """Nothing."""

    def on_message_out(self, tp: Any, offset: int, message: Any) -> None:  # noqa: ANN401
        """Nothing."""


class _Worker(faust.Worker):
    """Faust's worker without its output, its debugger and its spinner."""

    def __init__(self, app: faust.App, *, loop: asyncio.AbstractEventLoop, on_signal: Callable[[], None]) -> None:
        super().__init__(app, loop=loop, quiet=True, redirect_stdouts=False, override_logging=False)
        self.spinner = None
        self._on_signal = on_signal

    def _schedule_shutdown(self, received: signal.Signals) -> None:
        self._on_signal()
        super()._schedule_shutdown(received)

    def _on_sigint(self) -> None:
        self._shutdown_immediately = True
        self._schedule_shutdown(signal.SIGINT)

    def _on_sigusr2(self) -> None:
        """No debugger in a worker."""

    def _setproctitle(self, info: str, *, ident: str = "") -> None:
        """The process keeps the name that it was started by."""


class _Watchdog(threading.Thread):
    """Ends the process from outside of the event loop: when a stop takes too long, or the loop stands still."""

    def __init__(
        self, stop_deadline_s: float, stall_timeout_s: float, die: Callable[[BaseException], NoReturn]
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._stop_deadline_s = stop_deadline_s
        self._stall_timeout_s = stall_timeout_s
        self._die = die
        self._beat_s = time.monotonic()
        self._stop_by_s: float | None = None
        self._finished = threading.Event()

    def beat(self) -> None:
        """The event loop is alive."""
        self._beat_s = time.monotonic()

    def stop_within_deadline(self) -> None:
        """The process was asked to stop; the first call counts."""
        if self._stop_by_s is None:
            self._stop_by_s = time.monotonic() + self._stop_deadline_s

    def finish(self) -> None:
        """The process ends by itself."""
        self._finished.set()

    def run(self) -> None:
        """Look twice a second."""
        while not self._finished.wait(_WATCHDOG_INTERVAL_S):
            now_s = time.monotonic()
            if self._stop_by_s is not None:
                if now_s > self._stop_by_s:
                    self._die(WorkerStalled(f"asked to stop {self._stop_deadline_s} s ago and still running"))
            elif now_s - self._beat_s > self._stall_timeout_s:
                self._die(WorkerStalled(f"the event loop did nothing for {self._stall_timeout_s} s"))


def _lag_of(app: faust.App, due: dict[int, int]) -> dict[int, int | None]:
    """By partition, records that the broker has and the engine has not, as far as the last fetch tells."""
    ends: dict[int, int | None] = {
        partition.partition: app.consumer.highwater(partition) for partition in app.consumer.assignment()
    }
    return {
        partition: None if (end := ends.get(partition)) is None else max(0, end - offset)
        for partition, offset in due.items()
    }


def _credentials(kafka: KafkaSettings) -> Any:  # noqa: ANN401 - Faust's types
    arguments = kafka.client_args()
    context = arguments.get("ssl_context")
    if kafka.security_protocol == "PLAINTEXT":
        return None
    if kafka.security_protocol == "SSL":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=arguments["sasl_plain_username"],
        password=arguments["sasl_plain_password"],
        mechanism=arguments["sasl_mechanism"],
        ssl_context=context,
    )
