"""Apps by others' means that deduplicate bare events: each reads one topic and forwards every distinct event once."""

from collections.abc import Sequence
from typing import Literal

import orjson

from meterproof.kafka.connection import admin_client
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from tests.bench.load import PARTITIONS
from tests.bench.publish import BARE_TOPIC
from tests.bench.result import Run
from tests.bench.rig import Rig, expect


async def measure_forwarding(
    rig: Rig, command: Sequence[str], *, kind: Literal["events", "bare-batches"], events: int, batch: int = 100
) -> Run:
    """Drain a topic of bare events, of one or of `batch` per record; the rate is of input events, by append time.

    The command gets `APP_BOOTSTRAP`, `APP_SOURCE`, `APP_TARGET`, `APP_PARTITIONS` (of both topics), `APP_NAME` (what
    the names of its group and topics are to contain) and `APP_FOLDER` (for its state). It is killed at the end.

    Every distinct event must have been forwarded exactly once.
    """
    prefix = rig.new_prefix()
    kafka = KafkaSettings(bootstrap=rig.broker.bootstrap, topic_prefix=prefix)
    source, target = prefix + BARE_TOPIC, prefix + "forwarded"
    await rig.create_topics([source, target])
    try:
        expected = await rig.publish(kafka, kind, batch=batch, events=events)
        rig.say("deduplicating")
        total = sum(one.accepted for one in expected)
        readers = [PartitionReader(kafka, target, partition) for partition in range(PARTITIONS)]
        environment = {
            "APP_BOOTSTRAP": kafka.bootstrap,
            "APP_SOURCE": source,
            "APP_TARGET": target,
            "APP_PARTITIONS": str(PARTITIONS),
            "APP_NAME": f"{prefix}app",
            "APP_FOLDER": str(rig.folder / prefix),
        }
        with rig.started(command, measured=True, environment=environment) as process:
            for reader in readers:
                await reader.start()
            found = _Forwarded(readers, total if kind == "events" else sum(one.records for one in expected))
            try:
                await process.until(lambda: found.reaches(total))
            finally:
                for reader in readers:
                    await reader.stop()
        rig.say("checking the result")
        expect("events forwarded", sum(count for _, count in found.output), total)
        expect("distinct events forwarded", len(found.identities()), total)
        came_in = total + sum(one.duplicates for one in expected)
        return rig.run_of(found.output, process, factor=came_in / total)
    finally:
        await rig.delete_topics(await _topics(kafka))


class _Forwarded:
    """What stands on the target topic; read only once its end offsets say that it may be complete."""

    def __init__(self, readers: list[PartitionReader], records: int) -> None:
        self.output: list[tuple[float, int]] = []
        """(append time, events) of each record."""
        self._readers = readers
        self._records = records
        self._ends = [0] * len(readers)
        self._lines: list[bytes] = []

    async def reaches(self, total: int) -> bool:
        """Whether so many events were forwarded. Markers of transactions take offsets too, so these only bound it."""
        ends = [(await reader.bounds())[1] for reader in self._readers]
        if sum(ends) < self._records:
            return False
        for number, (reader, end) in enumerate(zip(self._readers, ends, strict=True)):
            async for chunk in reader.read(self._ends[number], end):
                for record in chunk:
                    lines = (record.value or b"").splitlines()
                    self.output.append((record.timestamp_ms, len(lines)))
                    self._lines += lines
            self._ends[number] = end
        return len(self._lines) >= total

    def identities(self) -> set[str]:
        """The ids of all events forwarded."""
        return {orjson.loads(line)["id"] for line in self._lines}


async def _topics(kafka: KafkaSettings) -> list[str]:
    """All topics of one measurement, also those that an app made for its state."""
    async with admin_client(kafka) as admin:
        return [name for name in await admin.list_topics() if kafka.topic_prefix in name]
