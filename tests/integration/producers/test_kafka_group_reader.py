"""`GroupReader` on a real broker: who may hand out what, and from where."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete

from meterproof.kafka.errors import BrokerUnreachable, OffsetBeyondEnd, OffsetTrimmed
from meterproof.kafka.group_reader import GroupReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_local.broker import LocalBroker

pytestmark = pytest.mark.broker

SESSION_TIMEOUT_S = 60
"""No test waits for its end; on a busy machine nobody is to lose its place either."""


@dataclass
class Owner:
    """Keeps the next offset of each partition, as an engine does, and all calls."""

    begin: int = 0
    calls: list[tuple[str, frozenset[int]]] = field(default_factory=list)
    next: dict[int, int] = field(default_factory=dict)
    may_take_over: asyncio.Event = field(default_factory=asyncio.Event)
    fault: Exception | None = None

    def __post_init__(self) -> None:
        self.may_take_over.set()

    async def on_assigned(self, partitions: frozenset[int], generation: int) -> Mapping[int, int]:
        assert generation > 0
        self.calls.append(("assigned", partitions))
        await self.may_take_over.wait()
        return {partition: self.next.setdefault(partition, self.begin) for partition in partitions}

    async def on_revoked(self, partitions: frozenset[int]) -> None:
        self.calls.append(("revoked", partitions))
        if self.fault is not None:
            raise self.fault


@dataclass
class Member:
    """A reader, its owner, and a task that polls."""

    owner: Owner
    reader: GroupReader
    read: list[tuple[int, int]] = field(default_factory=list)
    """(partition, offset) of all records, in their order."""
    polling: asyncio.Task[None] | None = None

    async def poll_for_ever(self) -> None:
        while True:
            for partition, records in (await self.reader.poll(1.0)).items():
                for record in records:
                    assert record.append_time
                    self.read.append((partition, record.offset))
                    self.owner.next[partition] = record.offset + 1

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(180):
            while not holds():
                assert self.polling is not None
                if self.polling.done():
                    await self.polling
                await asyncio.sleep(0.02)


@dataclass
class GroupTopic:
    """A topic of this test, and members of a group that read it."""

    settings: KafkaSettings
    partitions: int

    @property
    def name(self) -> str:
        return f"{self.settings.topic_prefix}source"

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        client = AIOKafkaAdminClient(**self.settings.client_args())
        await client.start()
        try:
            yield client
        finally:
            await client.close()

    async def create(self) -> None:
        configs = {"message.timestamp.type": "LogAppendTime"}
        async with self.admin() as admin:
            await admin.create_topics([NewTopic(self.name, self.partitions, 1, topic_configs=configs)])

    async def send(self, count: int) -> None:
        """So many records to each partition."""
        async with AIOKafkaProducer(**self.settings.client_args(), acks="all") as producer:
            for partition in range(self.partitions):
                for _ in range(count):
                    await producer.send_and_wait(self.name, b"value", partition=partition)

    @asynccontextmanager
    async def member(self, instance: str, owner: Owner) -> AsyncIterator[Member]:
        group = f"{self.settings.topic_prefix}group"
        reader = GroupReader(
            self.settings, self.name, owner, group=group, instance=instance, session_timeout_s=SESSION_TIMEOUT_S
        )
        await reader.start()
        member = Member(owner, reader)
        member.polling = asyncio.create_task(member.poll_for_ever())
        try:
            yield member
        finally:
            member.polling.cancel()
            await asyncio.wait([member.polling])
            await reader.stop()
            await reader.stop()


@pytest.fixture
async def topic(broker: LocalBroker, topic_prefix: str) -> GroupTopic:
    found = GroupTopic(KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix), 2)
    await found.create()
    return found


async def test_records_come_from_where_the_owner_says_whatever_was_committed(topic: GroupTopic) -> None:
    await topic.send(10)
    async with topic.member("one", Owner(begin=4)) as member:
        await member.until(lambda: len(member.read) == 12)
        assert sorted(member.read) == [(partition, offset) for partition in range(2) for offset in range(4, 10)]
        assert [member.reader.end(partition) for partition in range(2)] == [10, 10]
        assert await member.reader.commit({0: 10, 1: 10, 7: 10})
        assert not await member.reader.commit({7: 10})
    async with topic.member("one", Owner(begin=8)) as member:
        await member.until(lambda: len(member.read) == 4)
        assert sorted(member.read) == [(0, 8), (0, 9), (1, 8), (1, 9)]


async def test_a_member_that_joins_during_a_take_over_makes_it_void(topic: GroupTopic) -> None:
    """Nothing is handed out under the void assignment; every record comes once from whoever holds its partition."""
    await topic.send(5)
    slow = Owner()
    slow.may_take_over.clear()
    async with topic.member("one", slow) as one:
        await one.until(lambda: one.owner.calls == [("assigned", frozenset({0, 1}))])
        async with topic.member("two", Owner()) as two:
            await two.until(lambda: len(two.read) == 5)
            assert one.reader.held == frozenset()
            assert one.read == []
            assert one.owner.calls[-1] == ("revoked", frozenset({0, 1})), "the next take-over waits for the first"
            slow.may_take_over.set()
            await one.until(lambda: len(one.read) == 5)
            assert one.reader.held | two.reader.held == {0, 1}
            assert not one.reader.held & two.reader.held
            assert sorted(one.read + two.read) == [(partition, offset) for partition in range(2) for offset in range(5)]
            assert one.owner.calls[-1] == ("assigned", one.reader.held)


async def test_what_the_owner_raises_comes_out_of_the_poll(topic: GroupTopic) -> None:
    owner = Owner(fault=RuntimeError("not now"))
    async with topic.member("one", owner) as one:
        await one.until(lambda: one.reader.held == {0, 1})
        async with topic.member("two", Owner()) as two:
            with pytest.raises(RuntimeError, match="not now"):
                await one.until(lambda: False)
            assert one.reader.held == frozenset()
            await two.until(lambda: len(two.reader.held) == 1)


async def test_offsets_that_are_gone_are_an_error_and_never_a_jump(topic: GroupTopic) -> None:
    await topic.send(5)
    async with topic.member("one", Owner(begin=9)) as member:
        with pytest.raises(OffsetBeyondEnd, match="ends at 5"):
            await member.until(lambda: False)
        assert member.read == []
    async with topic.admin() as admin:
        await admin.delete_records({TopicPartition(topic.name, 1): RecordsToDelete(before_offset=3)})
    async with topic.member("one", Owner(begin=2)) as member:
        with pytest.raises(OffsetTrimmed, match=r"source\[1\].*begins at 3"):
            await member.until(lambda: False)
        assert all(partition == 0 for partition, _ in member.read)


async def test_a_broker_that_is_not_there_is_an_error_of_the_start() -> None:
    settings = KafkaSettings(bootstrap="127.0.0.1:1", request_timeout_s=1)
    reader = GroupReader(settings, "source", Owner(), group="group", instance="one", session_timeout_s=6)
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1"):
        await reader.start()
    await reader.stop()
