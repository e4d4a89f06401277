"""While records are fed, the source is compared with the log beside them; what is wrong stops the stage."""

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meterproof.kafka import reader as kafka_reader
from meterproof.kafka.errors import KafkaProblem
from meterproof.kafka.price_books import publish_price_book
from meterproof.kafka.reader import PartitionReader
from meterproof_local.broker import LocalBroker
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.topics import Topic
from meterproof_stream import sequencer as sequencer_module
from meterproof_stream import source_watch
from meterproof_stream.lane import Lane
from meterproof_stream.refusal_watch import RefusalWatch
from meterproof_stream.registry_file import RegistryFile
from meterproof_stream.sequencer import Sequencer
from meterproof_stream.source_comparison import check_source
from meterproof_stream.source_watch import SourceWatch
from tests.integration.stream.test_sequencer_sources import delete_records, delete_topic
from tests.integration.stream.workers import Pipeline

pytestmark = pytest.mark.broker

PATIENCE_S = 120
INTERVAL_S = 0.02


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


@dataclass
class Fed:
    """A sequencer that is fed without a pause, as its clock has it, since that stands still."""

    pipeline: Pipeline
    failures: list[BaseException] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)

    @asynccontextmanager
    async def running(self, interval_s: float = INTERVAL_S) -> AsyncIterator[Sequencer]:
        self.sequencer = Sequencer(
            self.pipeline.kafka,
            self.pipeline.data / "keys" / "registry.json",
            random_bytes=os.urandom,
            on_failure=self.failures.append,
            monotonic_s=lambda: 0.0,
            source_check_interval_s=interval_s,
        )
        await self.sequencer.start()
        try:
            await self.sequencer.take_over([0], 1)
            yield self.sequencer
        finally:
            await self.sequencer.stop()

    async def feed(self, count: int) -> None:
        """So many new records, until they are acknowledged."""
        due = self.sequencer.next_offsets()[0]
        await self.pipeline.send(0, [self.pipeline.batch(0, self.pipeline.new_events(0, 1)) for _ in range(count)])
        for record in (await self.pipeline.records(Topic.BATCHES, 0))[-count:]:
            acknowledge = functools.partial(self.acknowledged.add, record.offset)
            await self.sequencer.feed(0, record.offset, record.value, record.timestamp_ms, acknowledge)
        await until(lambda: self.acknowledged >= set(range(due, due + count)))


@pytest.fixture
async def fed(broker: LocalBroker, topic_prefix: str, tmp_path: Path) -> Fed:
    return Fed(await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1))


@dataclass
class Looks:
    """Comparisons that were made beside the feeding."""

    whole: int = 0
    unanswered: int = 0


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    noted = Looks()

    async def look(reader: PartitionReader, topic: str, lane: Lane) -> None:
        try:
            await check_source(reader, topic, lane)
        except KafkaProblem:
            noted.unanswered += 1
            raise
        noted.whole += 1

    monkeypatch.setattr(source_watch, "check_source", look)
    return noted


async def test_a_watch_that_fails_ends_the_process(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever nobody foresaw: a source, a registry or a producer that is watched no more must not be fed on."""

    def fails(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sequencer_module, "REGISTRY_POLL_INTERVAL_S", 0.01)
    monkeypatch.setattr(sequencer_module, "REFUSAL_POLL_INTERVAL_S", 0.01)
    for watched, asked in ((SourceWatch, "run"), (RegistryFile, "refresh"), (RefusalWatch, "news")):
        monkeypatch.setattr(watched, asked, fails)
    async with fed.running():
        await until(lambda: len(fed.failures) == 3)
    assert {type(failure) for failure in fed.failures} == {ZeroDivisionError}


async def test_feeding_goes_on_while_a_comparison_hangs(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = asyncio.Event()

    async def hang(*_: object) -> None:
        hangs.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(source_watch, "check_source", hang)
    async with asyncio.timeout(PATIENCE_S), fed.running() as sequencer:
        await fed.feed(1)
        await hangs.wait()
        await fed.feed(3)
        assert sequencer.waits_for() is None
    assert fed.failures == []
    await fed.pipeline.check()


async def test_records_that_are_taken_and_deleted_meanwhile_are_nothing_wrong(fed: Fed, looks: Looks) -> None:
    async with fed.running():
        for _ in range(5):
            await fed.feed(3)
            await delete_records(fed.pipeline, Topic.BATCHES, 0, len(fed.acknowledged) - 1)
            looks.whole = 0
            await until(lambda: bool(fed.failures) or looks.whole > 1)
        assert fed.failures == []


async def test_a_source_that_was_created_again_stops_the_stage_without_a_pause(
    fed: Fed, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is missing nothing is wrong yet: nothing can be taken from it."""
    monkeypatch.setattr(kafka_reader, "_LOOKUP_S", 0.2)
    async with fed.running() as sequencer:
        await fed.feed(3)
        await until(lambda: looks.whole > 0)
        await delete_topic(fed.pipeline, Topic.BATCHES)
        await until(lambda: looks.unanswered > 0)
        assert fed.failures == []
        await fed.pipeline.create_topics()
        await until(lambda: bool(fed.failures))
        [failure] = fed.failures
        assert isinstance(failure, StageStopped)
        assert failure.stop_reason is StopReason.SOURCE_DIVERGED
        with pytest.raises(StageStopped):
            await sequencer.feed(0, 3, b"of the new one", 0, functools.partial(fed.acknowledged.add, 3))
        assert fed.acknowledged == {0, 1, 2}


async def test_a_source_of_another_id_is_compared_at_once(
    fed: Fed, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled with the very same batches at once, without a pause, and long before the next comparison."""
    monkeypatch.setattr(source_watch, "SOURCE_ID_INTERVAL_S", 0.05)
    ids: list[bytes | None] = []
    ask = PartitionReader.topic_id

    async def noted(reader: PartitionReader) -> bytes | None:
        ids.append(await ask(reader))
        return ids[-1]

    monkeypatch.setattr(PartitionReader, "topic_id", noted)
    async with fed.running(interval_s=3600):
        await fed.feed(3)
        await until(lambda: bool(ids))
        batches = [record.value for record in await fed.pipeline.records(Topic.BATCHES, 0)]
        await delete_topic(fed.pipeline, Topic.BATCHES)
        await fed.pipeline.create_topics()
        await fed.pipeline.send(0, batches)
        await until(lambda: bool(fed.failures))
        [failure] = fed.failures
        assert isinstance(failure, StageStopped)
        assert failure.stop_reason is StopReason.SOURCE_DIVERGED
        assert looks.whole == 0


def _book(version: int, currency: str = "USD") -> PriceBook:
    return PriceBook(version=version, currency=currency, meters=DEFAULT_METERS, prices=())


async def test_price_books_of_a_topic_that_was_made_again_within_the_same_bounds_are_read(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequencer_module, "PRICE_BOOK_POLL_INTERVAL_S", 0.2)
    kafka = fed.pipeline.kafka

    async def made_again(book: PriceBook) -> None:
        await delete_topic(fed.pipeline, Topic.PRICE_BOOKS)
        await fed.pipeline.create_topics()
        await publish_price_book(kafka, book)

    await publish_price_book(kafka, _book(1))
    async with fed.running() as sequencer:
        assert sequencer.status()["price_book"] == 1
        await made_again(_book(2))
        await until(lambda: sequencer.status()["price_book"] == 2)
        # What is in force stays: bills were made from it.
        for other in (_book(1), _book(2, "EUR")):
            await made_again(other)
            await sequencer.take_over([0], 2)
            assert sequencer.status()["price_book"] == 2
        await delete_topic(fed.pipeline, Topic.PRICE_BOOKS)
        await fed.pipeline.create_topics()
        await sequencer.take_over([0], 3)
        assert sequencer.status()["price_book"] == 2
        await made_again(_book(3))
        await until(lambda: sequencer.status()["price_book"] == 3)
    assert fed.failures == []


@pytest.mark.slow
async def test_a_broker_that_is_started_again_is_asked_again(tmp_path: Path, looks: Looks) -> None:
    with LocalBroker(tmp_path / "kafka") as broker:
        fed = Fed(await Pipeline.create(broker.bootstrap, "", tmp_path / "data", partitions=1))
        async with fed.running():
            await fed.feed(3)
            await until(lambda: looks.whole > 0)
            broker.kill()
            await until(lambda: looks.unanswered > 0)
            broker.start()
            seen = looks.whole
            await until(lambda: looks.whole > seen + 1)
            await fed.feed(3)
        assert fed.failures == []
        await fed.pipeline.check()
