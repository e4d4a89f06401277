"""The audit worker: carries the log into the audit folder, and beside it follows the signed checkpoints."""

import asyncio
from collections.abc import Sequence

import structlog

from meterproof.kafka.errors import BrokerUnreachable
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.status import StatusFile
from meterproof_schemas.checkpoint_record import decode_checkpoint_record, genesis_key
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.topics import Topic
from meterproof_sinks.audit import AuditSink
from meterproof_sinks.worker import run_sink

_POLL_S = 1.0
_GENESIS_SUFFIX = genesis_key("")

_log = structlog.get_logger("meterproof.audit")


async def run_audit(
    sink: AuditSink,
    settings: KafkaSettings,
    partitions: Sequence[int] | None = None,
    *,
    status: StatusFile,
    stop: asyncio.Event,
) -> None:
    """Write these partitions (None: all) and their checkpoints until `stop` is set. Closes nothing it was given.

    Two tasks, `run_sink` and `follow_checkpoints`; if one fails, the other finishes what it is at and stops too.

    Raises:
        StageStopped: `log_diverged`; the disk is not what the log or a signed checkpoint says.
        Exception: whatever the sink or Kafka raised; the process should end and be started again.
    """
    tasks = [
        asyncio.create_task(run_sink(sink, settings, partitions, status=status, stop=stop), name="audit-records"),
        asyncio.create_task(follow_checkpoints(sink, settings, stop=stop), name="audit-checkpoints"),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def follow_checkpoints(sink: AuditSink, settings: KafkaSettings, *, stop: asyncio.Event) -> None:
    """Offer every record of `usage.checkpoints`, from the first one kept, to the sink until `stop` is set.

    Reading from the beginning is cheap: the topic is compacted to one checkpoint per log and hour.

    Raises:
        StageStopped: `log_diverged`; a checkpoint contradicts the disk.
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
                    note = decode_checkpoint_record(record.value).note
                except InvalidRecord as error:
                    sink.refused_checkpoints += 1
                    _log.warning("audit_checkpoint_refused", reason=str(error), offset=record.offset)
                    continue
                await sink.offer_checkpoint(note)
