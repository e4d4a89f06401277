"""The published price books: every version for ever, each under its number."""

import re
from typing import Final

from meterproof.kafka.errors import PriceBookConflict
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader, Record
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.errors import InvalidRecord, InvalidRegistry
from meterproof_schemas.price_book import PriceBook, encode_price_book, parse_price_book
from meterproof_schemas.topics import Topic

_VERSION: Final = re.compile(rb"[1-9][0-9]{0,17}")
"""A version's key."""


async def read_price_books(settings: KafkaSettings) -> dict[int, PriceBook]:
    """All versions published by now, by number, ascending.

    Of each version, the newest record holds, as after compaction. What stands under a key that is no version's is
    nobody's price book: it is passed over.

    Raises:
        InvalidRecord: what stands under a version is not this version's price book; names it, and says what to do.
        TopicMissing: the topic does not exist.
        KafkaProblem: the brokers do not answer or deny access.
    """
    books: dict[int, PriceBook] = {}
    for version, records in sorted((await _records(settings)).items()):
        book = _book_of(version, records[-1].value)
        if isinstance(book, str):
            place = f"{settings.topic(Topic.PRICE_BOOKS)}: offset {records[-1].offset}"
            message = (
                f"{place}: {book}; publish version {version} again from its file: `meterproof prices publish FILE`"
            )
            raise InvalidRecord(message)
        books[version] = book
    return books


async def publish_price_book(settings: KafkaSettings, book: PriceBook) -> bool:
    """Publish a version; False if it is there already with equal content, and nothing was written.

    Raises:
        PriceBookConflict: this version is, or was, published with other content.
        DeliveryRefused: Kafka did not take it, for example because it is too large.
        KafkaProblem: the brokers do not answer or deny access.
    """
    if await _is_published(settings, book):
        return False
    async with RecordProducer(settings) as producer:
        sent = await producer.send(settings.topic(Topic.PRICE_BOOKS), 0, encode_price_book(book), _key(book))
        await sent
    # Two publishers at the same moment both find nothing; the one that stands last would win silently.
    await _is_published(settings, book)
    return True


async def _is_published(settings: KafkaSettings, book: PriceBook) -> bool:
    """Whether the newest record of its version is this book; what is none, and stands behind it, is to be replaced."""
    records = (await _records(settings)).get(book.version, [])
    found = [_book_of(book.version, record.value) for record in records]
    published = [one for one in found if not isinstance(one, str)]
    if published and encode_price_book(published[-1]) != encode_price_book(book):
        message = (
            f"version {book.version} of the price book is published with other content; give this one the next free "
            "number: a version never changes, since bills were made from it"
        )
        raise PriceBookConflict(message)
    return bool(found) and not isinstance(found[-1], str)


async def _records(settings: KafkaSettings) -> dict[int, list[Record]]:
    """What stands under the key of each version, oldest first."""
    found: dict[int, list[Record]] = {}
    async with PartitionReader(settings, settings.topic(Topic.PRICE_BOOKS), 0) as reader:
        async for chunk in reader.read(*await reader.bounds()):
            for record in chunk:
                if record.key is not None and _VERSION.fullmatch(record.key):
                    found.setdefault(int(record.key), []).append(record)
    return found


def _book_of(version: int, value: bytes | None) -> PriceBook | str:
    """The price book of a version, or why this is none."""
    if value is None:
        return "a price book was deleted"
    try:
        book = parse_price_book(value)
    except InvalidRegistry as error:
        return str(error)
    return book if book.version == version else f"version {book.version} stands under the key of version {version}"


def _key(book: PriceBook) -> bytes:
    return b"%d" % book.version
