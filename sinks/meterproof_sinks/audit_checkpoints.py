"""What the audit worker does beside carrying records: it follows the signed checkpoints."""

import asyncio

import structlog

from meterproof.kafka.reader import Record
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.checkpoint_record import decode_checkpoint_record, genesis_key
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.topics import Topic
from meterproof_sinks.audit_sink import AuditSink
from meterproof_sinks.small_topic import follow_small_topic

_GENESIS_SUFFIX = genesis_key("")

_log = structlog.get_logger("meterproof.audit")


async def follow_checkpoints(sink: AuditSink, settings: KafkaSettings, *, stop: asyncio.Event) -> None:
    """Offer every record of `usage.checkpoints`, from the first one kept, to the sink until `stop` is set.

    Reading from the beginning is cheap: the topic is compacted to one checkpoint per log and hour.

    Raises:
        StageStopped: `log_diverged`; two checkpoints contradict each other.
        KafkaProblem: the topic is missing.
    """

    async def offer(record: Record) -> None:
        if (record.key or b"").endswith(_GENESIS_SUFFIX) or record.value is None:
            return
        try:
            found = decode_checkpoint_record(record.value)
        except InvalidRecord as error:
            _log.warning("audit_checkpoint_refused", reason=str(error), offset=record.offset)
        else:
            sink.offer_checkpoints(found.note, found.records_note)

    await follow_small_topic(settings, Topic.CHECKPOINTS, offer, stop=stop)
