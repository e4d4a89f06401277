"""Group commit: what is to be written while a write is under way goes together, as the next write."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class GroupCommit(Generic[Item]):
    """Commits items in the order of their coming, one group at a time.

    Promises: each item is committed in exactly one call of `commit`; `add` returns after that call did, or raises what
    it raised. An item that cannot be made holds up no other. Lives as long as its owner, in one event loop.
    """

    def __init__(
        self, commit: Callable[[list[Item]], Awaitable[None]], size: Callable[[Item], int], size_max: int
    ) -> None:
        """Commit nothing yet.

        Args:
            commit: writes a group.
            size: of an item.
            size_max: a group ends with the item that reaches it.

        """
        self._commit = commit
        self._size = size
        self._size_max = size_max
        self._one_at_a_time = asyncio.Lock()
        self._waiting: deque[tuple[Item, asyncio.Future[None]]] = deque()
        self._waiting_size = 0
        self._coming = 0
        self._came = asyncio.Event()

    async def add(self, making: Awaitable[Item]) -> None:
        """Commit an item, with those that others have made by then; an item that is being made is waited for."""
        self._coming += 1
        try:
            item = await making
        finally:
            self._coming -= 1
            self._came.set()
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, committed))
        self._waiting_size += self._size(item)
        async with self._one_at_a_time:
            if not committed.done():
                await self._commit_next()
        committed.result()

    async def _commit_next(self) -> None:
        while self._coming and self._waiting_size < self._size_max:
            self._came.clear()
            await self._came.wait()
        group: list[tuple[Item, asyncio.Future[None]]] = []
        size = 0
        while self._waiting and size < self._size_max:
            group.append(self._waiting.popleft())
            size += self._size(group[-1][0])
        self._waiting_size -= size
        try:
            await self._commit([item for item, _ in group])
        except Exception as error:  # noqa: BLE001 - told to everybody who waits
            for _, committed in group:
                if not committed.done():
                    committed.set_exception(error)
        except BaseException:
            for _, committed in group:
                committed.cancel()
            raise
        else:
            for _, committed in group:
                if not committed.done():
                    committed.set_result(None)
