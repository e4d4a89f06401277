"""The audit worker: carries the log into the audit folder, and follows the signed checkpoints and the price books."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from meterproof.deployment import DataFolder
from meterproof.kafka.settings import KafkaSettings
from meterproof_proofs.key_files import read_verifiers
from meterproof_sinks.audit_checkpoints import follow_checkpoints
from meterproof_sinks.audit_errors import AuditDiskError
from meterproof_sinks.audit_sink import AuditSink
from meterproof_sinks.batch_bounds import BatchBounds
from meterproof_sinks.disk import Disk
from meterproof_sinks.legal_holds import HOLDS_FILE
from meterproof_sinks.price_book_folder import follow_price_books
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.sink import Sink
from meterproof_sinks.sink_process import run_sink_process, run_together


def run_audit_process(
    data: Path,
    *,
    bootstrap: str | None,
    topic_prefix: str | None,
    folder: Path | None,
    vkey: Path | None,
    partitions: list[int] | None,
    limits: SegmentLimits,
) -> int:
    """Run the worker until SIGTERM or SIGINT; its exit code, see `sink_process`.

    Args:
        data: the deployment's folder on this machine: what is not given is taken from there.
        bootstrap: Kafka's address.
        topic_prefix: of the deployment's topics.
        folder: the audit folder.
        vkey: the logs' verifier keys; None takes the data folder's, if it has them.
        partitions: which to write; None for all.
        limits: when a segment ends.

    Raises:
        NoVerifierKey: `vkey` holds no verifier key.
        AuditDiskError: the audit folder cannot be made, or not be written to.
        TopicsUnfit, KafkaProblem, MeterError: see `run_sink_process`.

    """
    places = DataFolder(data)
    keys = vkey or places.vkeys
    verifiers = read_verifiers(keys) if vkey is not None or keys.exists() else []
    audit = folder or places.audit
    disk = Disk()
    sink = AuditSink(audit, verifiers=verifiers, limits=limits, disk=disk)

    @asynccontextmanager
    async def opened(_: KafkaSettings) -> AsyncIterator[Sink]:
        require_writable(audit, disk)
        try:
            yield sink
        finally:
            await sink.close()

    async def beside(kafka: KafkaSettings, stop: asyncio.Event) -> None:
        await run_together(
            stop,
            follow_checkpoints(sink, kafka, stop=stop),
            follow_price_books(audit, kafka, stop=stop, disk=disk),
            sink.publish_until(stop),
            sink.seal_until(stop),
            sink.carry_out_until(stop, data / HOLDS_FILE),
        )

    return run_sink_process(
        opened,
        name=sink.name,
        data=data,
        bootstrap=bootstrap,
        topic_prefix=topic_prefix,
        partitions=partitions,
        bounds=BatchBounds(),
        beside=beside,
    )


def require_writable(audit: Path, disk: Disk) -> None:
    """Make the audit folder if it is missing, and look whether it can be written to.

    Raises:
        AuditDiskError: it cannot.
    """
    try:
        disk.make_folders(audit)
        fault = None if os.access(audit, os.R_OK | os.W_OK | os.X_OK) else "this user may not write there"
    except OSError as error:
        fault = f"it cannot be made: {error}"
    if fault is not None:
        raise AuditDiskError(f"the audit folder {audit} cannot be used: {fault}. Mend that, or name another: --folder")
