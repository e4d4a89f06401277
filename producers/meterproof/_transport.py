"""Where batches go: the seam between the meter and Kafka."""

from collections.abc import Awaitable
from typing import Protocol


class Transport(Protocol):
    """Carries sealed batches, in order per partition. Lives as long as its meter, which opens and closes it."""

    topic: str
    """Full name of the topic that batches are signed for."""

    async def open(self) -> int:
        """Connect; returns the topic's number of partitions."""

    async def send(self, partition: int, value: bytes) -> Awaitable[object]:
        """Hand over a batch; the future resolves once it is durable, or carries why it is not."""

    async def close(self) -> None:
        """Disconnect; what is not acknowledged by then is not durable."""
