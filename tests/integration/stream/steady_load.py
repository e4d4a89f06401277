"""A load beside what a test does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


@asynccontextmanager
async def steady_load(send: Callable[[], Awaitable[None]], interval_s: float) -> AsyncIterator[None]:
    """Send again and again until the end of the block, behind which nothing is under way; raises what `send` raised."""
    done = asyncio.Event()

    async def send_on() -> None:
        while not done.is_set():
            await send()
            await asyncio.sleep(interval_s)

    sending = asyncio.create_task(send_on())
    try:
        yield
    finally:
        done.set()
        await sending
