"""What services test with: a transport that keeps batches in memory instead of sending them to Kafka."""

import asyncio


class MemoryTransport:
    """A `Transport` that acknowledges at once and keeps every batch; `refuse` makes the next sends fail.

    Lives as long as the test: it is not emptied when its meter closes.
    """

    def __init__(self, partitions: int = 4, topic: str = "usage.batches") -> None:
        self.topic = topic
        self.batches: list[tuple[int, bytes]] = []
        """(partition, value) of every batch, in order."""
        self.refuse: list[Exception] = []
        """Errors for the next sends, one each."""
        self._partitions = partitions

    async def open(self) -> int:
        """The number of partitions that was asked for."""
        return self._partitions

    async def send(self, partition: int, value: bytes) -> asyncio.Future[object]:
        """Keep the batch, or fail as asked."""
        acknowledged: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if self.refuse:
            acknowledged.set_exception(self.refuse.pop(0))
        else:
            self.batches.append((partition, value))
            acknowledged.set_result(None)
        return acknowledged

    async def close(self) -> None:
        """Nothing to disconnect."""
