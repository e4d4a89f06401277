"""The published price books in an audit folder, `prices/<version>.json`: what is on disk can be rated without Kafka.

A file is what the topic holds for that version, byte for byte. It is written once: a version never changes.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from meterproof.kafka.reader import Record
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.errors import InvalidRegistry, StageStopped
from meterproof_schemas.price_book import load_price_book, parse_price_book
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.topics import Topic
from meterproof_sinks.audit_errors import AuditError, DamagedAudit
from meterproof_sinks.disk import NEW_SUFFIX, Disk
from meterproof_sinks.small_topic import follow_small_topic

PRICES_FOLDER: Final = "prices"
"""In an audit folder, beside the logs."""
_SUFFIX: Final = ".json"

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.audit")


class PriceBooksDiffer(AuditError):
    """Two price books of one version have different content."""


def keep_price_book(audit: Path, content: bytes, disk: Disk) -> bool:
    """Keep a published price book; False if it is there already. Durable when it returns.

    Raises:
        InvalidRegistry: it is none.
        StageStopped: `log_diverged`; its version is there with other content, which stays.
        OSError: the disk refuses.
    """
    book = parse_price_book(content)
    folder = audit / PRICES_FOLDER
    file = folder / f"{book.version}{_SUFFIX}"
    if file.is_file():
        if file.read_bytes() != content:
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"version {book.version} of the price book was published with other content than {file} has. A version "
                "never changes, since bills were made from it: find out which of the two they were made from",
            )
        return False
    disk.make_folders(folder)
    disk.replace(file, content)
    return True


def kept_price_books(audit: Path) -> dict[int, bytes]:
    """The price books in an audit folder, by version, as they were published.

    Raises:
        DamagedAudit: a file is not the price book that its name says.
    """
    books = {}
    for file in sorted((audit / PRICES_FOLDER).glob("*")):
        if file.name.endswith(NEW_SUFFIX):  # a crash left it behind, and it means nothing
            continue
        content = file.read_bytes()
        try:
            version = parse_price_book(content).version
        except InvalidRegistry as error:
            raise DamagedAudit(file, None, None, f"is no price book: {error}") from error
        if file.name != f"{version}{_SUFFIX}":
            raise DamagedAudit(file, None, None, f"is version {version} of the price book, and so has the wrong name")
        books[version] = content
    return dict(sorted(books.items()))


def price_books_for(audit: Path, files: Sequence[Path]) -> dict[int, bytes]:
    """The price books to rate an audit folder's events with, by version: those kept in it, and those in files.

    Raises:
        PriceBooksDiffer: a file has a version that was published with other content.
        DamagedAudit: a kept one is not what its name says.
        InvalidRegistry: a file is no price book.
        OSError: a file cannot be read.
    """
    books = kept_price_books(audit)
    for file in files:
        content = file.read_bytes()
        book = load_price_book(file)
        kept = books.setdefault(book.version, content)
        if parse_price_book(kept) != book:
            raise PriceBooksDiffer(
                f"{file}: version {book.version} of the price book differs from the one that was published, or that "
                "another file has; a change is a new version"
            )
    return dict(sorted(books.items()))


async def follow_price_books(audit: Path, settings: KafkaSettings, *, stop: asyncio.Event, disk: Disk) -> None:
    """Keep every price book that is published, from the first one on, until `stop` is set.

    Raises:
        StageStopped: `log_diverged`; a version was published with other content.
        KafkaProblem: the topic is missing.
        OSError: the disk refuses.
    """

    async def keep(record: Record) -> None:
        if record.value is None:
            return
        try:
            await asyncio.to_thread(keep_price_book, audit, record.value, disk)
        except InvalidRegistry as error:
            _log.warning("audit_price_book_refused", reason=str(error), offset=record.offset)

    await follow_small_topic(settings, Topic.PRICE_BOOKS, keep, stop=stop)
