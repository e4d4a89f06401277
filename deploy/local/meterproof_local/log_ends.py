"""Where the source topic and the logs end: what "everything has arrived" is measured against."""

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Self

from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.chain import LogChain
from meterproof_schemas.topics import Topic


@dataclass(slots=True)
class LogEnd:
    """One partition, as Kafka has it."""

    source_end: int = 0
    """The offset that the next batch will get."""
    chain: LogChain = field(default_factory=LogChain)
    """The accepted prefix of the log."""
    log_end: int = 0
    """Physical records of the log that the chain has seen."""

    @property
    def sequenced(self) -> bool:
        """Whether every batch on the source topic is answered in the log."""
        return self.chain.next_source_offset == self.source_end


class LogEnds:
    """Follows the ends of all partitions, by reading the logs themselves; trusts no worker's word.

    Lives from `async with` on; each `refresh` reads what was appended since the last one.
    """

    def __init__(self, settings: KafkaSettings, partitions: int) -> None:
        self._sources = [PartitionReader(settings, settings.topic(Topic.BATCHES), one) for one in range(partitions)]
        self._logs = [PartitionReader(settings, settings.topic(Topic.LOG), one) for one in range(partitions)]
        self.partitions = [LogEnd() for _ in range(partitions)]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for reader in (*self._sources, *self._logs):
                await stack.enter_async_context(reader)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def refresh(self) -> list[LogEnd]:
        """Look again.

        Raises:
            StageStopped: `log_diverged`: a log contradicts itself.
            KafkaProblem: the broker does not answer.
        """
        for end, source, log in zip(self.partitions, self._sources, self._logs, strict=True):
            _, end.source_end = await source.bounds()
            _, log_end = await log.bounds()
            if log_end == end.log_end:
                continue
            async for records in log.read(end.log_end, log_end):
                for record in records:
                    end.chain.offer(record.offset, record.value)
            end.log_end = log_end
        return self.partitions
