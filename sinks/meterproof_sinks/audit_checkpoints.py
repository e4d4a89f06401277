"""What the audit worker does beside carrying records: it follows the signed checkpoints."""

import asyncio

import structlog

from meterproof.kafka.errors import BrokerUnreachable
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.checkpoint_record import decode_checkpoint_record, genesis_key
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.topics import Topic
from meterproof_sinks.audit_sink import AuditSink

_POLL_S = 1.0
_GENESIS_SUFFIX = genesis_key("")

_log = structlog.get_logger("meterproof.audit")


async def follow_checkpoints(sink: AuditSink, settings: KafkaSettings, *, stop: asyncio.Event) -> None:
    """Offer every record of `usage.checkpoints`, from the first one kept, to the sink until `stop` is set.

    Reading from the beginning is cheap: the topic is compacted to one checkpoint per log and hour.

    Raises:
        StageStopped: `log_diverged`; two checkpoints contradict each other.
        KafkaProblem: the topic is missing or was re-created.
    """
    async with PartitionReader(settings, settings.topic(Topic.CHECKPOINTS), 0) as reader:
        start, _ = await reader.bounds()
        await reader.seek(start)
        while not stop.is_set():
            try:
                records = await reader.poll(_POLL_S)
            except BrokerUnreachable:
                continue  # the client keeps on trying; a broker's restart must not stop the worker
            for record in records:
                if (record.key or b"").endswith(_GENESIS_SUFFIX) or record.value is None:
                    continue
                try:
                    found = decode_checkpoint_record(record.value)
                except InvalidRecord as error:
                    sink.refused_checkpoints += 1
                    _log.warning("audit_checkpoint_refused", reason=str(error), offset=record.offset)
                    continue
                sink.offer_checkpoints(found.note, found.records_note)
