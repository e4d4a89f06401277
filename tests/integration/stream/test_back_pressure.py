"""Records that wait do so on Kafka: behind a slow broker a sequencer's memory does not grow with what waits."""

import asyncio
import resource
import sys
import time
from pathlib import Path

import pytest

from meterproof.kafka.producer import RecordProducer
from meterproof_schemas.topics import Topic
from meterproof_stream.runtime import Runtime
from tests.chaos.proxied_broker import proxied_broker
from tests.integration.stream.workers import PATIENCE_S, Pipeline, Worker

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc"),
]

WAITING = 200_000
ROUND_TRIP_S = 0.1
WARM_RECORDS = 600
"""More than may be on their way: after so many, everything that is bounded has been filled once."""
MEASURED_S = 8.0
GROWTH_BYTES_MAX = 64 * 1024 * 1024
"""What memory may grow by afterwards; what waits is several times as much."""


def resident(pid: int) -> int:
    """Bytes of memory that a process has now: proc(5), statm, second field."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def log_end(worker: Worker) -> int:
    return int((worker.status() or {})["partitions"]["0"]["log_end"])


async def test_memory_stays_flat_while_200_000_records_wait_behind_a_slow_broker(tmp_path: Path) -> None:
    broker, proxy, kafka = proxied_broker(tmp_path / "kafka")
    with broker, proxy:
        pipeline = await Pipeline.create(broker.bootstrap, "", tmp_path / "data", partitions=1)
        value = pipeline.batch(0, pipeline.new_events(0, 2))
        assert WAITING * len(value) > 2 * GROWTH_BYTES_MAX
        async with RecordProducer(pipeline.kafka) as producer:
            topic = pipeline.kafka.topic(Topic.BATCHES)
            deliveries = [await producer.send(topic, 0, value) for _ in range(WAITING)]
            await deliveries[-1]
        assert await pipeline.source_end(0) == WAITING
        proxy.latency(ROUND_TRIP_S)
        for runtime in Runtime:
            behind = Pipeline(kafka, pipeline.data, 1, runtime, pipeline.key)
            # A name for both, so that the second has the place of the first at once; and a session to keep it.
            with behind.worker(METERPROOF_WORKER_SESSION_TIMEOUT_S="60") as worker:
                worker.wait_until_holding()
                begin, in_flight = log_end(worker), 0
                deadline_s = time.monotonic() + 2 * PATIENCE_S
                while log_end(worker) < begin + WARM_RECORDS:
                    assert time.monotonic() < deadline_s, worker.log()
                    await asyncio.sleep(0.1)
                begin, samples = log_end(worker), [resident(worker.process.pid)]
                end_s = time.monotonic() + MEASURED_S
                while time.monotonic() < end_s or log_end(worker) == begin:
                    assert time.monotonic() < deadline_s + MEASURED_S, worker.log()
                    samples.append(resident(worker.process.pid))
                    in_flight = max(in_flight, (worker.status() or {})["in_flight"]["records"])
                    await asyncio.sleep(0.1)
                carried = log_end(worker) - begin
                assert worker.stop() == 0
            mib = [round(size / 2**20) for size in (samples[0], max(samples))]
            sys.stdout.write(f"\n{runtime}: {mib[0]} MiB, at most {mib[1]} MiB; {carried} records\n")
            assert in_flight <= 501
            assert max(samples) - samples[0] < GROWTH_BYTES_MAX, (runtime, samples[0], max(samples))
        assert (await pipeline.source_end(0)) - (await pipeline.log(0)).next_source_offset > WAITING / 2
