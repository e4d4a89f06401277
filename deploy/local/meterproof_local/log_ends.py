"""Where the source topic and the logs end: what "everything has arrived" is measured against."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final, Self

from meterproof.kafka.errors import BrokerUnreachable
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_ends import TopicEnds
from meterproof_schemas.chain import LogChain
from meterproof_schemas.topics import Topic

_RETRY_S: Final = 0.2


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
        self._settings = settings
        self._source_ends = TopicEnds(settings, settings.topic(Topic.BATCHES))
        self._log_ends = TopicEnds(settings, settings.topic(Topic.LOG))
        self._logs = [PartitionReader(settings, settings.topic(Topic.LOG), one) for one in range(partitions)]
        self.partitions = [LogEnd() for _ in range(partitions)]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for ends in (self._source_ends, self._log_ends):
                stack.push_async_callback(ends.stop)
            for reader in self._logs:
                await stack.enter_async_context(reader)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def refresh(self) -> list[LogEnd]:
        """Look again: at the sources first, so that what a log answers was there.

        Raises:
            StageStopped: `log_diverged`: a log contradicts itself.
            KafkaProblem: the broker does not answer within the request timeout.
        """
        source_ends, log_ends = await self._ask(self._source_ends), await self._ask(self._log_ends)
        for partition, (end, log) in enumerate(zip(self.partitions, self._logs, strict=True)):
            end.source_end, log_end = source_ends[partition], log_ends[partition]
            if log_end == end.log_end:
                continue
            async for records in log.read(end.log_end, log_end):
                for record in records:
                    end.chain.offer(record.offset, record.value)
            end.log_end = log_end
        return self.partitions

    async def _ask(self, ends: TopicEnds) -> dict[int, int]:
        limit_s = time.monotonic() + self._settings.request_timeout_s
        while True:
            try:
                return await ends.ask(range(len(self.partitions)))
            except BrokerUnreachable:
                if time.monotonic() > limit_s:
                    raise
                await asyncio.sleep(_RETRY_S)
