"""Progress is health: who does nothing is ended, who waits is not, and probes are told which of both it is."""

import asyncio
import time
from pathlib import Path

import pytest

from meterproof.deployment import DataFolder
from meterproof.exit_codes import CLEAN, NOT_STARTED, UNEXPECTED
from meterproof.kafka.settings import KafkaSettings
from meterproof_local.broker import LocalBroker
from meterproof_stream.runtime import Runtime
from tests.builders import make_registry_file
from tests.chaos.proxied_broker import proxied_broker
from tests.integration.stream.noting_process import NotingWorker, probe
from tests.integration.stream.workers import PATIENCE_S, Pipeline, whatever_runs_it

pytestmark = pytest.mark.broker

STALL_S = 5


@pytest.fixture
async def pipeline(broker: LocalBroker, topic_prefix: str, tmp_path: Path) -> Pipeline:
    """Ten records for whoever takes them."""
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    await pipeline.send(0, [b"%d" % number for number in range(10)])
    return pipeline


@whatever_runs_it
async def test_a_partition_that_stands_while_records_wait_is_unhealthy_and_ends_the_process(
    pipeline: Pipeline, runtime: Runtime
) -> None:
    settings = {"stall_timeout_s": STALL_S, "slow_after_s": 1}
    with NotingWorker(pipeline, runtime, hang_at=5, health_port=0, settings=settings) as worker:
        worker.wait_until(lambda: bool(worker.notes("hang")))
        worker.wait_until(lambda: "though records wait" in str(worker.probe("/readyz")))
        assert worker.probe("/livez")[0] in {200, 503}
        worker.wait_until(lambda: worker.probe("/livez")[0] == 503 or worker.process.poll() is not None)
        assert worker.end() == UNEXPECTED
        assert "WorkerStalled" in worker.log()
        assert "partition_stuck" in worker.log()
        assert "nothing was taken for 5 s, though records stand at offset 5" in worker.log()


@whatever_runs_it
async def test_a_partition_that_waits_for_somebody_else_is_alive_and_not_ready(
    pipeline: Pipeline, runtime: Runtime
) -> None:
    settings = {"stall_timeout_s": STALL_S, "slow_after_s": 1}
    with NotingWorker(pipeline, runtime, hang_at=5, waits_for="the moon", health_port=0, settings=settings) as worker:
        worker.wait_until(lambda: "waiting for the moon" in str(worker.probe("/readyz")))
        worker.wait_until(lambda: worker.status()["partitions"]["0"]["waiting_s"] > 2 * STALL_S)
        assert worker.probe("/livez")[0] == 200
        assert worker.probe("/readyz")[0] == 503


@whatever_runs_it
async def test_a_worker_with_nothing_to_do_is_ready(pipeline: Pipeline, runtime: Runtime) -> None:
    with NotingWorker(pipeline, runtime, health_port=0, settings={"stall_timeout_s": STALL_S}) as worker:
        worker.wait_until(lambda: len(worker.fed()) == 10)
        worker.wait_until(lambda: worker.probe("/readyz") == (200, []))
        ready_s = time.monotonic()
        while time.monotonic() < ready_s + STALL_S + 2:
            assert worker.probe("/livez")[0] == 200
            await asyncio.sleep(0.5)
        worker.process.terminate()
        assert worker.end() == CLEAN


@whatever_runs_it
async def test_an_event_loop_that_stands_ends_the_process_and_says_where_it_stands(
    pipeline: Pipeline, runtime: Runtime
) -> None:
    with NotingWorker(pipeline, runtime, spin_at=5, settings={"stall_timeout_s": STALL_S}) as worker:
        assert worker.end() == UNEXPECTED
        assert "the event loop did nothing for 5 s; the main thread stands in feed (" in worker.log()


@whatever_runs_it
async def test_sigterm_ends_a_process_whose_event_loop_stands(pipeline: Pipeline, runtime: Runtime) -> None:
    settings = {"stall_timeout_s": 600, "stop_deadline_s": 1}
    with NotingWorker(pipeline, runtime, spin_at=5, settings=settings) as worker:
        worker.wait_until(lambda: bool(worker.notes("spin")))
        worker.process.terminate()
        assert worker.end() == UNEXPECTED
        assert "asked to stop 1 s ago and still running" in worker.log()


@whatever_runs_it
async def test_a_take_over_waits_for_a_broker_that_is_away(pipeline: Pipeline, runtime: Runtime) -> None:
    back, settings = pipeline.data / "back", {"stall_timeout_s": STALL_S}
    with NotingWorker(pipeline, runtime, back=str(back), health_port=0, settings=settings) as worker:
        worker.wait_until(lambda: len(worker.notes("take over")) > STALL_S + 1)  # a try a second
        worker.wait_until(lambda: "waiting for the broker" in str(worker.probe("/readyz")))
        assert worker.probe("/livez")[0] == 200
        assert not worker.fed()
        back.touch()
        worker.wait_until(lambda: len(worker.fed()) == 10)
        assert worker.fed() == list(range(10))
        assert len(worker.notes("taken over")) == 1
        worker.wait_until(lambda: worker.probe("/readyz") == (200, []))


def test_a_start_gives_up_after_a_while_and_says_what_to_do(tmp_path: Path) -> None:
    nowhere = Pipeline(KafkaSettings(bootstrap="127.0.0.1:1"), tmp_path, 1)
    DataFolder(tmp_path).keys.mkdir()
    DataFolder(tmp_path).registry.write_bytes(make_registry_file(nowhere.key))
    with nowhere.worker(METERPROOF_WORKER_START_TIMEOUT_S="0") as worker:
        assert worker.wait() == NOT_STARTED
        last = worker.log().splitlines()[-1]
        assert "Kafka at 127.0.0.1:1 does not answer" in last
        assert "METERPROOF_KAFKA_BOOTSTRAP" in last
        assert (worker.status() or {})["state"] == "failed"


@pytest.mark.slow
@whatever_runs_it
async def test_a_broker_that_goes_away_is_waited_for_and_does_not_hold_up_a_stop(
    tmp_path: Path, runtime: Runtime
) -> None:
    """At its start and in a take-over the sequencer lives, takes nothing, goes on; then it is stopped without one."""
    broker, proxy, kafka = proxied_broker(tmp_path / "kafka")
    with broker, proxy:
        pipeline = await Pipeline.create(broker.bootstrap, "", tmp_path / "data", partitions=2, runtime=runtime)
        for partition in range(2):
            await pipeline.send(partition, [pipeline.batch(partition, pipeline.new_events(partition, 3))])
        behind = Pipeline(kafka, pipeline.data, 2, runtime, pipeline.key)
        broker.kill()
        with behind.worker(METERPROOF_HEALTH_PORT="0", METERPROOF_KAFKA_REQUEST_TIMEOUT_S="10") as worker:
            worker.wait_until(lambda status: "does not answer" in str(status["reasons"]))
            early = worker.status()
            assert early is not None
            assert early["state"] == "starting"
            assert probe(early["health_port"], "/livez")[0] == 200
            assert probe(early["health_port"], "/readyz")[0] == 503
            broker.restart()
            worker.wait_until_holding()
            await pipeline.wait_until_sequenced(worker)
            proxy.latency(1.0)
            with pipeline.worker(instance="two") as other:
                # Its joining makes the first take over anew, slowly.
                worker.wait_until(lambda status: status["state"] == "taking over")
                proxy.cut(PATIENCE_S * 10)
                worker.wait_until(lambda status: status["state"] == "waiting for the broker")
                status = worker.status()
                assert status is not None
                assert probe(status["health_port"], "/livez")[0] == 200
                assert probe(status["health_port"], "/readyz")[0] == 503
                proxy.latency(0.0)
                proxy.cut(0)
                worker.wait_until_running()
                other.wait_until_running()
            for partition in range(2):
                await pipeline.send(partition, [pipeline.batch(partition, pipeline.new_events(partition, 3))])
            await pipeline.wait_until_sequenced(worker)
            await pipeline.check()
            port = (worker.status() or {})["health_port"]
            proxy.cut(PATIENCE_S * 2)
            deadline_s = time.monotonic() + PATIENCE_S
            while probe(port, "/readyz")[0] != 503:
                assert time.monotonic() < deadline_s
                await asyncio.sleep(0.2)
            assert probe(port, "/livez")[0] == 200
            assert worker.stop() in {CLEAN, UNEXPECTED}
