"""What a stage reads when it takes a partition over: the log's genesis, and the small topics whole."""

from meterproof.kafka.errors import GenesisMissing, TopicsRefused
from meterproof.kafka.geneses import read_genesis
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.log_record import Genesis
from meterproof_schemas.reasons import StopReason


async def genesis_of_log(kafka: KafkaSettings, partition: int) -> Genesis:
    """The genesis of a partition's log.

    Raises:
        StageStopped: `log_diverged` when there is none, or something else stands in its place.
    """
    try:
        return await read_genesis(kafka, partition)
    except (GenesisMissing, TopicsRefused) as error:
        raise StageStopped(StopReason.LOG_DIVERGED, str(error)) from error


async def read_values(kafka: KafkaSettings, topic: str, partition: int = 0) -> list[tuple[bytes, bytes]]:
    """All records (key, value) of a partition, oldest first; records without a value are left out."""
    async with PartitionReader(kafka, topic, partition) as reader:
        return [
            (record.key or b"", record.value)
            async for records in reader.read(*await reader.bounds())
            for record in records
            if record.value is not None
        ]
