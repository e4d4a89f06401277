"""Connections that stay open and carry nothing any more, as after a firewall forgot them."""

from pathlib import Path

import pytest

from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.topics import Deployment, create_topics
from meterproof_schemas.topics import Topic
from tests.chaos.proxied_broker import proxied_broker

pytestmark = [pytest.mark.broker, pytest.mark.slow]


async def test_a_reader_gives_a_silent_connection_up(tmp_path: Path) -> None:
    broker, proxy, kafka = proxied_broker(tmp_path / "kafka")
    with broker, proxy:
        deployment = Deployment("meter.example.com/test", "test", partitions=1)
        await create_topics(kafka, deployment, now_ms=1_700_000_000_000, random_bytes=bytes)
        async with PartitionReader(kafka, kafka.topic(Topic.LOG), 0) as reader:
            assert await reader.bounds() == (0, 1)
            proxy.silence()
            assert await reader.bounds() == (0, 1)
            found = await reader.at(0)
            assert found is not None
            proxy.silence()
            assert await reader.at(0) == found
