"""`LogFollower`: how a stage reads one partition of `usage.log`."""

import time
from collections.abc import AsyncIterator
from typing import Final, Self

from meterproof.kafka.errors import BrokerUnreachable, OffsetBeyondEnd, OffsetTrimmed, TopicMissing
from meterproof.kafka.geneses import read_genesis
from meterproof.kafka.reader import CHUNK_RECORDS_MAX, PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.chain import Cursor, LogChain
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.log_record import Genesis, LogRecord, record_digest
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.topics import Topic

CHECK_INTERVAL_S: Final = 5.0
"""An idle follower makes sure this often that the log is still the one it has read."""
_FETCH_WAIT_S: Final = 1.0
"""How often brokers are asked for what comes next on a log that is idle: each log of each sink has a follower."""
_IDLE_POLL_S: Final = 1.0
_BOUNDED_POLL_S: Final = 0.05

Accepted = tuple[int, LogRecord]
"""(offset on `usage.log`, record)."""


class LogFollower:
    """Reads the accepted records of one log behind a cursor.

    Promises: every accepted record behind the cursor, once, in order; records that the chain does not accept are
    counted in `chain.foreign` and never handed out; when the log is not the one that the cursor came from, or stops
    being it (truncated, re-created, trimmed ahead of this reader), `StageStopped` with `log_diverged` — never a silent
    jump, never a hang. It outlives a broker's restart. Lives from `start` (or `async with`) to `stop`; one task uses
    it.
    """

    def __init__(self, settings: KafkaSettings, partition: int, cursor: Cursor | None) -> None:
        self.chain = LogChain()
        """What is known of the log up to the last record handed out."""
        self.genesis: Genesis
        """What the log was created with; known from `start` on."""
        self._settings = settings
        self._topic = settings.topic(Topic.LOG)
        self._partition = partition
        self._cursor = cursor
        self._reader = PartitionReader(settings, self._topic, partition, fetch_wait_s=_FETCH_WAIT_S)
        # Of its own, since re-reading a record would throw away what the first has fetched ahead, and wait for it.
        self._witness = PartitionReader(settings, self._topic, partition)
        self._checked_s = 0.0

    async def start(self) -> None:
        """Connect and verify the cursor by re-reading the record that it names; without one, begin at the genesis.

        Raises:
            StageStopped: `log_diverged`: that record is not there, or the log no longer begins with its genesis.
            GenesisMissing: the log is empty; its topics were not created with `meterproof topics create`.
            TopicMissing: there is no such topic or partition, and the stage has no cursor.
            KafkaProblem: the brokers do not answer or deny access.
        """
        try:
            await self._reader.start()
            await self._witness.start()
            start, _ = await self._reader.bounds()
            if self._cursor is None:
                if start > 0:
                    raise self._diverged(
                        f"begins at offset {start}: its first records were trimmed, and this stage has no cursor to "
                        "start from. Rebuild its output from the audit folder, or restore the topic"
                    )
                self.genesis = await read_genesis(self._settings, self._partition)
                await self._reader.seek(0)
            else:
                found = await self._witness.at(self._cursor.log_offset)
                self.chain.resume(self._cursor, None if found is None else found.value)
                self.genesis = self.chain.genesis = await read_genesis(self._settings, self._partition)
                if self.genesis.epoch != self._cursor.epoch:
                    raise self._diverged(
                        f"is of epoch {self.genesis.epoch}, this stage's output of epoch {self._cursor.epoch}. Restore "
                        "the topic, or start this stage with an empty output"
                    )
                await self._reader.seek(self._cursor.log_offset + 1)
        except BaseException as error:
            await self.stop()
            if isinstance(error, TopicMissing | OffsetTrimmed | OffsetBeyondEnd) and self._cursor is not None:
                raise self._no_longer_ours(error) from error
            raise
        self._checked_s = time.monotonic()

    async def stop(self) -> None:
        """Disconnect; harmless when repeated."""
        await self._reader.stop()
        await self._witness.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def bounds(self) -> tuple[int, int]:
        """Offsets of the log's first record and behind its last one; for lag.

        Raises:
            KafkaProblem: the brokers do not answer or deny access.
        """
        return await self._witness.bounds()

    async def next_offset(self) -> int:
        """The offset that reading goes on at: behind everything handed out, skipped, and every hole."""
        return await self._reader.position()

    async def poll(self, max_wait_s: float, max_records: int = CHUNK_RECORDS_MAX) -> list[Accepted]:
        """Accepted records that come within the time, possibly none. At most `max_records`, and one fetch of bytes.

        Safe to cancel.

        Raises:
            StageStopped: `log_diverged`.
        """
        return await self._poll(max_wait_s, max_records, None)

    async def read(self, end: int | None = None) -> AsyncIterator[list[Accepted]]:
        """Accepted records in chunks: for ever, or until those below the log offset `end` are exhausted.

        Raises:
            StageStopped: `log_diverged`.
        """
        while end is None or await self.next_offset() < end:
            records = await self._poll(_IDLE_POLL_S if end is None else _BOUNDED_POLL_S, CHUNK_RECORDS_MAX, end)
            if records:
                yield records

    async def _poll(self, max_wait_s: float, max_records: int, end: int | None) -> list[Accepted]:
        try:
            records = await self._reader.poll(max_wait_s, max_records)
            if end is not None and records and records[-1].offset >= end:
                records = [record for record in records if record.offset < end]
                await self._reader.seek(end)
        except (OffsetTrimmed, OffsetBeyondEnd, TopicMissing) as error:
            raise self._no_longer_ours(error) from error
        except BrokerUnreachable:
            return []  # the client keeps on trying; a broker's restart must not stop a stage
        accepted: list[Accepted] = []
        for record in records:
            taken = self.chain.offer(record.offset, record.value)
            if taken is not None:
                accepted.append((record.offset, taken))
        # Only echoes may mean a late writer, or a topic that was re-created and has grown past our offset.
        if not accepted and (records or time.monotonic() - self._checked_s >= CHECK_INTERVAL_S):
            await self._verify()
        return accepted

    async def _verify(self) -> None:
        """Make sure that the log still ends behind us and still holds the last record that we accepted."""
        try:
            start, end = await self._witness.bounds()
            following = await self._reader.position()
            if end < following:
                raise OffsetBeyondEnd(self._topic, self._partition, following, end)
            if start > following:
                raise OffsetTrimmed(self._topic, self._partition, following, start)
            if start <= self.chain.log_offset:
                found = await self._witness.at(self.chain.log_offset)
                value = None if found is None else found.value
                if value is None or record_digest(value) != self.chain.digest:
                    raise self._diverged(
                        f"has another record at offset {self.chain.log_offset} than the one that was read there: the "
                        "topic was re-created or restored. Restore the topic, or start this stage with an empty output"
                    )
        except (OffsetTrimmed, OffsetBeyondEnd, TopicMissing) as error:
            raise self._no_longer_ours(error) from error
        except BrokerUnreachable:
            return  # asked again after the next idle poll
        self._checked_s = time.monotonic()

    def _no_longer_ours(self, error: Exception) -> StageStopped:
        return self._diverged(
            f"is not the one that this stage has read so far: {error}. Restore the topic, or start this stage with an "
            "empty output"
        )

    def _diverged(self, fault: str) -> StageStopped:
        return StageStopped(StopReason.LOG_DIVERGED, f"{self._topic}[{self._partition}] {fault}.")
