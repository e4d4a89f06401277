"""While a sink writes, its worker reads what goes into the next write."""

import asyncio
import os
from pathlib import Path

import pytest

from meterproof.kafka.geneses import read_geneses
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof.status import StatusFile, read_status
from meterproof_local.broker import LocalBroker
from meterproof_schemas.chain import Cursor
from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_schemas.topics import Topic
from meterproof_sinks.sink import Density
from meterproof_sinks.worker import run_sink
from tests.builders import DEPLOYMENT, NOW_MS
from tests.integration.sinks.test_sink_health import BOUNDS, wait_until
from tests.log_builder import LogBuilder

pytestmark = pytest.mark.broker


class _Slow:
    """Ends its first write when it is let."""

    name = "slow"

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.writes: list[list[int]] = []

    async def cursor(self, log: int) -> Cursor | None:
        return None

    async def write(self, partition: int, genesis: Genesis, records: list[tuple[int, LogRecord]]) -> None:
        self.writes.append([offset for offset, _ in records])
        await self.let.wait()

    async def density(self, partition: int) -> Density | None:
        return None

    async def close(self) -> None:
        pass


async def test_what_comes_during_a_write_goes_with_the_next(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path
) -> None:
    kafka = KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)
    await create_topics(
        kafka, Deployment("meter.example.com/test", DEPLOYMENT, 1), now_ms=NOW_MS, random_bytes=os.urandom
    )
    (genesis,) = (await read_geneses(kafka)).values()
    log = LogBuilder(genesis_value=genesis)
    sink, stop = _Slow(), asyncio.Event()
    status = StatusFile(tmp_path, sink.name)
    carrying = asyncio.create_task(run_sink(sink, kafka, status=status, stop=stop, bounds=BOUNDS))

    def read_to() -> int | None:
        shown = (read_status(tmp_path, sink.name) or {}).get("partitions", {})
        return shown["0"]["next"] if shown else None

    try:
        await wait_until(lambda: len(sink.writes) == 1, carrying)
        for _ in range(9):
            log.batch(3)
        async with RecordProducer(kafka) as producer:
            for _, record in log.records[1:]:
                await (await producer.send(kafka.topic(Topic.LOG), 0, record.value))
        await wait_until(lambda: read_to() == 10, carrying)
        sink.let.set()
        await wait_until(lambda: len(sink.writes) == 2, carrying)
        assert sink.writes == [[0], list(range(1, 10))]
    finally:
        stop.set()
        sink.let.set()
        await carrying
