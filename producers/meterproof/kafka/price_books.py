"""The published price books: every version for ever, each under its number."""

from meterproof.kafka.errors import PriceBookConflict
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.price_book import PriceBook, encode_price_book, parse_price_book
from meterproof_schemas.topics import Topic


async def read_price_books(settings: KafkaSettings) -> dict[int, PriceBook]:
    """All versions published by now, by number, ascending. The newest record of a version holds, as after compaction.

    Raises:
        InvalidRecord: a record of the topic is not a price book, or stands under another number than its own.
        InvalidRegistry: a price book with a fault; names it.
        TopicMissing: the topic does not exist.
        KafkaProblem: the brokers do not answer or deny access.
    """
    books: dict[int, PriceBook] = {}
    topic = settings.topic(Topic.PRICE_BOOKS)
    async with PartitionReader(settings, topic, 0) as reader:
        async for chunk in reader.read(*await reader.bounds()):
            for record in chunk:
                if record.value is None:
                    message = (
                        f"{topic}: offset {record.offset}: a price book was deleted; publish it again from its file"
                    )
                    raise InvalidRecord(message)
                book = parse_price_book(record.value)
                if record.key != _key(book):
                    message = f"{topic}: offset {record.offset}: version {book.version} stands under {record.key!r}"
                    raise InvalidRecord(message)
                books[book.version] = book
    return dict(sorted(books.items()))


async def publish_price_book(settings: KafkaSettings, book: PriceBook) -> bool:
    """Publish a version; False if it is there already with equal content, and nothing was written.

    Raises:
        PriceBookConflict: this version is published with other content.
        InvalidRecord: see `read_price_books`.
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
    published = (await read_price_books(settings)).get(book.version)
    if published is not None and encode_price_book(published) != encode_price_book(book):
        message = (
            f"version {book.version} of the price book is published with other content; give this one the next free "
            "number: a version never changes, since bills were made from it"
        )
        raise PriceBookConflict(message)
    return published is not None


def _key(book: PriceBook) -> bytes:
    return b"%d" % book.version
