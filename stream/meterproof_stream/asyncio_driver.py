"""Plain asyncio as the runtime of an engine: one loop over one group reader."""

import asyncio
import contextlib
import functools
import signal
import time
from collections.abc import Mapping
from typing import Final

import structlog

from meterproof.exit_codes import CLEAN
from meterproof.kafka.errors import KafkaProblem
from meterproof.kafka.group_reader import GroupReader
from meterproof.kafka.reader import Record
from meterproof_stream.driver import Driver
from meterproof_stream.engine import Delivered, Feeder
from meterproof_stream.errors import TopicUnfit

_POLL_S: Final = 1.0
_POLL_RECORDS_MAX: Final = 200
_TURN_S: Final = 0.01
"""How long records are fed without a turn of the event loop, in which deliveries and heartbeats go on."""
_COMMIT_INTERVAL_S: Final = 1.0
_LAST_COMMIT_S: Final = 2.0

_log: Final = structlog.get_logger("meterproof.worker")


class AsyncioDriver(Driver):
    """Runs an engine in one task: poll, feed, and the take-over between two polls.

    Promises what every driver promises. Lives once: `run`, then the process ends.
    """

    def _prepare(self) -> None:
        self._reader = GroupReader(
            self._kafka,
            self._topic,
            self,
            group=self._group,
            instance=self._settings.instance,
            session_timeout_s=self._settings.session_timeout_s,
            heartbeat_interval_s=self._settings.heartbeat_interval_s,
        )
        self._feeder = Feeder(self._engine)
        self._acknowledged: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._feeding = asyncio.Lock()
        self._stopping = asyncio.Event()

    def _drive(self, loop: asyncio.AbstractEventLoop) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        self._watchdog.note_signals()
        try:
            loop.run_until_complete(self._run())
        except BaseException as error:  # noqa: BLE001 - nothing else may be acknowledged
            self.die(error)
        return CLEAN

    def _asked_to_stop(self) -> None:
        super()._asked_to_stop()
        self._stopping.set()

    async def _run(self) -> None:
        """From the join to the end.

        1. Records are fed until a signal.
        2. The record that is being fed is finished. A poll is cancelled, and with it a take-over.
        3. The engine makes durable what it took; the group is told how far that is, and left.
        """
        await self._reader.start()
        consuming = asyncio.create_task(self._consume())
        committing = asyncio.create_task(self._commit_for_ever())
        await self._stopping.wait()  # 1
        async with self._feeding:  # 2
            consuming.cancel()
            committing.cancel()
        await asyncio.wait([consuming, committing])
        await self._stop_engine()  # 3
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_COMMIT_S):
                await self._commit()
        await self._reader.stop()

    async def _consume(self) -> None:
        try:
            while True:
                chunks = await self._reader.poll(_POLL_S, _POLL_RECORDS_MAX)
                async with self._feeding:
                    for partition, records in chunks.items():
                        await self._feed(partition, records)
                await asyncio.sleep(0)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and self._stopping.is_set():
                raise
            self.die(error)  # at once, before another task can acknowledge

    async def _feed(self, partition: int, records: list[Record]) -> None:
        reader, acknowledge = self._reader, self._acknowledge
        delivered: list[Delivered] = []
        for record in records:
            if not record.append_time:
                raise TopicUnfit(self._topic)
            done = functools.partial(acknowledge, partition, record.offset)
            delivered.append(Delivered(record.offset, record.value, record.timestamp_ms, done))
        turn_by_s = time.monotonic() + _TURN_S
        for together in self._feeder.cut(delivered):
            if self._stopping.is_set() or partition not in reader.held:
                return
            await self._feeder.feed(partition, together)
            if time.monotonic() > turn_by_s:
                await asyncio.sleep(0)
                turn_by_s = time.monotonic() + _TURN_S

    def _acknowledge(self, partition: int, offset: int) -> None:
        self._acknowledged[partition] = offset + 1

    # --- as owner of the group reader -------------------------------------------------------------------------------

    async def on_assigned(self, partitions: frozenset[int], generation: int) -> Mapping[int, int]:
        """Let the engine take over; reading goes on where it says."""
        await self._take_over(lambda: (partitions, generation))
        due = self._engine.next_offsets()
        self._acknowledged, self._committed = dict(due), {}
        return due

    async def on_revoked(self, partitions: frozenset[int]) -> None:
        """Let the engine give up."""
        await self._revoke(partitions)

    def _ends(self) -> dict[int, int | None]:
        return {partition: self._reader.end(partition) for partition in self._reader.held}

    # --- for displays of lag ----------------------------------------------------------------------------------------

    async def _commit_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_COMMIT_INTERVAL_S)
            await self._commit()

    async def _commit(self) -> None:
        """Tell the group what was acknowledged since the last time."""
        told = dict(self._acknowledged)
        if told == self._committed:
            return
        try:
            if await self._reader.commit(told):
                self._committed = told
        except KafkaProblem as error:
            _log.warning("offsets_uncommitted", error=str(error))
