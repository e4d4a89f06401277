"""Closing a consumer while a fetch waits to be tried again, or just after it was started.

The library's fetcher cancels the fetches that are under way and awaits them, and its coordinator a task that may not
have begun; so they raise their CancelledError in whoever closes them, who nobody cancelled: a task that ends by that
ends in silence. `apply` replaces these methods by ones whose only CancelledError is the caller's own, and behind which
the rest of the consumer is closed too.
"""

import asyncio
from typing import Any, Final

from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import NoGroupCoordinator

_library_close: Final = Fetcher.close


def apply() -> None:
    """Make every consumer of this process close so; harmless when repeated."""
    Fetcher.close = close
    NoGroupCoordinator.close = close_coordinator


async def close(fetcher: Any) -> None:  # noqa: ANN401 - the library's, without types
    """End a fetcher and all that it started."""
    pending, fetcher._pending_tasks = fetcher._pending_tasks, set()  # noqa: SLF001 - what the library would await
    await _library_close(fetcher)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)


async def close_coordinator(coordinator: Any) -> None:  # noqa: ANN401 - the library's, without types
    """End the coordinator of a consumer without a group."""
    task = coordinator._reset_committed_task  # noqa: SLF001 - what the library would await
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
