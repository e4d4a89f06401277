"""Faust as the runtime of an engine: groups, fetching, flow control, supervision. The only module that knows it.

What Faust is trusted with is delivery of records in order within a partition, mostly. Where to start, what to do about
gaps and repeats, and when something is done is the engine's business, which asks its own output. Faust is bent in five
places, all checked at start against the one version that they were proved with:

- `Consumer.perform_seek`, which Faust calls whenever it wants to know where to start, answers from the engine and never
  from a committed offset. (A seek made inside an agent is not safe: Faust then drops what is read again.)
- `Consumer.getmany` hands out what was fetched of a partition in bundles: to Faust a bundle is one record, which stands
  where the bundle's last one does. So what Faust does for a record, it does for many.
- `Consumer._filter_committable_offsets` commits how far the engine has acknowledged, which only displays depend on.
- `Consumer.commit_and_end_transactions`, by which it ends, commits also where an earlier commit is still under way.
- `Consumer.wait_first` runs the delivery of a bundle in place instead of in four tasks, and brakes at `QUEUE_HIGH`
  bundles, far below the line where Faust's fetcher sleeps a whole second.
"""

import asyncio
import contextlib
import functools
import importlib.metadata
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Final

import faust
import faust.streams
from faust.sensors.monitor import Monitor
from faust.tables.manager import TableManager
from faust.transport.conductor import Conductor
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, Message

from meterproof.exit_codes import CLEAN, UNEXPECTED
from meterproof.kafka import tolerant
from meterproof.kafka.settings import KafkaSettings
from meterproof_stream.driver import Driver
from meterproof_stream.engine import Delivered, Feeder, in_pieces
from meterproof_stream.errors import FaustChanged, TopicUnfit

tolerant.apply()

FAUST_VERSION: Final = "0.15.3"
"""The version that the overrides were proved with."""
QUEUE_HIGH: Final = 4
"""Bundles in the agent's queue above which no more are put in."""
QUEUE_LOW: Final = 2
"""Bundles in the agent's queue below which it is filled again."""
BUNDLE_BYTES_MAX: Final = 256 * 1024
"""Records of one bundle are no larger in sum, unless it is one alone."""
_POLL_RECORDS_MAX: Final = 500
_LOG_APPEND_TIME: Final = 1


class FaustDriver(Driver):
    """Runs an engine as one Faust app with one agent.

    Promises what every driver promises. Lives once: `run`, then the process ends.
    """

    def _prepare(self) -> None:
        check_faust()
        self._queue: Any = None
        self._acknowledged: dict[int, int] = {}
        """By partition taken over: the offset behind the last record that the engine has acknowledged."""
        self._drained = asyncio.Event()
        self._app = self._make_app()

    def _drive(self, loop: asyncio.AbstractEventLoop) -> int:
        worker = _Worker(
            self._app,
            loop=loop,
            on_signal=self._asked_to_stop,
            on_handlers=self._watchdog.note_signals,
            on_crash=self._crashed,
        )
        code = UNEXPECTED
        try:
            worker.execute_from_commandline()  # always ends by raising
        except SystemExit as end:
            code = CLEAN if end.code in {None, 0} else UNEXPECTED
        except BaseException as error:  # noqa: BLE001 - Faust's own crash
            self.die(error)
        return code

    def _crashed(self, reason: BaseException) -> None:
        """A part of Faust failed: stopping all others in order could acknowledge something, and has hung."""
        if self._state != "stopping":
            self.die(reason)

    def _ends(self) -> dict[int, int | None]:
        consumer = self._app.consumer
        return {partition.partition: consumer.highwater(partition) for partition in consumer.assignment()}

    # --- the app ---------------------------------------------------------------------------------------------------

    def _make_consumer(self) -> type[driver.Consumer]:
        this = self

        class Consumer(driver.Consumer):
            async def perform_seek(self) -> None:
                await this._seek(self)

            async def wait_first(self, *waited: Any, timeout: Any = None) -> Any:  # noqa: ANN401, ASYNC109 - as in mode
                if len(waited) == 2 and timeout is None and _is_delivery(waited[0]):
                    return await this._deliver(super().wait_first, *waited)
                return await super().wait_first(*waited, timeout=timeout)

            async def getmany(self, timeout: float) -> AsyncIterator[Any]:  # noqa: ASYNC109 - as in Faust
                records, active = await self._wait_next_records(timeout)
                generation = this._app.consumer_generation_id
                if records is None or active is None or self.should_stop:
                    return
                if not self.flow_active:  # what was fetched is thrown away, so it must be fetched again
                    with contextlib.suppress(Exception):  # as Faust does; the flow begins with another one
                        await self.perform_seek()
                    return
                for place, fetched in records.items():
                    for bundle in in_pieces(fetched, BUNDLE_BYTES_MAX):
                        flows: bool = self.flow_active  # may have ended while this was suspended
                        if not flows or this._app.consumer_generation_id != generation:
                            return
                        if place in active or place in self._buffered_partitions:
                            yield place, _Bundle(place, bundle, generation)

            def _filter_committable_offsets(self, _: Any) -> dict[Any, int]:  # noqa: ANN401 - Faust's partitions
                acknowledged = {TP(this._topic, partition): end for partition, end in this._acknowledged.items()}
                return {place: end for place, end in acknowledged.items() if self._should_commit(place, end)}

            async def commit_and_end_transactions(self) -> None:
                """Commit also where a commit is under way, with which Faust is content: it began before the end."""
                under_way = self._commit_fut is not None
                await self.commit(start_new_transaction=False)
                if under_way:
                    await self.commit(start_new_transaction=False)

            async def _add_gap(self, *_: object) -> None:
                """Offsets that hold no record need no acknowledgement here."""

        return Consumer

    def _make_app(self) -> faust.App:
        this = self

        class Transport(driver.Transport):
            pass

        Transport.Consumer = self._make_consumer()

        class App(faust.App):
            def _new_transport(self) -> Any:  # noqa: ANN401 - Faust's protocol
                return Transport(self.conf.broker_consumer, self)

        settings, kafka = self._settings, self._kafka
        folder = settings.data_dir / "cache" / settings.instance
        folder.mkdir(parents=True, exist_ok=True)
        app = App(
            self._group,
            broker=[f"kafka://{address.strip()}" for address in kafka.bootstrap.split(",")],
            broker_credentials=_credentials(kafka),
            broker_client_id=f"{kafka.client_id}-{self._worker}",
            consumer_group_instance_id=settings.instance,
            broker_session_timeout=settings.session_timeout_s,
            broker_heartbeat_interval=settings.heartbeat_interval_s,
            broker_request_timeout=max(40, settings.session_timeout_s + 10),
            broker_rebalance_timeout=20,
            broker_max_poll_interval=1000,
            broker_max_poll_records=_POLL_RECORDS_MAX,
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
            TableManager=_NoTables,
        )
        if app.topics.on_message.__name__ != _DELIVERY:
            raise FaustChanged(f"Faust delivers records by {app.topics.on_message.__name__!r}, not by {_DELIVERY!r}")
        source = app.topic(self._topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

        async def take(stream: Any) -> None:  # noqa: ANN401 - a Faust stream
            await this._take(stream)

        app.agent(source, concurrency=1, name=f"meterproof_stream.{self._worker}")(take)

        @app.on_rebalance_complete.connect
        async def on_rebalance_complete(*_: object, **__: object) -> None:
            # The only place without a time limit, and with heartbeats going on. Faust would log an error and go on.
            await this._take_over(
                lambda: ([partition.partition for partition in app.consumer.assignment()], app.consumer_generation_id)
            )
            this._acknowledged = this._engine.next_offsets()

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
        """The agent: hands the engine the records of one bundle after the other."""
        self._queue = queue = stream.channel.queue
        drained, die = self._drained, self.die
        feeder = Feeder(self._engine)
        async for event in stream.noack().events():
            try:
                bundle = event.message
                generation = self._generation
                if queue.qsize() < QUEUE_LOW:
                    drained.set()
                if bundle.generation_id != generation:
                    continue  # left over from before a rebalance
                for together in feeder.cut(self._delivered(bundle)):
                    if self._generation != generation:  # a rebalance has begun meanwhile
                        break
                    await feeder.feed(bundle.partition, together)
                    await asyncio.sleep(0)  # deliveries and heartbeats go on
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - before any clean-up of Faust's can acknowledge
                die(error)

    def _delivered(self, bundle: "_Bundle") -> list[Delivered]:
        partition, acknowledge = bundle.partition, self._acknowledge
        delivered: list[Delivered] = []
        for record in bundle.records:
            if record.timestamp_type != _LOG_APPEND_TIME:
                raise TopicUnfit(self._topic)
            offset = record.offset
            done = functools.partial(acknowledge, partition, offset + 1)
            delivered.append(Delivered(offset, record.value, record.timestamp, done))
        return delivered

    def _acknowledge(self, partition: int, end: int) -> None:
        self._acknowledged[partition] = end

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
            if queue is not None and queue.qsize() >= QUEUE_HIGH:
                drained.clear()
                return await wait_first(drained.wait(), suspended)
            suspended.close()
            return None
        return await wait_first(_finish(delivery, awaited), suspended)


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
    if _DELIVERY not in handler_names or not {"wait_first", "getmany", "_add_gap"} <= set(drain):
        raise FaustChanged("Faust delivers records in another way than this driver was proved with")


_DELIVERY: Final = "on_message"
"""Name of the coroutine that Faust's conductor makes of a record."""


def _is_delivery(waited: object) -> bool:
    code = getattr(waited, "cr_code", None)
    return code is not None and code.co_name == _DELIVERY


class _Bundle(Message):
    """Records of one partition, in order, as one message for Faust, which is not told of their acknowledgement.

    Lives from the fetch until the agent has fed it.
    """

    __slots__ = ("records",)

    def __init__(self, place: Any, records: Sequence[Any], generation: int) -> None:  # noqa: ANN401 - Faust's partition
        last = records[-1]
        super().__init__(
            place.topic,
            place.partition,
            last.offset,
            last.timestamp / 1000,
            last.timestamp_type,
            headers=None,
            key=None,
            value=None,
            checksum=None,
            tp=place,
            generation_id=generation,
        )
        self.records = records
        """As the client library hands them out."""


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


class _NoTables(TableManager):
    """Faust waits a second for tables to be added before it starts; there are none."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class _Worker(faust.Worker):
    """Faust's worker without its output, its debugger and its spinner, and without waiting for nothing at its end."""

    def __init__(
        self,
        app: faust.App,
        *,
        loop: asyncio.AbstractEventLoop,
        on_signal: Callable[[], None],
        on_handlers: Callable[[], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        super().__init__(app, loop=loop, quiet=True, redirect_stdouts=False, override_logging=False)
        self.spinner = None
        self._on_signal = on_signal
        self._on_handlers = on_handlers
        self._on_crash = on_crash

    def install_signal_handlers(self) -> None:
        super().install_signal_handlers()
        self._on_handlers()

    def _schedule_shutdown(self, received: signal.Signals) -> None:
        self._on_signal()
        super()._schedule_shutdown(received)

    def _crash(self, reason: BaseException) -> None:
        self._on_crash(reason)
        super()._crash(reason)

    def _on_sigint(self) -> None:
        self._shutdown_immediately = True
        self._schedule_shutdown(signal.SIGINT)

    def _gather_all(self) -> None:
        """All services have stopped: what is left of tasks is nobody's. Faust waits up to a second for them."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))

    async def _sentinel_task(self) -> None:
        """Faust lets another second pass here."""

    def _on_sigusr2(self) -> None:
        """No debugger in a worker."""

    def _setproctitle(self, info: str, *, ident: str = "") -> None:
        """The process keeps the name that it was started by."""


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
