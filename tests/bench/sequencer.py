"""The sequencer end to end: signed batches on `usage.batches`, a real worker, records on `usage.log`."""

from typing import Literal

from meterproof.kafka.reader import PartitionReader
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.topics import Topic
from tests.bench.load import PARTITIONS
from tests.bench.result import Run
from tests.bench.rig import Rig, expect


async def measure_sequencer(
    rig: Rig,
    *,
    batch: int,
    events: int,
    runtime: Literal["faust", "asyncio"] = "faust",
    index: Literal["memory", "rocksdb"] = "memory",
) -> Run:
    """Drain a topic that was filled before; the rate is of input events, by the append time of their log record.

    The log is folded afterwards: counts and roots must be those of the load.
    """
    async with rig.deployment() as deployment:
        expected = await deployment.publish("batches", batch=batch, events=events)
        rig.say("sequencing")
        topic = deployment.kafka.topic(Topic.LOG)
        readers = [PartitionReader(deployment.kafka, topic, partition) for partition in range(PARTITIONS)]
        with deployment.worker(
            "sequencer", "run", "--instance=bench", f"--runtime={runtime}", f"--index={index}"
        ) as process:
            for reader in readers:
                await reader.start()

            async def drained() -> bool:
                for reader, one in zip(readers, expected, strict=True):
                    if (await reader.bounds())[1] <= one.records:  # the genesis is one more
                        return False
                return True

            try:
                await process.until(drained)
            finally:
                for reader in readers:
                    await reader.stop()
        output: list[tuple[float, int]] = []

        def note(append_ms: int, record: LogRecord) -> None:
            output.append((append_ms, record.header.accepted + len(record.header.not_accepted)))

        states = await deployment.fold_log(note)
        for state, one in zip(states, expected, strict=True):
            what = f"partition {one.partition}"
            counts = {"accepted": one.accepted, "duplicate": one.duplicates}
            expect(f"{what}: lines by verdict", dict(state.counts), counts)
            expect(f"{what}: root", state.frontier.root().hex(), one.root)
            expect(f"{what}: source records", state.next_source_offset, one.records)
            expect(f"{what}: echoes", state.foreign, 0)
        return rig.run_of(output, process)
