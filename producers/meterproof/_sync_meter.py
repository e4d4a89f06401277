"""`SyncMeter`: the same meter for services without an event loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from decimal import Decimal
from types import TracebackType
from typing import Self, TypeVar, Unpack

from meterproof._document import EventFields
from meterproof._meter import Meter
from meterproof.errors import MeterClosed

_Result = TypeVar("_Result")


class SyncMeter:
    """A `Meter` behind blocking calls, with the same promises and errors; safe to use from several threads.

    Lives from `open` (or `with`) to `close`; runs its meter on one background thread of its own.
    """

    def __init__(self, make_meter: Callable[[], Meter] = Meter.from_env) -> None:
        self._make_meter = make_meter
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="meterproof-meter", daemon=True)
        self._meter: Meter | None = None

    def open(self) -> Self:
        """Connect; see `Meter.open`."""
        self._thread.start()
        try:
            self._meter = self._run(self._open())
        except BaseException:
            self._stop()
            raise
        return self

    def record(self, **event: Unpack[EventFields]) -> str:
        """Record one event and return its id; see `Meter.record`."""
        return self._run(self._opened().record(**event))

    def line(self, **event: Unpack[EventFields]) -> bytes:
        """The line that `record` would record; see `Meter.line`."""
        return self._opened().line(**event)

    def record_line(self, line: bytes) -> None:
        """Record one event that is already a line of the contract; see `Meter.record_line`."""
        self._run(self._opened().record_line(line))

    def void(self, line: bytes, *, id: str | None = None) -> str:  # noqa: A002 - the event's own field
        """Take an earlier event back; see `Meter.void`."""
        return self._run(self._opened().void(line, id=id))

    def replace(
        self,
        line: bytes,
        *,
        usage: Mapping[str, int | str | Decimal],
        id: str | None = None,  # noqa: A002 - the event's own field
    ) -> str:
        """Put other quantities in the place of an earlier event's; see `Meter.replace`."""
        return self._run(self._opened().replace(line, usage=usage, id=id))

    def flush(self) -> None:
        """Return when Kafka has acknowledged every event recorded before the call; see `Meter.flush`."""
        self._run(self._opened().flush())

    def close(self) -> None:
        """Flush, then disconnect; see `Meter.close`."""
        if self._meter is None:
            return
        try:
            self._run(self._meter.close())
        finally:
            self._meter = None
            self._stop()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _open(self) -> Meter:
        return await self._make_meter().open()

    def _opened(self) -> Meter:
        if self._meter is None:
            message = "the meter is not open; use `with SyncMeter() as meter` or `meter.open()`"
            raise MeterClosed(message)
        return self._meter

    def _run(self, coroutine: Coroutine[None, None, _Result]) -> _Result:
        future: Future[_Result] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
