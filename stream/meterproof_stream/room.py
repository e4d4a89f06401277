"""A bound on what is on its way to Kafka."""

import asyncio
from typing import Final

RECORDS_MAX: Final = 500
"""Log records on their way: more add memory and no throughput."""
BYTES_MAX: Final = 64 * 1024 * 1024
"""Their bytes: 32 records of the largest size."""


class Room:
    """Counts records and bytes that are not acknowledged, for all partitions of a worker together.

    Promises: `wait` returns only while both are below their bounds, so that they exceed them by one record at most.
    Lives as long as its worker, in one event loop.
    """

    def __init__(self, *, records_max: int = RECORDS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.records = 0
        self.bytes = 0
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._free = asyncio.Event()
        self._free.set()

    @property
    def is_full(self) -> bool:
        """Whether `wait` would wait."""
        return self.records >= self._records_max or self.bytes >= self._bytes_max

    async def wait(self) -> None:
        """Return when there is room for another record."""
        while self.is_full:
            self._free.clear()
            await self._free.wait()

    def take(self, size_bytes: int) -> None:
        """Count a record that is on its way from now on."""
        self.records += 1
        self.bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Count a record off that is acknowledged, or given up."""
        self.records -= 1
        self.bytes -= size_bytes
        self._free.set()
