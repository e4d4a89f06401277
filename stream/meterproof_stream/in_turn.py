"""Partitions one after the other, again and again, so that looking at all of them is never one long stall."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable


async def in_turn(partitions: Callable[[], Iterable[int]], interval_s: float) -> AsyncIterator[int]:
    """Each partition once in an interval, evenly spread over it, for ever.

    Args:
        partitions: those there are; asked at the beginning of each interval.
        interval_s: how long a round takes, beside what is done with each.

    """
    while True:
        these = sorted(partitions())
        for partition in these:
            await asyncio.sleep(interval_s / len(these))
            yield partition
        if not these:
            await asyncio.sleep(interval_s)
