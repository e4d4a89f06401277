"""Following one log of a real broker, also while somebody harms it."""

import asyncio
from collections.abc import Sequence

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition

from meterproof.kafka import follower as follower_module
from meterproof.kafka.errors import GenesisMissing, TopicMissing
from meterproof.kafka.follower import LogFollower
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof_local.broker import LocalBroker
from meterproof_schemas.chain import Cursor
from meterproof_schemas.checkpoint_record import genesis_key
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.log_record import (
    LogRecord,
    RecordHeader,
    Source,
    decode_record,
    encode_record,
    encode_record_header,
)
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.topics import Topic
from tests.builders import make_genesis_record

pytestmark = pytest.mark.broker

PATIENCE_S = 180


@pytest.fixture
def settings(broker: LocalBroker, topic_prefix: str) -> KafkaSettings:
    return KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)


def next_record(previous: LogRecord, *lines: bytes, writer: str = "1" * 32) -> bytes:
    """A record that continues the chain behind `previous` with these lines; roots are made up."""
    header = previous.header
    offset = header.next_source_offset
    return encode_record(
        encode_record_header(
            RecordHeader(
                v=1,
                kind="batch",
                prev=previous.digest,
                source=Source(offset=offset, count=1, digest="2" * 64),
                append_ms=1_000 + offset,
                clock_ms=max(header.clock_ms, 1_000 + offset),
                reason=None,
                not_accepted=(),
                first=header.size,
                size=header.size + len(lines),
                root="3" * 64,
                frontier="",
                registry="0" * 64,
                price_book=0,
                writer=writer,
                generation=1,
            )
        ),
        (b"{}", b"{}"),
        lines,
    )


def chain_of(genesis: bytes, records: int) -> list[bytes]:
    """A genesis and records of two lines each behind it."""
    chain = [genesis]
    for number in range(records):
        chain.append(next_record(decode_record(chain[-1]), b"a%d" % number, b"b%d" % number))
    return chain


def cursor_at(chain: Sequence[bytes], index: int, *, log_offset: int | None = None) -> Cursor:
    """The cursor behind a record of a chain; its offset is its index unless said otherwise."""
    genesis, record = decode_record(chain[0]).header.genesis, decode_record(chain[index])
    assert genesis is not None
    return Cursor(genesis.epoch, index if log_offset is None else log_offset, record.digest, record.header.size)


async def append(settings: KafkaSettings, values: Sequence[bytes]) -> None:
    async with RecordProducer(settings) as producer:
        sent = [await producer.send(settings.topic(Topic.LOG), 0, value) for value in values]
        await asyncio.gather(*sent)


async def new_log(settings: KafkaSettings, records: int) -> list[bytes]:
    """A deployment of one partition with this many records behind the genesis; all of the log."""
    deployment = Deployment(name="meter.example.com/test", deployment="test", partitions=1)
    await create_topics(settings, deployment, now_ms=1, random_bytes=lambda size: b"\x01" * size)
    async with LogFollower(settings, 0, None) as follower:
        ((_, genesis),) = await collect(follower, 1)
    chain = chain_of(genesis.value, records)
    await append(settings, chain[1:])
    return chain


async def recreate(settings: KafkaSettings, values: Sequence[bytes]) -> None:
    """Delete the log's topic and create it anew with these records."""
    topic = settings.topic(Topic.LOG)
    admin = AIOKafkaAdminClient(**settings.client_args())
    await admin.start()
    try:
        await admin.delete_topics([topic])
        async with asyncio.timeout(PATIENCE_S):
            code = 1
            while code:
                answer = await admin.create_topics([NewTopic(topic, 1, 1)])
                ((_, code, *_),) = answer.topic_errors
                await asyncio.sleep(0.05)
    finally:
        await admin.close()
    await append(settings, values)


async def collect(follower: LogFollower, records: int) -> list[tuple[int, LogRecord]]:
    """Poll until so many accepted records came."""
    found: list[tuple[int, LogRecord]] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < records:
            found += await follower.poll(0.2)
    return found


async def stopped(follower: LogFollower) -> StageStopped:
    """Poll until the follower stops the stage, and nothing was handed out until then."""

    async def poll_for_ever() -> None:
        while True:
            assert await follower.poll(0.2) == []

    with pytest.raises(StageStopped) as stop:
        await asyncio.wait_for(poll_for_ever(), PATIENCE_S)
    assert stop.value.stop_reason is StopReason.LOG_DIVERGED
    return stop.value


async def test_a_stage_without_cursor_reads_the_whole_log_and_then_what_is_added(settings: KafkaSettings) -> None:
    chain = await new_log(settings, 5_000)
    async with LogFollower(settings, 0, None) as follower:
        assert follower.genesis == decode_record(chain[0]).header.genesis
        assert await follower.bounds() == (0, 5_001)
        found = [item async for chunk in follower.read(end=5_001) for item in chunk]
        assert [(offset, record.value) for offset, record in found] == list(enumerate(chain))
        more = next_record(found[-1][1], b"new")
        await append(settings, [more])
        assert [(offset, record.value) for offset, record in await collect(follower, 1)] == [(5_001, more)]
        assert follower.chain.position == 10_001
        assert follower.chain.foreign == 0
        assert await follower.next_offset() == 5_002


async def test_a_bounded_read_takes_nothing_beyond_its_end(settings: KafkaSettings) -> None:
    chain = await new_log(settings, 10)
    async with LogFollower(settings, 0, None) as follower:
        first = [item async for chunk in follower.read(end=4) for item in chunk]
        assert [offset for offset, _ in first] == [0, 1, 2, 3]
        assert follower.chain.log_offset == 3
        second = [item async for chunk in follower.read(end=11) for item in chunk]
    assert [record.value for _, record in first + second] == chain


async def test_a_stage_goes_on_behind_its_cursor(settings: KafkaSettings) -> None:
    chain = await new_log(settings, 10)
    async with LogFollower(settings, 0, cursor_at(chain, 7)) as follower:
        assert follower.genesis == follower.chain.genesis == decode_record(chain[0]).header.genesis
        assert follower.chain.position == 14
        assert [offset for offset, _ in await collect(follower, 3)] == [8, 9, 10]
    async with LogFollower(settings, 0, cursor_at(chain, 10)) as follower:
        assert await follower.poll(0.3) == []


async def test_echoes_of_a_late_writer_are_skipped_and_counted(settings: KafkaSettings) -> None:
    chain = await new_log(settings, 3)
    last = decode_record(chain[-1])
    first, second = (next_record(last, b"event", writer=writer * 32) for writer in "45")
    third = next_record(decode_record(first), b"later")
    async with LogFollower(settings, 0, cursor_at(chain, 3)) as follower:
        await append(settings, [first])
        assert [record.value for _, record in await collect(follower, 1)] == [first]
        await append(settings, [second, b"not a record at all", second])
        async with asyncio.timeout(PATIENCE_S):
            while follower.chain.foreign < 3:
                assert await follower.poll(0.2) == []
        await append(settings, [third])
        assert [(offset, record.value) for offset, record in await collect(follower, 1)] == [(8, third)]
    async with LogFollower(settings, 0, None) as follower:
        found = [item async for chunk in follower.read(end=9) for item in chunk]
    assert [record.value for _, record in found] == [*chain, first, third]


@pytest.mark.parametrize(
    "fault", ["digest", "position", "offset of an echo", "offset beyond the end", "epoch", "other record"]
)
async def test_a_cursor_that_does_not_fit_stops_the_stage(settings: KafkaSettings, fault: str) -> None:
    chain = await new_log(settings, 3)
    await append(settings, [chain[-1]])
    good = cursor_at(chain, 2)
    cursor = {
        "digest": Cursor(good.epoch, 2, "0" * 64, good.position),
        "position": Cursor(good.epoch, 2, good.digest, good.position + 1),
        "offset of an echo": Cursor(good.epoch, 4, good.digest, good.position),
        "offset beyond the end": Cursor(good.epoch, 5, good.digest, good.position),
        "epoch": Cursor("f" * 32, 2, good.digest, good.position),
        "other record": cursor_at(chain, 2, log_offset=1),
    }[fault]
    follower = LogFollower(settings, 0, cursor)
    with pytest.raises(StageStopped, match="Restore the topic, or start this stage with an empty output") as stop:
        await follower.start()
    assert stop.value.stop_reason is StopReason.LOG_DIVERGED


async def test_a_record_that_contradicts_the_chain_stops_the_stage(settings: KafkaSettings) -> None:
    chain = await new_log(settings, 3)
    last = decode_record(chain[-1])
    header = decode_record(next_record(last, b"event")).header
    wrong = header.model_copy(update={"source": Source(offset=17, count=1, digest="2" * 64)})
    await append(settings, [encode_record(encode_record_header(wrong), (b"{}", b"{}"), [b"event"])])
    async with LogFollower(settings, 0, cursor_at(chain, 3)) as follower:
        assert "where offset 3 was due" in str(await stopped(follower))


async def test_a_shorter_topic_under_the_same_name_stops_the_stage(settings: KafkaSettings) -> None:
    chain = await new_log(settings, 5)
    async with LogFollower(settings, 0, cursor_at(chain, 5)) as follower:
        assert await follower.poll(0.2) == []
        await recreate(settings, chain_of(make_genesis_record(epoch="9" * 32), 2))
        assert "ends at 3" in str(await stopped(follower))


async def test_a_longer_topic_under_the_same_name_stops_the_stage(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "CHECK_INTERVAL_S", 1e9)  # the foreign records themselves make it look
    chain = await new_log(settings, 5)
    async with LogFollower(settings, 0, cursor_at(chain, 5)) as follower:
        assert await follower.poll(0.2) == []
        await recreate(settings, chain_of(make_genesis_record(epoch="9" * 32), 9))
        assert "re-created" in str(await stopped(follower))


async def test_a_topic_of_the_same_length_stops_an_idle_stage(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "CHECK_INTERVAL_S", 0.2)
    chain = await new_log(settings, 5)
    async with LogFollower(settings, 0, cursor_at(chain, 5)) as follower:
        assert await follower.poll(0.2) == []
        await recreate(settings, chain_of(make_genesis_record(epoch="9" * 32), 5))
        assert "re-created" in str(await stopped(follower))


async def test_a_deleted_topic_stops_the_stage(settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "CHECK_INTERVAL_S", 0.2)
    chain = await new_log(settings, 1)
    async with LogFollower(settings, 0, cursor_at(chain, 1)) as follower:
        admin = AIOKafkaAdminClient(**settings.client_args())
        await admin.start()
        await admin.delete_topics([settings.topic(Topic.LOG)])
        await admin.close()
        assert "does not exist" in str(await stopped(follower))
    with pytest.raises(StageStopped, match="does not exist"):
        await LogFollower(settings, 0, cursor_at(chain, 1)).start()
    with pytest.raises(TopicMissing):
        await LogFollower(settings, 0, None).start()


async def test_trimming_below_the_cursor_is_harmless_and_above_it_stops_the_stage(settings: KafkaSettings) -> None:
    chain = await new_log(settings, 10)
    admin = AIOKafkaAdminClient(**settings.client_args())
    await admin.start()
    partition = TopicPartition(settings.topic(Topic.LOG), 0)
    try:
        await admin.delete_records({partition: RecordsToDelete(before_offset=5)})
        async with LogFollower(settings, 0, cursor_at(chain, 5)) as follower:
            assert follower.genesis == decode_record(chain[0]).header.genesis
            assert [offset for offset, _ in await collect(follower, 5)] == [6, 7, 8, 9, 10]
        with pytest.raises(StageStopped, match="trimmed below this stage"):
            await LogFollower(settings, 0, cursor_at(chain, 4)).start()
        with pytest.raises(StageStopped, match=r"begins at offset 5.*has no cursor") as stop:
            await LogFollower(settings, 0, None).start()
        assert stop.value.stop_reason is StopReason.LOG_DIVERGED
        # From the end on nothing is fetched ahead, which could come though it was trimmed meanwhile; then back.
        async with LogFollower(settings, 0, cursor_at(chain, 10)) as follower:
            await admin.delete_records({partition: RecordsToDelete(before_offset=8)})
            follower._reader._consumer.seek(partition, 6)
            assert "begins at 8" in str(await stopped(follower))
    finally:
        await admin.close()


async def test_a_log_without_genesis_says_what_to_do(settings: KafkaSettings) -> None:
    admin = AIOKafkaAdminClient(**settings.client_args())
    await admin.start()
    await admin.create_topics([NewTopic(settings.topic(topic), 1, 1) for topic in (Topic.LOG, Topic.CHECKPOINTS)])
    await admin.close()
    with pytest.raises(GenesisMissing, match="topics create"):
        await LogFollower(settings, 0, None).start()


async def test_a_follower_outlives_a_restart_of_the_broker(
    tmp_path_factory: pytest.TempPathFactory, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "CHECK_INTERVAL_S", 0.2)
    with LocalBroker(tmp_path_factory.mktemp("restarted")) as broker:
        settings = KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)
        chain = await new_log(settings, 3)
        async with LogFollower(settings, 0, cursor_at(chain, 3)) as follower:
            polls = asyncio.create_task(collect(follower, 1))
            await asyncio.sleep(0)
            broker.kill()
            await asyncio.sleep(1)
            broker.restart()
            more = next_record(decode_record(chain[-1]), b"after the restart")
            await append(settings, [more])
            assert [record.value for _, record in await polls] == [more]


async def test_the_kept_genesis_must_be_of_the_cursors_epoch(settings: KafkaSettings) -> None:
    """A trimmed log whose copy was overwritten by that of another log."""
    chain = await new_log(settings, 10)
    admin = AIOKafkaAdminClient(**settings.client_args())
    await admin.start()
    await admin.delete_records({TopicPartition(settings.topic(Topic.LOG), 0): RecordsToDelete(before_offset=5)})
    await admin.close()
    genesis = decode_record(chain[0]).header.genesis
    assert genesis is not None
    other = make_genesis_record(epoch="9" * 32)
    async with RecordProducer(settings) as producer:
        checkpoints = settings.topic(Topic.CHECKPOINTS)
        await (await producer.send(checkpoints, 0, None, genesis_key(genesis.origin)))
        await (await producer.send(checkpoints, 0, other, b"meter.example.com/test/" + b"9" * 32 + b"/p0|genesis"))
    with pytest.raises(StageStopped, match=r"is of epoch 9{32}"):
        await LogFollower(settings, 0, cursor_at(chain, 7)).start()
