"""`PartitionReader`: the records of one topic partition by their offsets, without a consumer group."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple, Self

import aiokafka.errors
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.conn import CloseReason

from meterproof.kafka.connection import admin_client, describe_topics, start_client, translated, translating
from meterproof.kafka.errors import BrokerUnreachable, OffsetBeyondEnd, OffsetTrimmed, TopicMissing
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_ids import topic_id
from meterproof_schemas.limits import RECORD_BYTES_MAX

CHUNK_RECORDS_MAX: Final = 2_000
"""Records in one chunk."""
FETCH_BYTES_MAX: Final = 2 * RECORD_BYTES_MAX
"""Bytes that one fetch returns, and so one chunk holds, unless a single batch of records is larger."""
_FETCH_WAIT_S: Final = 0.25
_BOUNDED_POLL_S: Final = 0.05
"""A marker at the very end of a partition hands out no record, so a bounded read looks at the position this often."""
_IDLE_POLL_S: Final = 1.0
_LOOKUP_S: Final = 5.0
_LOG_APPEND_TIME: Final = 1


class Record(NamedTuple):
    """One record as it stands on its partition."""

    offset: int
    timestamp_ms: int
    append_time: bool
    """Whether the broker set the timestamp when it appended; otherwise the producer claims it."""
    key: bytes | None
    value: bytes | None


class PartitionReader:
    """Reads one partition at any offset, as often as wanted: no group, no commits, no jumps.

    Promises: records come in the order of their offsets, each once per pass, also those of aborted transactions (read
    uncommitted) and those with header keys that are not UTF-8; offsets without records (transaction markers,
    compaction) are passed over; an offset outside the partition raises. It outlives a broker's restart. Lives from
    `start` (or `async with`) to `stop`; one task at a time uses it.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic_name: str,
        partition: int,
        *,
        fetch_bytes_max: int = FETCH_BYTES_MAX,
        fetch_wait_s: float = _FETCH_WAIT_S,
    ) -> None:
        """Describe a reader.

        Args:
            settings: how the brokers are reached.
            topic_name: with its prefix.
            partition: of that topic.
            fetch_bytes_max: bounds one fetch, of which a first batch of records comes always whole. For single records
                here and there, 1 fetches no more than the batch that each stands in.
            fetch_wait_s: how long a broker that has nothing new waits before it says so. Records come at once however
                long that is, but a `seek` may wait for it.

        """
        self._settings = settings
        self._fetch_bytes_max = fetch_bytes_max
        self._fetch_wait_s = fetch_wait_s
        self._topic = topic_name
        self._partition = TopicPartition(topic_name, partition)
        self._consumer: Any = None

    async def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnreachable: no broker answers.
            AccessDenied: the brokers refuse the credentials.
            TopicMissing: there is no such topic or partition.
        """
        await self._must_exist()
        consumer = AIOKafkaConsumer(
            **self._settings.client_args(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_uncommitted",
            fetch_max_wait_ms=round(self._fetch_wait_s * 1000),
            max_partition_fetch_bytes=self._fetch_bytes_max,
        )
        await start_client(self._settings, consumer)
        self._consumer = consumer
        self.turn_to(self._partition.partition)

    def turn_to(self, partition: int) -> None:
        """Go on with another partition of the topic, over the same connection: begin with `seek`, `read` or `at`."""
        self._partition = TopicPartition(self._topic, partition)
        self._consumer.assign([self._partition])
        self._consumer.seek(self._partition, 0)  # so that nothing is looked up; every read seeks first
        self._consumer.pause(self._partition)  # nothing is fetched before the first read

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

    async def bounds(self) -> tuple[int, int]:
        """Log start offset, and the offset that the next record will get.

        Raises:
            BrokerUnreachable: no answer within the request timeout.
            TopicMissing: the topic was deleted.
        """
        deadline_s = time.monotonic() + self._settings.request_timeout_s
        while True:
            try:
                async with asyncio.timeout(_LOOKUP_S):
                    start = await self._consumer.beginning_offsets([self._partition])
                    end = await self._consumer.end_offsets([self._partition])
                return start[self._partition], end[self._partition]
            except (TimeoutError, aiokafka.errors.KafkaTimeoutError):
                # The library asks for ever for a topic that was deleted; and a connection that fell silent would be
                # asked for ever by us, since the library closes one only when a request of its own runs out of time.
                self._drop_connections()
                await self._must_exist()
                if time.monotonic() > deadline_s:
                    raise BrokerUnreachable(self._settings.bootstrap, "no answer to a request for offsets") from None
            except aiokafka.errors.KafkaError as error:
                raise translated(self._settings, error) from error

    async def topic_id(self) -> bytes | None:
        """The id that the topic was given when it was created; None if it was deleted.

        Raises:
            BrokerUnreachable: no answer soon.
        """
        with translating(self._settings):
            try:
                async with asyncio.timeout(_LOOKUP_S):
                    return await topic_id(self._consumer._client, self._topic)  # noqa: SLF001 - no public way
            except TimeoutError:
                self._drop_connections()
                raise

    async def seek(self, offset: int) -> None:
        """Let the next `poll` begin at an offset.

        Raises:
            OffsetTrimmed: the partition begins behind it.
            OffsetBeyondEnd: the partition ends before it; its end itself is allowed.
        """
        await self._must_hold(offset)
        self._consumer.seek(self._partition, offset)
        self._consumer.resume(self._partition)

    async def position(self) -> int:
        """The offset that the next `poll` begins at: behind everything handed out and every hole passed."""
        offset: int = await self._consumer.position(self._partition)
        return offset

    async def poll(self, max_wait_s: float, max_records: int = CHUNK_RECORDS_MAX) -> list[Record]:
        """The next records after `seek` or the last `poll`; empty if none came in time. Safe to cancel.

        Raises:
            OffsetTrimmed: records before they were read were deleted.
            OffsetBeyondEnd: the partition was truncated or re-created.
        """
        try:
            chunks = await self._consumer.getmany(
                self._partition, timeout_ms=max(1, round(max_wait_s * 1000)), max_records=max_records
            )
        except aiokafka.errors.OffsetOutOfRangeError:
            await self._must_hold(await self.position())
            return []  # out of range a moment ago and not any more: another replica leads now
        except aiokafka.errors.KafkaError as error:
            raise translated(self._settings, error) from error
        return [
            Record(found.offset, found.timestamp, found.timestamp_type == _LOG_APPEND_TIME, found.key, found.value)
            for found in chunks.get(self._partition, ())
        ]

    async def read(self, start: int, end: int | None = None) -> AsyncIterator[list[Record]]:
        """Records from `start`, in chunks: until those below `end` are exhausted, or for ever.

        Raises:
            OffsetTrimmed: the partition begins behind `start`.
            OffsetBeyondEnd: the partition ends before `start`, or before `end`.
        """
        await self.seek(start)
        if end is not None:
            await self._must_hold(end)
        offset = start
        while end is None or offset < end:
            # Another method was used between two chunks.
            if await self.position() != offset or self._partition in self._consumer.paused():
                await self.seek(offset)
            records = await self.poll(_IDLE_POLL_S if end is None else _BOUNDED_POLL_S)
            offset = await self.position()
            if end is not None and offset > end:
                records = [record for record in records if record.offset < end]
            if records:
                yield records
            elif end is not None and offset < end:
                await self._must_hold(end)

    async def at(self, offset: int) -> Record | None:
        """The record that stands exactly there; None for a hole and outside of the partition.

        Nothing is fetched behind it: `seek` before the next `poll`.

        Raises:
            BrokerUnreachable: no answer within the request timeout.
            TopicMissing: the topic was deleted.
        """
        start, end = await self.bounds()
        if not start <= offset < end:
            return None
        self._consumer.seek(self._partition, offset)
        self._consumer.resume(self._partition)
        try:
            look_s = time.monotonic() + _LOOKUP_S
            while await self.position() <= offset:
                records = await self.poll(_BOUNDED_POLL_S, max_records=1)
                if records:
                    return records[0] if records[0].offset == offset else None
                if time.monotonic() > look_s:  # of a topic that was deleted just now nothing would ever come
                    await self._must_hold(offset)
                    look_s = time.monotonic() + _LOOKUP_S
            return None
        except (OffsetTrimmed, OffsetBeyondEnd):
            return None  # it was there a moment ago
        finally:
            self._consumer.pause(self._partition)  # else it would fetch on and on what nobody asked for

    def _drop_connections(self) -> None:
        """Let the library connect anew for its next requests; those under way fail, and are sent again."""
        for connection in list(self._consumer._client._conns.values()):  # noqa: SLF001 - no public way
            connection.close(reason=CloseReason.CONNECTION_TIMEOUT)

    async def _must_hold(self, offset: int) -> None:
        start, end = await self.bounds()
        if offset < start:
            raise OffsetTrimmed(self._topic, self._partition.partition, offset, start)
        if offset > end:
            raise OffsetBeyondEnd(self._topic, self._partition.partition, offset, end)

    async def _must_exist(self) -> None:
        async with admin_client(self._settings) as admin:
            topics = await describe_topics(admin, [self._topic])
        if not topics:
            raise TopicMissing(self._topic)
        if self._partition.partition not in {part["partition"] for part in topics[self._topic]["partitions"]}:
            raise TopicMissing(self._topic, self._partition.partition)
