"""What a sink's worker holds of the log has a bound, however much of it waits."""

import asyncio
import gc
import os
from pathlib import Path

import pytest

from meterproof.kafka.geneses import read_geneses
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import CHUNK_RECORDS_MAX
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof.status import StatusFile
from meterproof_local.broker import LocalBroker
from meterproof_schemas.chain import Cursor
from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_schemas.topics import Topic
from meterproof_sinks.batch_bounds import BatchBounds
from meterproof_sinks.sink import Density
from meterproof_sinks.worker import run_sink
from tests.builders import DEPLOYMENT, NOW_MS
from tests.log_builder import LogBuilder

pytestmark = pytest.mark.broker

BATCH_RECORDS = 100
WAITING = 2 * CHUNK_RECORDS_MAX + 500
HELD_MAX = CHUNK_RECORDS_MAX + 2 * BATCH_RECORDS
"""What one read hands out at most, the batch that is gathered, and the one that is written."""
PATIENCE_S = 120.0


def held() -> int:
    """Log records that are in this process's memory."""
    gc.collect()
    return sum(type(one) is LogRecord for one in gc.get_objects())


class CountingSink:
    """Takes everything, and counts what is held of the log meanwhile. Lives as long as the test."""

    name = "counting"

    def __init__(self) -> None:
        self.written = 0
        self.writes = 0
        self.most_held = 0
        self.all_written = asyncio.Event()

    async def cursor(self, log: int) -> Cursor | None:
        return None

    async def write(self, partition: int, genesis: Genesis, records: list[tuple[int, LogRecord]]) -> None:
        self.written += len(records)
        self.writes += 1
        if self.writes % 5 == 1:  # counting looks at every object there is
            self.most_held = max(self.most_held, held())
        if self.written == WAITING:
            self.all_written.set()

    async def density(self, partition: int) -> Density | None:
        return None

    async def close(self) -> None:
        pass


async def test_records_wait_on_kafka_and_not_in_memory(broker: LocalBroker, topic_prefix: str, tmp_path: Path) -> None:
    kafka = KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)
    deployment = Deployment("meter.example.com/test", DEPLOYMENT, 1)
    await create_topics(kafka, deployment, now_ms=NOW_MS, random_bytes=os.urandom)
    await fill(kafka)
    before, sink, stop = held(), CountingSink(), asyncio.Event()
    status = StatusFile(tmp_path, sink.name)
    bounds = BatchBounds(records_max=BATCH_RECORDS)
    carrying = asyncio.create_task(run_sink(sink, kafka, [0], status=status, stop=stop, bounds=bounds))
    written = asyncio.create_task(sink.all_written.wait())
    try:
        await asyncio.wait([carrying, written], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        assert sink.written == WAITING, carrying
        assert 0 < sink.most_held - before <= HELD_MAX < WAITING / 2
    finally:
        stop.set()
        written.cancel()
        await carrying


async def fill(kafka: KafkaSettings) -> None:
    """A log of `WAITING` records, of which nothing is held afterwards."""
    (genesis,) = (await read_geneses(kafka)).values()
    log = LogBuilder(genesis_value=genesis)
    for _ in range(WAITING - 1):
        log.batch(1)
    async with RecordProducer(kafka) as producer:
        topic = kafka.topic(Topic.LOG)
        sent = [await producer.send(topic, 0, record.value) for _, record in log.records[1:]]
        for delivery in sent:
            await delivery
