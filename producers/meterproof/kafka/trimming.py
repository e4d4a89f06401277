"""Where trimmed logs begin, and the only deletion that meterproof makes: the beginning of `usage.log`."""

from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from meterproof.kafka.connection import admin_client
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.checkpoint_record import (
    CheckpointRecord,
    beginning_key,
    decode_checkpoint_record,
    encode_checkpoint_record,
)
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.topics import Topic


async def read_checkpoints(settings: KafkaSettings, origin: str) -> list[CheckpointRecord]:
    """What `usage.checkpoints` holds of one log, oldest first; no signature is verified here.

    Raises:
        KafkaProblem: the brokers do not answer or deny access.
    """
    found = []
    for _, record in await _read(settings):
        if record.header.origin == origin:
            found.append(record)
    return sorted(found, key=lambda record: record.header.log_offset)


async def read_beginnings(settings: KafkaSettings) -> dict[str, CheckpointRecord]:
    """By origin, the checkpoint at whose record a trimmed log begins, or will.

    Raises:
        KafkaProblem: the brokers do not answer or deny access.
    """
    return {
        record.header.origin: record
        for key, record in await _read(settings)
        if key == beginning_key(record.header.origin)
    }


async def trim_log(settings: KafkaSettings, partition: int, beginning: CheckpointRecord) -> None:
    """Let a log begin at the record of a checkpoint; whoever calls has made sure that nobody needs what is deleted.

    1. Remember the beginning in `usage.checkpoints`, where compaction keeps it. 2. Delete what is before it.

    A crash between the two deletes nothing, and the log is read from its real beginning.

    Raises:
        KafkaProblem: the brokers do not answer, refuse, or deny access.
    """
    header = beginning.header
    async with RecordProducer(settings) as producer:  # 1
        value = encode_checkpoint_record(beginning)
        topic = settings.topic(Topic.CHECKPOINTS)
        await (await producer.send(topic, 0, value, beginning_key(header.origin)))
    async with admin_client(settings) as admin:  # 2
        place = TopicPartition(settings.topic(Topic.LOG), partition)
        await admin.delete_records({place: RecordsToDelete(before_offset=header.log_offset)})


async def _read(settings: KafkaSettings) -> list[tuple[bytes, CheckpointRecord]]:
    found = []
    async with PartitionReader(settings, settings.topic(Topic.CHECKPOINTS), 0) as reader:
        async for records in reader.read(*await reader.bounds()):
            for record in records:
                try:
                    found.append((record.key or b"", decode_checkpoint_record(record.value)))
                except InvalidRecord:  # a genesis, or a tombstone
                    continue
    return found
