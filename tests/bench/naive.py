"""A naive Faust app on the same broker, for comparison; see `naive_faust.py`."""

import sys
from pathlib import Path

import orjson

from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from tests.bench.load import PARTITIONS
from tests.bench.publish import EVENTS_TOPIC
from tests.bench.result import Run
from tests.bench.rig import Rig, expect


async def measure_naive(rig: Rig, *, events: int) -> Run:
    """Drain a topic of single events; the rate is of input events, by the append time of what was forwarded.

    Every distinct event must have been forwarded exactly once.
    """
    prefix = rig.new_prefix()
    kafka = KafkaSettings(bootstrap=rig.broker.bootstrap, topic_prefix=prefix)
    source, forwarded, changelog = prefix + EVENTS_TOPIC, prefix + "forwarded", f"{prefix}naive-seen-changelog"
    await rig.create_topics([source, forwarded])
    try:
        expected = await rig.publish(kafka, "events", batch=100, events=events)
        rig.say("deduplicating")
        environment = {
            "NAIVE_BOOTSTRAP": kafka.bootstrap,
            "NAIVE_PREFIX": prefix,
            "NAIVE_PARTITIONS": str(PARTITIONS),
        }
        command = [
            *(str(Path(sys.executable).with_name("faust")), "-A", "tests.bench.naive_faust"),
            *("--datadir", str(rig.folder / prefix), "worker", "--without-web", "--loglevel", "warn"),
        ]
        readers = [PartitionReader(kafka, forwarded, partition) for partition in range(PARTITIONS)]
        total = sum(one.accepted for one in expected)
        with rig.started(command, measured=True, environment=environment) as process:
            for reader in readers:
                await reader.start()

            async def drained() -> bool:
                return sum([(await reader.bounds())[1] for reader in readers]) >= total

            try:
                await process.until(drained)
                rig.say("checking the result")
                output: list[tuple[float, int]] = []
                identities: set[str] = set()
                for reader in readers:
                    async for chunk in reader.read(*await reader.bounds()):
                        output += [(record.timestamp_ms, 1) for record in chunk]
                        identities.update(orjson.loads(record.value or b"{}")["id"] for record in chunk)
            finally:
                for reader in readers:
                    await reader.stop()
        expect("events forwarded", len(output), total)
        expect("distinct events forwarded", len(identities), total)
        came_in = total + sum(one.duplicates for one in expected)
        return rig.run_of(output, process, factor=came_in / total)
    finally:
        await rig.delete_topics([source, forwarded, changelog])
