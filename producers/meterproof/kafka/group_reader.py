"""`GroupReader`: the records of one topic as a member of a consumer group, each partition from where its owner says.

The group decides who reads what, nothing else: where to read comes from the owner, never from a committed offset.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

import aiokafka.errors
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.structs import OffsetAndMetadata

from meterproof.kafka.connection import start_client, translated
from meterproof.kafka.errors import OffsetBeyondEnd, OffsetTrimmed
from meterproof.kafka.reader import Record
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.limits import RECORD_BYTES_MAX

REBALANCE_TIMEOUT_S: Final = 20
"""How long the group waits in a join for its members to give up what they hold."""
POLL_RECORDS_MAX: Final = 500
"""Records that one poll hands out."""
STOP_TIMEOUT_S: Final = 5.0
"""How long leaving may take: the brokers keep the answer to a join, and nothing depends on hearing it."""
_FETCH_WAIT_MS: Final = 250
_TURN_MS: Final = 50
"""How soon a poll notices a new assignment: the library's wait for records does not end by one."""
_IDLE_MAX_MS: Final = 7 * 24 * 3600 * 1000
"""The library makes a member leave that has not polled for this long. A take-over may last; its owner watches it."""
_METADATA_MAX_AGE_MS: Final = 10_000
"""A topic that is created again is noticed within this, and taken over anew: the owner then compares."""
_LOG_APPEND_TIME: Final = 1


class GroupOwner(Protocol):
    """Whoever the records are read for."""

    async def on_assigned(self, partitions: frozenset[int], generation: int) -> Mapping[int, int]:
        """Take over exactly these partitions; the answer is the offset at which each goes on.

        Called by `poll`, so never twice at once and never while records are handed out. No limit of the group's runs:
        heartbeats go on as long as the event loop turns. Partitions left out of the answer stay silent.
        """

    async def on_revoked(self, partitions: frozenset[int]) -> None:
        """These may belong to another member as soon as this returns; must end within `REBALANCE_TIMEOUT_S`.

        Called while the group joins, at any time, also during `on_assigned`. What it raises comes out of the next poll.
        """


class GroupReader:
    """Reads the partitions of a topic that a consumer group gives to this member.

    Promises: a record is handed out only of a partition that the owner has taken over since the last rebalance, from
    the offset that the owner named, in order; also those of aborted transactions (read uncommitted) and those with
    header keys that are not UTF-8. It outlives a broker's restart, and raises when an offset no longer exists.
    Membership is static: a member that comes back under its name within the session timeout gets its partitions at
    once. Lives from `start` to `stop`; one task polls.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic_name: str,
        owner: GroupOwner,
        *,
        group: str,
        instance: str,
        session_timeout_s: int,
        heartbeat_interval_s: float = 1.0,
    ) -> None:
        self.held: frozenset[int] = frozenset()
        """The partitions taken over; empty as soon as a rebalance begins, and what was polled before it is void."""
        self._settings = settings
        self._topic = topic_name
        self._owner = owner
        self._group = group
        self._instance = instance
        self._session_timeout_s = session_timeout_s
        self._heartbeat_interval_s = min(heartbeat_interval_s, session_timeout_s / 3)
        self._consumer: Any = None
        self._rebalances = 0
        self._assigned: tuple[frozenset[int], int] | None = None
        self._failure: BaseException | None = None

    async def start(self) -> None:
        """Connect and ask to join; the first polls wait for the group.

        Raises:
            BrokerUnreachable: no broker answers.
            AccessDenied: the brokers refuse the credentials.
        """
        request_timeout_s = max(
            self._settings.request_timeout_s, REBALANCE_TIMEOUT_S + 10, self._session_timeout_s + 10
        )
        consumer = AIOKafkaConsumer(
            **self._settings.client_args() | {"request_timeout_ms": request_timeout_s * 1000},
            group_id=self._group,
            group_instance_id=self._instance,
            partition_assignment_strategy=(RoundRobinPartitionAssignor,),
            session_timeout_ms=self._session_timeout_s * 1000,
            heartbeat_interval_ms=round(self._heartbeat_interval_s * 1000),
            rebalance_timeout_ms=REBALANCE_TIMEOUT_S * 1000,
            max_poll_interval_ms=_IDLE_MAX_MS,
            metadata_max_age_ms=_METADATA_MAX_AGE_MS,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_uncommitted",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_partition_fetch_bytes=RECORD_BYTES_MAX,
        )
        await start_client(self._settings, consumer)
        self._consumer = consumer
        consumer.subscribe([self._topic], listener=_Listener(self._on_assigned, self._on_revoked))

    async def stop(self) -> None:
        """Disconnect, within `STOP_TIMEOUT_S`; harmless when repeated. The group keeps the place of a static member."""
        consumer, self._consumer, self.held = self._consumer, None, frozenset()
        if consumer is not None:
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await consumer.stop()
            except TimeoutError:
                pass

    async def poll(self, max_wait_s: float, max_records: int = POLL_RECORDS_MAX) -> dict[int, list[Record]]:
        """The next records by partition; empty if none came in time. Waits longer for the group and for a take-over.

        Safe to cancel.

        Raises:
            OffsetTrimmed: records before they were read were deleted.
            OffsetBeyondEnd: a partition was truncated or re-created.
            KafkaProblem: the group, or the brokers, refuse this member.
            BaseException: what the owner raised.
        """
        deadline_s = time.monotonic() + max_wait_s
        while True:
            if self._failure is not None:
                raise self._failure
            if self._assigned is not None:
                await self._take_over()
            try:
                chunks = await self._consumer.getmany(timeout_ms=_TURN_MS, max_records=max_records)
            except aiokafka.errors.OffsetOutOfRangeError as error:
                await self._check_positions(error)
                continue
            except aiokafka.errors.KafkaError as error:
                raise translated(self._settings, error) from error
            found = {
                at.partition: [
                    Record(one.offset, one.timestamp, one.timestamp_type == _LOG_APPEND_TIME, one.key, one.value)
                    for one in records
                ]
                for at, records in chunks.items()
                if at.partition in self.held  # the take-over's seek brings all others again
            }
            if found or time.monotonic() >= deadline_s:
                return found

    async def commit(self, offsets: Mapping[int, int]) -> bool:
        """Tell the group how far each partition is done, for displays of lag; those not held are left out.

        Waits for as long as the group's coordinator does not answer. False if there was nothing to say, or a rebalance
        came between.

        Raises:
            KafkaProblem: the brokers refuse it.
        """
        wanted = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(offset, "")
            for partition, offset in offsets.items()
            if partition in self.held
        }
        if not wanted or self._consumer is None:
            return False
        try:
            await self._consumer.commit(wanted)
        except (aiokafka.errors.CommitFailedError, aiokafka.errors.IllegalStateError):
            return False  # no longer ours to say
        except aiokafka.errors.KafkaError as error:
            raise translated(self._settings, error) from error
        return True

    def end(self, partition: int) -> int | None:
        """The offset behind the partition's last record, as far as the last fetch tells; None if not known."""
        if partition not in self.held or self._consumer is None:
            return None
        end: int | None = self._consumer.highwater(TopicPartition(self._topic, partition))
        return end

    # --- rebalances --------------------------------------------------------------------------------------------------

    async def _on_revoked(self, revoked: frozenset[int]) -> None:
        self._rebalances += 1
        self.held = frozenset()
        if not revoked:
            return
        try:
            await self._owner.on_revoked(revoked)
        except Exception as error:  # noqa: BLE001 - the library would log it and go on
            self._failure = error

    def _on_assigned(self, assigned: frozenset[int]) -> None:
        """Silence every partition until it is taken over, and leave that to `poll`.

        The library goes on fetching while this callback runs, but cannot yet: it looks positions up by a task that it
        starts in the same step as this callback. A position of any kind, and a pause, and it has nothing to do.
        """
        for partition in assigned:
            at = TopicPartition(self._topic, partition)
            self._consumer.seek(at, 0)
            self._consumer.pause(at)
        self._assigned = (assigned, self._consumer._coordinator.generation)  # noqa: SLF001 - it has no other name

    async def _take_over(self) -> None:
        """Let the owner take over what was assigned last, and read on where it says.

        1. The owner takes over; another rebalance may begin meanwhile, and then its assignment counts, not this one.
        2. Without a pause between them: seek, resume, hold.
        """
        while self._assigned is not None:
            (partitions, generation), self._assigned = self._assigned, None
            rebalances = self._rebalances
            offsets = await self._owner.on_assigned(partitions, generation)  # 1
            if self._rebalances != rebalances:
                continue
            for partition, offset in offsets.items():  # 2
                at = TopicPartition(self._topic, partition)
                self._consumer.seek(at, offset)
                self._consumer.resume(at)
            self.held = frozenset(offsets)

    async def _check_positions(self, error: BaseException) -> None:
        """Name the partition whose position does not exist; returns if there is none any more."""
        places = [TopicPartition(self._topic, partition) for partition in self.held]
        try:
            starts = await self._consumer.beginning_offsets(places)
            ends = await self._consumer.end_offsets(places)
        except aiokafka.errors.KafkaError as fault:
            raise translated(self._settings, fault) from error
        for at in places:
            if at.partition not in self.held:
                return  # a rebalance; all positions are new
            offset = await self._consumer.position(at)
            if offset < starts[at]:
                raise OffsetTrimmed(self._topic, at.partition, offset, starts[at]) from error
            if offset > ends[at]:
                raise OffsetBeyondEnd(self._topic, at.partition, offset, ends[at]) from error


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # the library has no types
    """The library's callbacks, with numbers for partitions."""

    def __init__(self, on_assigned: Any, on_revoked: Any) -> None:  # noqa: ANN401 - the two methods above
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Called when a join is complete."""
        self._on_assigned(frozenset(at.partition for at in assigned))

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Called when a join begins."""
        await self._on_revoked(frozenset(at.partition for at in revoked))
