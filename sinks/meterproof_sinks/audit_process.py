"""The audit worker as a process: settings, signals, one line on stderr for how it ended, and the exit code."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Final

from meterproof.deployment import DataFolder
from meterproof.errors import MeterError
from meterproof.kafka.errors import KafkaProblem
from meterproof.kafka.settings import KafkaSettings
from meterproof.status import StatusFile
from meterproof_schemas.errors import StageStopped
from meterproof_sinks.audit import AuditDiskError, AuditSink, SegmentLimits
from meterproof_sinks.audit_folder import AuditError, AuditFault
from meterproof_sinks.audit_worker import run_audit
from meterproof_sinks.verification import NoVerifierKey, load_verifiers

CLEAN: Final = 0
"""Stopped as asked."""
NOT_STARTED: Final = 1
"""A file, folder or topic is missing or in use, or Kafka does not answer."""
UNEXPECTED: Final = 70
"""The disk refused; nothing of that write counts. Started again, it goes on after the last whole record."""
STOPPED: Final = 78
"""Stopped for a person: log, checkpoint and disk contradict each other, or the disk was changed."""


def run_process(
    data: Path,
    *,
    bootstrap: str | None,
    topic_prefix: str | None,
    folder: Path | None,
    vkey: Path | None,
    partitions: list[int] | None,
    segment_bytes: int,
    segment_age_ms: int,
) -> int:
    """Run the worker until SIGTERM or SIGINT; its exit code. Unexpected errors come out.

    Args:
        data: the deployment's folder on this machine: what is not given is taken from there.
        bootstrap: Kafka's address.
        topic_prefix: of the deployment's topics.
        folder: the audit folder.
        vkey: the logs' verifier keys.
        partitions: which to write; None for all.
        segment_bytes: when a segment ends.
        segment_age_ms: the same, by ingest clock.

    """
    places = DataFolder(data)
    try:
        settings = _kafka_settings(places, bootstrap, topic_prefix)
        keys = vkey or places.vkeys
        verifiers = load_verifiers(keys) if vkey is not None or keys.exists() else []
    except (MeterError, NoVerifierKey) as error:
        return _end(error, NOT_STARTED)
    limits = SegmentLimits(segment_bytes, segment_age_ms)
    sink = AuditSink(folder or places.audit, verifiers=verifiers, limits=limits)
    return asyncio.run(_run(sink, settings, partitions, places.status))


async def _run(sink: AuditSink, settings: KafkaSettings, partitions: list[int] | None, status: Path) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await run_audit(sink, settings, partitions, status=StatusFile(status, sink.name), stop=stop)
    except (StageStopped, AuditFault) as error:
        return _end(error, STOPPED)
    except AuditDiskError as error:
        return _end(error, UNEXPECTED)
    except (AuditError, KafkaProblem) as error:
        return _end(error, NOT_STARTED)
    finally:
        await sink.close()
    return CLEAN


def _end(error: Exception, code: int) -> int:
    sys.stderr.write(f"meterproof sink audit: {error}\n")
    return code


def _kafka_settings(places: DataFolder, bootstrap: str | None, topic_prefix: str | None) -> KafkaSettings:
    """Arguments first, then `METERPROOF_KAFKA_…`, then the deployment file of the data folder if there is one."""
    settings = KafkaSettings()
    stated: dict[str, str | None] = {"bootstrap": bootstrap, "topic_prefix": topic_prefix}
    if places.deployment_file.exists():
        deployment = places.deployment()
        for field, value in (("bootstrap", deployment.bootstrap), ("topic_prefix", deployment.topic_prefix)):
            if stated[field] is None and field not in settings.model_fields_set:
                stated[field] = value
    return settings.model_copy(update={field: value for field, value in stated.items() if value is not None})
