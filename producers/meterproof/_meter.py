"""`Meter`: records usage events, signs them in batches and hands them to Kafka."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, Unpack

from meterproof._document import UsageFields, event_line, spelled_usage, time_us_of
from meterproof._series import Series
from meterproof._transport import Transport
from meterproof.deployment import DataFolder
from meterproof.errors import BufferFull, DeliveryFailed, MeterClosed, WrongPartitionCount
from meterproof.keys import ProducerKey
from meterproof.settings import MeterSettings, from_variables
from meterproof_schemas.correction import check_correction, correction_line
from meterproof_schemas.event import parse_event
from meterproof_schemas.limits import (
    BATCH_BYTES_MAX,
    HEADER_LINE_BYTES_MAX,
    SIGNATURES_LINE_BYTES_MAX,
)
from meterproof_schemas.partitioner import partition_of

_LINES_BYTES_MAX: Final = BATCH_BYTES_MAX - HEADER_LINE_BYTES_MAX - SIGNATURES_LINE_BYTES_MAX
"""What the lines of one batch may add up to, so that any header and signatures still fit."""


def system_clock_us() -> int:
    """The system's clock in microseconds since 1970."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class _Open:
    """Events of one partition that are not sealed yet."""

    series: Series
    lines: list[bytes] = field(default_factory=list)
    bytes: int = 0


@dataclass(slots=True, eq=False)
class _Sealed:
    """A batch that is not acknowledged yet."""

    partition: int
    value: bytes
    events: int


class Meter:
    """Records usage events for one service.

    Promises: `record` validates with the sequencer's own rules and raises at the call; every event recorded is signed
    once, in order per partition; `flush` returns when Kafka has acknowledged everything recorded before it. What is
    recorded and not acknowledged when the process dies is lost: call `flush` where that matters. Lives from `open` (or
    `async with`) to `close`, within one event loop; a new meter is a new instance with its own series.
    """

    def __init__(
        self,
        settings: MeterSettings,
        transport: Transport,
        *,
        key: ProducerKey | None = None,
        clock_us: Callable[[], int] = system_clock_us,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._key = key or ProducerKey.load(settings.key_file)
        self._clock_us = clock_us
        self._random_bytes = random_bytes
        self.instance = random_bytes(16).hex()
        """Random per meter; names its series in batch headers."""
        self._partitions: list[_Open] = []
        self._waiting: dict[_Sealed, None] = {}
        self._failed: dict[_Sealed, str] = {}
        self._buffered = 0
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._order = asyncio.Lock()

    @classmethod
    def from_env(cls) -> "Meter":
        """A meter set up by `METERPROOF_…` and `METERPROOF_KAFKA_…` variables.

        On the machine of a `meterproof up`, `METERPROOF_DATA_DIR` stands for the variables that say where Kafka is and
        what the deployment is called; a variable that says where Kafka is comes first.

        Raises:
            InvalidKey: the key file is missing or faulty.
            NoDeployment: the data folder holds no deployment.
            InvalidSettings: variables are missing or faulty; the text names them.
        """
        # Kafka's client is loaded when a meter is made, not when `meterproof` is imported.
        from meterproof._kafka_transport import KafkaTransport  # noqa: PLC0415
        from meterproof.kafka.settings import KafkaSettings  # noqa: PLC0415

        data_dir = os.environ.get("METERPROOF_DATA_DIR")
        if data_dir is None:
            return cls(from_variables(MeterSettings), KafkaTransport(from_variables(KafkaSettings)))
        folder = DataFolder(Path(data_dir))
        there = folder.deployment()
        settings = from_variables(MeterSettings, deployment=there.deployment, partitions=there.partitions)
        from_variables(KafkaSettings)  # names the variables that are faulty
        return cls(settings, KafkaTransport(folder.kafka_settings()))

    async def open(self) -> Self:
        """Connect.

        Raises:
            WrongPartitionCount: the topic has another number of partitions than `settings.partitions`.
        """
        count = await self._transport.open()
        if self._settings.partitions not in {None, count}:
            await self._transport.close()
            message = (
                f"{self._transport.topic} has {count} partitions, this service was set up for "
                f"{self._settings.partitions}; correct METERPROOF_PARTITIONS"
            )
            raise WrongPartitionCount(message)
        self._partitions = [
            _Open(
                Series(
                    audience=self._settings.deployment,
                    topic=self._transport.topic,
                    partition=partition,
                    producer=self._settings.producer,
                    instance=self.instance,
                    key=self._key,
                )
            )
            for partition in range(count)
        ]
        return self

    async def record(
        self,
        *,
        agent: str,
        customer: str,
        usage: Mapping[str, int | str | Decimal],
        id: str | None = None,  # noqa: A002 - the event's own field
        time: datetime | None = None,
        source: str | None = None,
        **fields: Unpack[UsageFields],
    ) -> str:
        """Record one event and return its id.

        The same `id` from the same `source` counts once, so a retry passes the id of the first try. `time` defaults to
        now, `source` to the settings'.

        Raises:
            InvalidEvent: the event breaks a rule of the contract; nothing is recorded.
            BufferFull: too much waits for Kafka; nothing is recorded.
            MeterClosed: the meter is not open.
        """
        event_id = self._random_bytes(16).hex() if id is None else id
        await self.record_line(
            self.line(agent=agent, customer=customer, usage=usage, id=event_id, time=time, source=source, **fields)
        )
        return event_id

    def line(
        self,
        *,
        agent: str,
        customer: str,
        usage: Mapping[str, int | str | Decimal],
        id: str | None = None,  # noqa: A002 - the event's own field
        time: datetime | None = None,
        source: str | None = None,
        **fields: Unpack[UsageFields],
    ) -> bytes:
        """The line that `record` would record, for `record_line`; whoever keeps it can `void` or `replace` the event.

        Raises:
            InvalidEvent: `malformed_event` for a value that has no spelling in the contract, like a float.
        """
        return event_line(
            event_id=self._random_bytes(16).hex() if id is None else id,
            source=source or self._settings.source,
            agent=agent,
            customer=customer,
            usage=usage,
            time_us=self._clock_us() if time is None else time_us_of(time),
            salt=self._random_bytes(16),
            fields=fields,
        )

    async def void(self, line: bytes, *, id: str | None = None) -> str:  # noqa: A002 - the event's own field
        """Take an earlier event back, of which this is the line: every total is as if it had never been recorded.

        Both stay in the log. It must come within the horizon of the event's time, and an event can be corrected once.
        Where the line was not kept, the audit folder has it. Returns the id of the correction; a retry passes it.

        Raises:
            InvalidEvent: the line is not that of an event that can be corrected; nothing is recorded.
            BufferFull: too much waits for Kafka; nothing is recorded.
            MeterClosed: the meter is not open.
        """
        return await self._correct(line, "void", None, id)

    async def replace(
        self,
        line: bytes,
        *,
        usage: Mapping[str, int | str | Decimal],
        id: str | None = None,  # noqa: A002 - the event's own field
    ) -> str:
        """Put other quantities of the same meters in the place of an earlier event's, of which this is the line.

        To put anything else right, `void` the event and record it anew. Otherwise as `void`.

        Raises:
            InvalidEvent: the line is not that of an event that can be corrected so; nothing is recorded.
            BufferFull: too much waits for Kafka; nothing is recorded.
            MeterClosed: the meter is not open.
        """
        return await self._correct(line, "replace", usage, id)

    async def _correct(
        self,
        line: bytes,
        kind: Literal["void", "replace"],
        usage: Mapping[str, int | str | Decimal] | None,
        event_id: str | None,
    ) -> str:
        correction_id = self._random_bytes(16).hex() if event_id is None else event_id
        spelled = None if usage is None else spelled_usage(usage)
        correction = correction_line(
            line, correction_id=correction_id, kind=kind, salt=self._random_bytes(16).hex(), usage=spelled
        )
        check_correction(parse_event(correction), correction)
        await self.record_line(correction)
        return correction_id

    async def record_line(self, line: bytes) -> None:
        """Record one event that is already a line of the contract, verbatim.

        Raises:
            InvalidEvent: the line breaks a rule of the contract; nothing is recorded.
            BufferFull: too much waits for Kafka; nothing is recorded.
            MeterClosed: the meter is not open.
        """
        event = parse_event(line)
        if not self._partitions:
            message = "the meter is not open; use `async with meter` or `await meter.open()`"
            raise MeterClosed(message)
        if self._buffered >= self._settings.buffer_events_max:
            await self._room()
        pending = self._partitions[partition_of(event.subject, len(self._partitions))]
        if pending.bytes + len(line) + 1 > _LINES_BYTES_MAX:
            self._seal(pending)
        pending.lines.append(line)
        pending.bytes += len(line) + 1
        self._buffered += 1
        if len(pending.lines) >= self._settings.batch_lines_max:
            self._seal(pending)
            # Signing a full batch takes long enough that others deserve a turn, the sender among them.
            await asyncio.sleep(0)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._settings.flush_interval_s, self._on_timer)

    async def flush(self) -> None:
        """Return when Kafka has acknowledged every event recorded before the call.

        Raises:
            DeliveryFailed: Kafka refused batches; they are kept and sent again by the next `flush`.
            MeterClosed: the meter is not open.
        """
        if not self._partitions:
            message = "the meter is not open"
            raise MeterClosed(message)
        self._seal_all()
        again, self._failed = self._failed, {}
        for batch in again:
            self._send(batch)
        mine = set(self._waiting)
        while mine & self._waiting.keys():
            self._changed.clear()
            await self._changed.wait()
        failed = {batch: cause for batch, cause in self._failed.items() if batch in mine}
        if failed:
            raise DeliveryFailed(len(failed), sum(batch.events for batch in failed), next(iter(failed.values())))

    async def close(self) -> None:
        """Flush, then disconnect. Disconnects also when the flush fails, and then raises its error."""
        if not self._partitions:
            return
        try:
            await self.flush()
        finally:
            self._partitions = []
            if self._timer is not None:
                self._timer.cancel()
            await self._transport.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def buffered(self) -> int:
        """Events recorded and not yet acknowledged."""
        return self._buffered

    async def _room(self) -> None:
        """Wait until an acknowledgement makes room."""
        self._seal_all()
        try:
            async with asyncio.timeout(self._settings.room_timeout_s):
                while self._buffered >= self._settings.buffer_events_max:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise BufferFull(self._buffered, self._settings.room_timeout_s) from None

    def _on_timer(self) -> None:
        self._timer = None
        self._seal_all()

    def _seal_all(self) -> None:
        for pending in self._partitions:
            if pending.lines:
                self._seal(pending)

    def _seal(self, pending: _Open) -> None:
        lines, pending.lines, pending.bytes = pending.lines, [], 0
        self._send(_Sealed(pending.series.partition, pending.series.seal(lines, self._clock_us()), len(lines)))

    def _send(self, batch: _Sealed) -> None:
        self._waiting[batch] = None
        task = asyncio.get_running_loop().create_task(self._deliver(batch))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _deliver(self, batch: _Sealed) -> None:
        try:
            # The lock is fair, so batches are handed over in the order in which they were sealed.
            async with self._order:
                acknowledged = await self._transport.send(batch.partition, batch.value)
            await acknowledged
        except Exception as error:  # noqa: BLE001 - every cause is reported by flush, none is lost
            self._failed[batch] = f"{type(error).__name__}: {error}"
        else:
            self._buffered -= batch.events
        finally:
            del self._waiting[batch]
            self._changed.set()
