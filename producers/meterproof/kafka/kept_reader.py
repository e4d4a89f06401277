"""`KeptReader`: looks at a topic now and then, over one connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings

_FETCH_WAIT_S: Final = 0.01
"""A look at the newest record leaves a request behind that waits for more, and the next look for its answer."""


class KeptReader:
    """A `PartitionReader` that stays connected between its uses, since to connect costs more than to look.

    Promises: one user at a time has it, the others wait; after an error the next one gets a new connection. Connected
    from its first use to `stop`.
    """

    def __init__(self, settings: KafkaSettings, topic_name: str) -> None:
        self._settings = settings
        self._topic = topic_name
        self._reader: PartitionReader | None = None
        self._turn = asyncio.Lock()
        self._left = False
        """Nobody wants it any more, but for the one who has it."""

    @asynccontextmanager
    async def of(self, partition: int) -> AsyncIterator[PartitionReader]:
        """The reader, for bounds and single records of this partition.

        Raises:
            BrokerUnreachable: no broker answers.
            AccessDenied: the brokers refuse the credentials.
            TopicMissing: there is no such topic or partition.
        """
        async with self._turn:
            self._left = False
            try:
                if self._reader is None:
                    reader = PartitionReader(
                        self._settings, self._topic, partition, fetch_bytes_max=1, fetch_wait_s=_FETCH_WAIT_S
                    )
                    await reader.start()
                    self._reader = reader
                else:
                    self._reader.turn_to(partition)
                yield self._reader
            except BaseException:
                await self._disconnect()
                raise
            if self._left:
                await self._disconnect()

    async def stop(self) -> None:
        """Disconnect, until the next use; whoever has the reader just now keeps it to the end of this one."""
        self._left = True
        if not self._turn.locked():
            await self._disconnect()

    async def _disconnect(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.stop()
