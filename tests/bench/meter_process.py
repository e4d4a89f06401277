"""A service that reports as fast as it can through a real `Meter`: `python -m tests.bench.meter_process JOB`."""

import asyncio
import sys
from pathlib import Path

import orjson

from meterproof._kafka_transport import KafkaTransport
from meterproof._meter import Meter
from meterproof.kafka.settings import KafkaSettings
from meterproof.settings import MeterSettings
from tests.bench.load import AGENTS, DEPLOYMENT, PRODUCER, SOURCE, key


async def report(bootstrap: str, prefix: str, *, batch: int, events: int) -> None:
    """Record events, each with the fields of the load, and flush."""
    settings = MeterSettings(
        deployment=DEPLOYMENT, producer=PRODUCER, source=SOURCE, key_file=Path("-"), batch_lines_max=batch
    )
    transport = KafkaTransport(KafkaSettings(bootstrap=bootstrap, topic_prefix=prefix))
    agents = [f"agent-{number:04d}" for number in range(AGENTS)]
    async with Meter(settings, transport, key=key()) as meter:
        for number in range(events):
            agent = number % AGENTS
            await meter.record(
                agent=agents[agent],
                customer=f"customer-{agent % 25:02d}",
                usage={"input_tokens": number % 4_000 + 1, "output_tokens": number % 900 + 1},
                provider="openai",
                model="gpt-4o",
            )


if __name__ == "__main__":
    job = orjson.loads(sys.argv[1])
    asyncio.run(report(job["bootstrap"], job["prefix"], batch=job["batch"], events=job["events"]))
