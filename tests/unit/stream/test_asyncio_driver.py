"""The task that feeds never ends in silence."""

import asyncio
from typing import Any, NoReturn

import pytest

from meterproof_stream.asyncio_driver import AsyncioDriver


class Died(Exception):
    pass


class Cancelled:
    """A reader below which a task was cancelled that is not ours, as a client library may do when it closes."""

    async def poll(self, _wait_s: float, _records: int) -> NoReturn:
        raise asyncio.CancelledError


def driver(reader: Any) -> AsyncioDriver:
    made = AsyncioDriver.__new__(AsyncioDriver)
    made._reader, made._stopping, made._feeding = reader, asyncio.Event(), asyncio.Lock()

    def die(error: BaseException) -> NoReturn:
        raise Died from error

    made.die = die  # type: ignore[method-assign]  # the real one ends this process
    return made


async def test_a_cancellation_that_nobody_asked_for_ends_the_process() -> None:
    with pytest.raises(Died):
        await driver(Cancelled())._consume()


async def test_the_cancellation_of_a_stop_is_no_failure() -> None:
    stopping = driver(Cancelled())
    stopping._stopping.set()
    with pytest.raises(asyncio.CancelledError):
        await stopping._consume()
