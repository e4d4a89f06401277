"""The helper that services embed: record, validate, sign and send through a real `Meter`."""

import sys

import orjson

from meterproof.kafka.reader import PartitionReader
from meterproof_schemas.batch import decode_batch, root_of_lines
from meterproof_schemas.topics import Topic
from tests.bench.load import PARTITIONS
from tests.bench.result import Run
from tests.bench.rig import Rig, expect


async def measure_meter(rig: Rig, *, batch: int, events: int) -> Run:
    """Report events from one process; the rate is of events, by the append time of their batch on `usage.batches`.

    Every event must have arrived, in batches whose stated root is the root over their lines.
    """
    async with rig.deployment() as deployment:
        kafka = deployment.kafka
        rig.say("reporting")
        job = {"bootstrap": kafka.bootstrap, "prefix": kafka.topic_prefix, "batch": batch, "events": events}
        command = [sys.executable, "-m", "tests.bench.meter_process", orjson.dumps(job).decode()]
        with rig.started(command, measured=True) as process:
            await process.end()
        rig.say("checking the result")
        output: list[tuple[float, int]] = []
        lines: set[bytes] = set()
        for partition in range(PARTITIONS):
            async with PartitionReader(kafka, kafka.topic(Topic.BATCHES), partition) as reader:
                async for chunk in reader.read(*await reader.bounds()):
                    for record in chunk:
                        read = decode_batch(record.value or b"")
                        expect("root of a batch", read.header.root, root_of_lines(read.lines).hex())
                        output.append((record.timestamp_ms, len(read.lines)))
                        lines.update(read.lines)
        expect("distinct events that arrived", len(lines), events)
        return rig.run_of(output, process)
