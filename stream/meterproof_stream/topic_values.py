"""Reading the small topics whole, as a stage does when it takes a partition over."""

from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.errors import InvalidRecord, StageStopped
from meterproof_schemas.log_record import Genesis, decode_record
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.topics import Topic


async def read_values(kafka: KafkaSettings, topic: str, partition: int = 0) -> list[tuple[bytes, bytes]]:
    """All records (key, value) of a partition, oldest first; records without a value are left out."""
    async with PartitionReader(kafka, topic, partition) as reader:
        return [
            (record.key or b"", record.value)
            async for records in reader.read(*await reader.bounds())
            for record in records
            if record.value is not None
        ]


async def read_genesis(kafka: KafkaSettings, log: PartitionReader, partition: int) -> Genesis:
    """The genesis of a partition's log: from the log itself or, where that was trimmed, from `usage.checkpoints`.

    Raises:
        StageStopped: `log_diverged` when there is none.
    """
    start, end = await log.bounds()
    if start == 0:
        async for records in log.read(0, end):
            for record in records:
                genesis = _genesis_of(record.value)
                if genesis is not None:
                    return genesis
    else:
        for key, value in reversed(await read_values(kafka, kafka.topic(Topic.CHECKPOINTS))):
            genesis = _genesis_of(value) if key.endswith(b"|genesis") else None
            if genesis is not None and genesis.partition == partition:
                return genesis
    raise StageStopped(
        StopReason.LOG_DIVERGED,
        f"partition {partition} of the log has no genesis; create it with `meterproof topics create`.",
    )


def _genesis_of(value: bytes | None) -> Genesis | None:
    try:
        return decode_record(value).header.genesis
    except InvalidRecord:
        return None
