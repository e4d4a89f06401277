"""The lane and the sequencer as plain classes on a real broker; where a test says so, the broker's answers are bent."""

import asyncio
import functools
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from meterproof.kafka.errors import DeliveryRefused
from meterproof.kafka.producer import Delivery, Posted, RecordProducer
from meterproof_local.broker import LocalBroker
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.keys import EMPTY_REGISTRY
from meterproof_schemas.log_record import decode_record
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.topics import Topic
from meterproof_stream.errors import LaneClosed
from meterproof_stream.judge import judge, judge_hole
from meterproof_stream.lane import Lane
from meterproof_stream.room import Room
from meterproof_stream.sequencer import Sequencer
from meterproof_stream.take_over import fold_log
from tests.builders import make_key, make_registry_file
from tests.integration.stream.workers import PATIENCE_S, Pipeline

pytestmark = pytest.mark.broker


class BentProducer(RecordProducer):
    """Sends as ever, and tells of a delivery what `bend` makes of it."""

    bend: Callable[[Delivery], Delivery] = staticmethod(lambda delivery: delivery)
    hold: asyncio.Event | None = None
    """Deliveries of refusals are told only when this is set."""

    async def send(
        self, topic: str, partition: int, value: bytes | None, key: bytes | None = None
    ) -> asyncio.Future[Delivery]:
        sent = await super().send(topic, partition, value, key)

        async def told() -> Delivery:
            delivery = await sent
            if self.hold is not None and topic.endswith(Topic.REJECTED):
                await self.hold.wait()
            return self.bend(delivery)

        return asyncio.ensure_future(told())

    def post_at_once(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        """Never: everything is to go through `post`."""

    async def post(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> Posted:
        posted = await super().post(topic, partition, value, key)
        if topic.endswith(Topic.REJECTED):
            return posted  # `send` bends it

        async def told() -> Delivery:
            return self.bend((await posted.batch)._replace(offset=posted.offset()))

        return Posted(asyncio.ensure_future(told()), 0, posted.sent_ms)


@pytest.fixture
async def pipeline(broker: LocalBroker, topic_prefix: str, tmp_path: Path) -> Pipeline:
    return await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)


@pytest.fixture
async def producer(pipeline: Pipeline) -> AsyncIterator[BentProducer]:
    async with BentProducer(pipeline.kafka) as started:
        yield started


async def open_lane(pipeline: Pipeline, producer: RecordProducer, failures: list[BaseException]) -> Lane:
    folded = await fold_log(pipeline.kafka, 0)
    return Lane(
        partition=0,
        state=folded.state,
        last=folded.last,
        log_end=folded.end,
        writer=os.urandom(16).hex(),
        generation=1,
        kafka=pipeline.kafka,
        producer=producer,
        room=Room(),
        on_failure=failures.append,
    )


async def submit(lane: Lane, acknowledged: list[int], *, noise: bool = False) -> None:
    """Record a hole, or a record that is refused."""
    offset = lane.next
    judgement = judge_hole(lane.state)
    if noise:
        judgement = judge(
            b"noise",
            partition=0,
            offset=offset,
            append_ms=lane.state.clock_ms,
            state=lane.state,
            registry=EMPTY_REGISTRY,
            meters=frozenset(),
        )
    await lane.submit(
        judgement,
        source_offset=offset,
        registry="0" * 64,
        price_book=0,
        acknowledge=lambda: acknowledged.append(offset),
    )


def append(lane: Lane, acknowledged: list[int]) -> None:
    """Record a hole, to be sent with others."""
    offset = lane.next
    lane.append(
        judge_hole(lane.state),
        source_offset=offset,
        registry="0" * 64,
        price_book=0,
        acknowledge=lambda: acknowledged.append(offset),
    )


async def test_an_offset_that_the_broker_does_not_know_is_looked_up(pipeline: Pipeline, producer: BentProducer) -> None:
    acknowledged: list[int] = []
    failures: list[BaseException] = []
    lane = await open_lane(pipeline, producer, failures)
    producer.bend = lambda delivery: Delivery(delivery.topic, 0, -1 if delivery.offset % 2 else delivery.offset, 0)
    for _ in range(6):
        await submit(lane, acknowledged)
    await lane.quiesce()
    assert acknowledged == [0, 1, 2, 3, 4, 5]
    assert lane.log_end == 7
    assert not failures


async def test_an_offset_below_the_expected_one_means_another_log(pipeline: Pipeline, producer: BentProducer) -> None:
    acknowledged: list[int] = []
    failures: list[BaseException] = []
    lane = await open_lane(pipeline, producer, failures)
    producer.bend = lambda delivery: Delivery(delivery.topic, 0, min(delivery.offset, 1), 0)
    for _ in range(3):
        await submit(lane, acknowledged)
    with pytest.raises(StageStopped) as stopped:
        await lane.quiesce()
    assert stopped.value.stop_reason is StopReason.LOG_DIVERGED
    assert acknowledged == [0]
    assert failures == [stopped.value]


class UnsureProducer(RecordProducer):
    """Its broker has forgotten where the batches of records stand that it opens."""

    def post_at_once(self, topic: str, partition: int, values: Sequence[bytes]) -> Posted | None:
        posted = super().post_at_once(topic, partition, values)
        return None if posted is None else self._unsure(posted)

    async def post(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> Posted:
        return self._unsure(await super().post(topic, partition, value, key))

    @staticmethod
    def _unsure(posted: Posted) -> Posted:
        async def told() -> Delivery:
            return (await posted.batch)._replace(offset=-1)

        return posted._replace(batch=asyncio.ensure_future(told()))


@pytest.mark.parametrize("make", [RecordProducer, UnsureProducer])
async def test_records_that_are_sent_together_are_accepted_and_acknowledged_in_order(
    pipeline: Pipeline, make: type[RecordProducer]
) -> None:
    """A record goes ahead, so that the others find a batch that is open; one that is refused comes between."""
    acknowledged: list[int] = []
    failures: list[BaseException] = []
    async with make(pipeline.kafka) as producer:
        lane = await open_lane(pipeline, producer, failures)
        await submit(lane, acknowledged)
        for run in (3, 4):
            for _ in range(run):
                append(lane, acknowledged)
            assert lane.in_flight >= run
            await lane.send()
            await submit(lane, acknowledged, noise=True)
        append(lane, acknowledged)
        await lane.send()
        await lane.quiesce()
    assert acknowledged == list(range(11))
    assert (lane.log_end, lane.in_flight, lane.delivered) == (12, 0, 11)
    assert (await pipeline.log(0)).next_source_offset == 11
    assert not failures


async def test_nothing_is_acknowledged_after_a_delivery_that_failed(pipeline: Pipeline, producer: BentProducer) -> None:
    acknowledged: list[int] = []
    failures: list[BaseException] = []
    lane = await open_lane(pipeline, producer, failures)

    def refuse_the_third(delivery: Delivery) -> Delivery:
        if delivery.offset == 3:
            raise DeliveryRefused(delivery.topic, 0, "made up")
        return delivery

    producer.bend = refuse_the_third
    for _ in range(5):
        await submit(lane, acknowledged)
    with pytest.raises(DeliveryRefused):
        await lane.quiesce()
    with pytest.raises(DeliveryRefused):
        await submit(lane, acknowledged)
    await asyncio.sleep(0.1)
    assert acknowledged == [0, 1]
    assert len(failures) == 1


async def test_a_record_waits_for_its_refusals_and_the_next_wait_for_it(
    pipeline: Pipeline, producer: BentProducer
) -> None:
    acknowledged: list[int] = []
    failures: list[BaseException] = []
    lane = await open_lane(pipeline, producer, failures)
    producer.hold = asyncio.Event()
    await submit(lane, acknowledged)
    await submit(lane, acknowledged, noise=True)
    await submit(lane, acknowledged)
    async with asyncio.timeout(PATIENCE_S):
        while acknowledged != [0] or not await pipeline.records(Topic.REJECTED, 0):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)  # long enough for one that does not wait to be seen
    assert acknowledged == [0]
    assert len(await pipeline.records(Topic.LOG, 0)) == 2
    assert len(await pipeline.records(Topic.REJECTED, 0)) == 1
    producer.hold.set()
    await lane.quiesce()
    assert acknowledged == [0, 1, 2]
    assert (await pipeline.log(0)).next_source_offset == 3
    assert not failures


async def test_of_two_writers_one_is_accepted_and_the_other_fenced(pipeline: Pipeline, producer: BentProducer) -> None:
    acknowledged: list[int] = []
    failures: list[BaseException] = []
    first, second = [await open_lane(pipeline, producer, failures) for _ in range(2)]
    await submit(first, acknowledged)
    await first.quiesce()
    await submit(second, acknowledged)
    with pytest.raises(StageStopped) as stopped:
        await second.quiesce()
    assert stopped.value.stop_reason is StopReason.FENCED
    assert acknowledged == [0]
    await submit(first, acknowledged)
    await first.quiesce()
    assert acknowledged == [0, 1]
    state = await pipeline.log(0)
    assert (state.next_source_offset, state.foreign) == (2, 1)
    assert state.foreign == first.state.foreign


async def test_a_closed_lane_takes_nothing(pipeline: Pipeline, producer: BentProducer) -> None:
    lane = await open_lane(pipeline, producer, [])
    lane.close()
    with pytest.raises(LaneClosed):
        await submit(lane, [])
    assert lane.next == 0
    await lane.quiesce()
    assert len(await pipeline.records(Topic.LOG, 0)) == 1


async def test_any_order_repeat_or_omission_of_deliveries_makes_the_same_log(pipeline: Pipeline) -> None:
    """Also over take-overs in the middle; and the end of a gap that nobody delivered is left for later."""
    chance = random.Random(7)
    for _ in range(30):
        await pipeline.send(0, [pipeline.batch(0, pipeline.new_events(0, 2)), b"noise"])
    records = await pipeline.records(Topic.BATCHES, 0)
    failures: list[BaseException] = []
    acknowledged: set[int] = set()
    sequencer = Sequencer(
        pipeline.kafka, pipeline.data / "keys" / "registry.json", random_bytes=os.urandom, on_failure=failures.append
    )
    await sequencer.start()
    try:
        await sequencer.take_over([0], 1)
        writers = {sequencer.lanes[0].writer}
        for number in range(80):
            if number % 20 == 19:
                await sequencer.revoke([0])
                await sequencer.take_over([0], 1)
                writers.add(sequencer.lanes[0].writer)
            due = sequencer.next_offsets()[0]
            offset = min(max(0, due + chance.choice([-7, -1, 0, 0, 1, 4])), len(records) - 1)
            record = records[offset]
            await sequencer.feed(
                0, offset, record.value, record.timestamp_ms, functools.partial(acknowledged.add, offset)
            )
            await sequencer.feed(1, 0, b"not held", 0, lambda: pytest.fail("acknowledged"))
        await sequencer.feed(0, len(records) - 1, records[-1].value, records[-1].timestamp_ms, lambda: None)
    finally:
        await sequencer.stop()
    assert not failures
    assert len(writers) == 5
    assert acknowledged
    await pipeline.check()
    state = await pipeline.log(0)
    assert state.next_source_offset == len(records)
    assert state.foreign == 0
    assert sum(1 for _ in await pipeline.records(Topic.LOG, 0)) == len(records) + 1


async def test_of_two_sequencers_that_judge_differently_one_is_fenced_though_counts_are_equal(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Each knows a producer that the other one refuses, so each accepts three of the first six events.

    At the third batch both logs would go on at the same position, and only what they descend from tells them apart.
    """
    keys = make_key("known to the first"), make_key("known to the second")
    registries = [tmp_path / f"registry{number}.json" for number in range(2)]
    for registry, key in zip(registries, keys, strict=True):
        registry.write_bytes(make_registry_file(pipeline.key, key))
    lines = [pipeline.new_events(0, 3) for _ in range(3)]
    await pipeline.send(
        0, [pipeline.batch(0, batch, key=key) for batch, key in zip(lines, (*keys, pipeline.key), strict=True)]
    )
    records = await pipeline.records(Topic.BATCHES, 0)
    failures: tuple[list[BaseException], list[BaseException]] = ([], [])
    acknowledged: tuple[list[int], list[int]] = ([], [])
    first, second = (
        Sequencer(pipeline.kafka, registry, random_bytes=os.urandom, on_failure=told.append)
        for registry, told in zip(registries, failures, strict=True)
    )

    async def feed(number: int, offsets: Sequence[int]) -> None:
        for offset in offsets:
            record = records[offset]
            acknowledge = functools.partial(acknowledged[number].append, offset)
            await (first, second)[number].feed(0, offset, record.value, record.timestamp_ms, acknowledge)

    async with AsyncExitStack() as running:
        for sequencer in (first, second):
            await sequencer.start()
            running.push_async_callback(sequencer.stop)
            await sequencer.take_over([0], 1)
        await feed(0, [0, 1])
        await first.lanes[0].quiesce()
        lane = second.lanes[0]
        await feed(1, [0, 1, 2])
        with pytest.raises(StageStopped) as stopped:
            await lane.quiesce()
        assert stopped.value.stop_reason is StopReason.FENCED
        await feed(0, [2])
        await first.lanes[0].quiesce()
    assert acknowledged == ([0, 1, 2], [])
    assert (failures[0], [getattr(error, "stop_reason", error) for error in failures[1]]) == ([], [StopReason.FENCED])
    headers = [decode_record(record.value).header for record in await pipeline.records(Topic.LOG, 0)]
    assert [(header.source and header.source.offset, header.first, header.size) for header in headers[1:]] == [
        *((0, 0, 3), (1, 3, 3)),
        *((0, 0, 0), (1, 0, 3), (2, 3, 6)),
        (2, 3, 6),
    ]
    state = await pipeline.log(0)
    assert (state.next_source_offset, state.position, state.foreign) == (3, 6, 3)
    pipeline.events[0] = [*lines[0], *lines[2]]
    await pipeline.check()
