"""A producer whose every event is refused shows in log, status and metrics, and clears with the first one accepted."""

import asyncio
from pathlib import Path

import pytest

from meterproof_local.broker import LocalBroker
from tests.builders import make_key, make_registry_file
from tests.integration.stream.noting_process import metrics
from tests.integration.stream.workers import Pipeline

pytestmark = pytest.mark.broker


async def test_a_key_that_the_registry_lacks_is_told_until_it_is_listed(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path
) -> None:
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    stranger = make_key("stranger")
    with pipeline.worker(
        METERPROOF_WORKER_REFUSED_AFTER_S="1", METERPROOF_HEALTH_PORT="0", METERPROOF_HEALTH_HOST="127.0.0.1"
    ) as worker:
        worker.wait_until_holding()
        lines = pipeline.new_events(0, 2)
        await pipeline.send(0, [pipeline.batch(0, lines, key=stranger)])
        worker.wait_until(lambda status: bool(status["refused_producers"]))
        status = worker.status()
        assert status is not None
        (refused,) = status["refused_producers"]
        assert (refused["key_id"], refused["reason"], refused["events"]) == (stranger.key_id, "unknown_key", 2)
        exported = await asyncio.to_thread(metrics, status["health_port"])
        assert f'meterproof_producer_refused_seconds{{key_id="{stranger.key_id}"' in exported
        assert status["ready"], "a producer's fault is not the worker's"
        (pipeline.data / "keys" / "registry.json").write_bytes(make_registry_file(pipeline.key, stranger))
        before = status["registry"]
        worker.wait_until(lambda status: status["registry"] != before)
        await pipeline.send(0, [pipeline.batch(0, lines, key=stranger)])
        worker.wait_until(lambda status: not status["refused_producers"])
        worker.stop()
        told = [event["key_id"] for event in worker.events() if event["event"] == "producer_refused"]
        cleared = [event["key_id"] for event in worker.events() if event["event"] == "producer_accepted_again"]
        assert (told, cleared) == ([stranger.key_id], [stranger.key_id])
    await pipeline.check()
