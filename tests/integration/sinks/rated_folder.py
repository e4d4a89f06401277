"""Two rated logs, and the audit folder that holds them beside their price books."""

from pathlib import Path
from typing import Final

from meterproof_schemas.price_book import encode_price_book
from meterproof_sinks.audit_folder import log_folder_name
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.disk import Disk
from meterproof_sinks.price_book_folder import keep_price_book
from meterproof_sinks.segment_writer import SegmentLimits
from tests.rated_log import BOOKS, RatedLog

PARTITIONS: Final = 2


def rated_logs(seed: int) -> list[RatedLog]:
    """One log for each partition, without an id that another has."""
    logs = [RatedLog(partition=number, partitions=PARTITIONS, seed=seed + number) for number in range(PARTITIONS)]
    for log in logs:
        log._made = 10_000 * log.partition
        log.grow(15)
    return logs


def write_audit_folder(data: Path, logs: list[RatedLog]) -> Path:
    """Append what the audit folder lacks of these logs, and keep the price books in it and beside it."""
    audit = data / "audit"
    for log in logs:
        folder = audit / log_folder_name(log.origin)
        writer = AuditLog(folder, log.origin, log.partition, limits=SegmentLimits(bytes_max=20_000))
        there = writer.cursor
        writer.append([item for item in log.records if there is None or item[0] > there.log_offset])
        writer.close()
    for version, book in BOOKS.items():
        content = encode_price_book(book)
        (data / f"book-{version}.json").write_bytes(content)
        keep_price_book(audit, content, Disk())
    return audit
