"""An audit folder of a log, with sealed segments and an open one."""

from pathlib import Path

from meterproof_sinks.audit_folder import log_folder_name
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.segment_writer import SegmentLimits
from tests.log_builder import LogBuilder, signed_pair


def write_sealed_folder(audit: Path, log: LogBuilder, *, bytes_max: int) -> None:
    """Append a log record by record, each signed for, and seal every segment that has ended."""
    writer = AuditLog(audit / log_folder_name(log.origin), log.origin, 0, limits=SegmentLimits(bytes_max=bytes_max))
    for number, record in enumerate(log.records):
        writer.append([record])
        writer.take_checkpoints(signed_pair(log, number))
    while writer.seal_next():
        pass
    writer.close()
