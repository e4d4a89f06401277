"""`TopicReader`: the records of all partitions of a topic, without a consumer group."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Self

import aiokafka.errors
from aiokafka import AIOKafkaConsumer, TopicPartition

from meterproof.kafka.connection import start_client, translated, translating
from meterproof.kafka.errors import OffsetBeyondEnd, OffsetTrimmed
from meterproof.kafka.reader import FETCH_BYTES_MAX, Record
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_descriptions import partitions_of
from meterproof.kafka.topic_ids import topic_id

CHUNK_RECORDS_MAX: Final = 4_000
"""Records that one poll hands out, over all partitions."""
_FETCH_WAIT_MS: Final = 250
_BOUNDED_POLL_S: Final = 0.05
"""Compaction may leave a partition's end without a record, so a bounded read looks at positions this often."""
_LOG_APPEND_TIME: Final = 1


class TopicReader:
    """Follows every partition of a topic with one connection per broker: no group, no commits.

    Promises: records of one partition come in the order of their offsets, each once after a `seek`, read uncommitted; a
    poll returns as soon as there is a record. Offsets that are gone raise. It outlives a broker's restart. Lives from
    `start` (or `async with`) to `stop`; one task uses it.
    """

    def __init__(self, settings: KafkaSettings, topic_name: str) -> None:
        self.partitions = 0
        """How many the topic has; known from `start` on."""
        self._settings = settings
        self._topic = topic_name
        self._consumer: Any = None

    async def start(self) -> None:
        """Connect; the next poll begins at the first record of each partition.

        Raises:
            BrokerUnreachable: no broker answers.
            AccessDenied: the brokers refuse the credentials.
            TopicMissing: there is no such topic.
        """
        self.partitions = await partitions_of(self._settings, self._topic)
        consumer = AIOKafkaConsumer(
            **self._settings.client_args(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_uncommitted",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_partition_fetch_bytes=FETCH_BYTES_MAX,
        )
        await start_client(self._settings, consumer)
        try:
            places = [TopicPartition(self._topic, partition) for partition in range(self.partitions)]
            consumer.assign(places)
            with translating(self._settings):
                for place, start in (await consumer.beginning_offsets(places)).items():
                    consumer.seek(place, start)
        except BaseException:
            await consumer.stop()
            raise
        self._consumer = consumer

    async def stop(self) -> None:
        """Disconnect; harmless when repeated."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def bounds(self) -> dict[int, tuple[int, int]]:
        """By partition: offset of the first record, and the one that the next record will get.

        Raises:
            KafkaProblem: the brokers do not answer or deny access.
        """
        places = [TopicPartition(self._topic, partition) for partition in range(self.partitions)]
        with translating(self._settings):
            starts = await self._consumer.beginning_offsets(places)
            ends = await self._consumer.end_offsets(places)
        return {place.partition: (starts[place], ends[place]) for place in places}

    async def topic_id(self) -> bytes | None:
        """The id that the topic was given when it was created; None if it was deleted.

        Raises:
            KafkaProblem: the brokers do not answer or deny access.
        """
        with translating(self._settings):
            return await topic_id(self._consumer._client, self._topic)  # noqa: SLF001 - no public way

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Let the next poll go on at these offsets; partitions that are not named go on where they are."""
        for partition, offset in offsets.items():
            self._consumer.seek(TopicPartition(self._topic, partition), offset)

    async def position(self, partition: int) -> int:
        """The offset that the next poll goes on at: behind everything handed out and every hole passed."""
        offset: int = await self._consumer.position(TopicPartition(self._topic, partition))
        return offset

    async def poll(self, max_wait_s: float, max_records: int = CHUNK_RECORDS_MAX) -> dict[int, list[Record]]:
        """The next records by partition; empty if none came in time. Safe to cancel.

        Raises:
            OffsetTrimmed: a partition begins behind what is to be read next.
            OffsetBeyondEnd: a partition was truncated or re-created.
            KafkaProblem: the brokers deny access.
        """
        try:
            chunks = await self._consumer.getmany(timeout_ms=max(1, round(max_wait_s * 1000)), max_records=max_records)
        except aiokafka.errors.OffsetOutOfRangeError as error:
            await self._must_hold(error.args[0])
            return {}  # out of range a moment ago and not any more
        except aiokafka.errors.KafkaError as error:
            raise translated(self._settings, error) from error
        return {
            place.partition: [
                Record(one.offset, one.timestamp, one.timestamp_type == _LOG_APPEND_TIME, one.key, one.value)
                for one in records
            ]
            for place, records in chunks.items()
        }

    async def _must_hold(self, offsets: Mapping[TopicPartition, int]) -> None:
        bounds = await self.bounds()
        for place, offset in offsets.items():
            start, end = bounds[place.partition]
            if offset < start:
                raise OffsetTrimmed(self._topic, place.partition, offset, start)
            if offset > end:
                raise OffsetBeyondEnd(self._topic, place.partition, offset, end)

    async def read_until(self, bounds: Mapping[int, tuple[int, int]]) -> AsyncIterator[tuple[int, Record]]:
        """Records with their partitions, from where this reader is to these bounds' ends; there the next poll goes on.

        Raises:
            KafkaProblem: see `poll`.
        """
        behind = {partition for partition, (start, end) in bounds.items() if start < end}
        while behind:
            for partition, records in (await self.poll(_BOUNDED_POLL_S)).items():
                for record in records:
                    if record.offset < bounds[partition][1]:
                        yield partition, record
            for partition in list(behind):
                if await self.position(partition) >= bounds[partition][1]:
                    behind.discard(partition)
            await asyncio.sleep(0)  # a poll of what was fetched ahead does not let others run
        self.seek({partition: end for partition, (_, end) in bounds.items()})
