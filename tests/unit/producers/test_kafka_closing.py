"""A consumer that is closed while a fetch waits to be tried again: nothing of that reaches who closes it."""

import asyncio
from typing import Any

import aiokafka.consumer.fetcher
import pytest

from meterproof.kafka import closing


async def fetcher() -> Any:
    """The library's fetcher with one fetch under way, as far as its closing knows it."""
    made = aiokafka.consumer.fetcher.Fetcher.__new__(aiokafka.consumer.fetcher.Fetcher)
    made._fetch_task = asyncio.create_task(asyncio.sleep(600))
    made._pending_tasks = {asyncio.create_task(asyncio.sleep(600))}
    made._fetch_waiters = set()
    await asyncio.sleep(0)
    return made


async def test_the_library_raises_the_end_of_its_own_task() -> None:
    """If this fails the library was corrected, and `closing` is needed no more."""
    closed = await fetcher()
    with pytest.raises(asyncio.CancelledError):
        await closing._library_close(closed)


async def test_closing_ends_what_is_under_way_and_raises_nothing() -> None:
    closed = await fetcher()
    tasks = [closed._fetch_task, *closed._pending_tasks]
    await closing.close(closed)
    assert [task.cancelled() for task in tasks] == [True, True]


def test_it_is_in_force_for_every_consumer() -> None:
    import meterproof.kafka.reader  # noqa: F401 - as whoever reads does

    assert aiokafka.consumer.fetcher.Fetcher.close is closing.close
