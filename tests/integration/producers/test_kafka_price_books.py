"""Publishing price books to a real broker."""

import pytest

from meterproof.kafka.errors import PriceBookConflict, TopicMissing
from meterproof.kafka.price_books import publish_price_book, read_price_books
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import Deployment, create_topics
from meterproof_local.broker import LocalBroker
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice, encode_price_book
from meterproof_schemas.topics import Topic

pytestmark = pytest.mark.broker


@pytest.fixture
async def settings(broker: LocalBroker, topic_prefix: str) -> KafkaSettings:
    settings = KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)
    deployment = Deployment(name="meter.example.com/test", deployment="test", partitions=1)
    await create_topics(settings, deployment, now_ms=1, random_bytes=lambda size: b"\x01" * size)
    return settings


def book_of(version: int, amount: str = "1") -> PriceBook:
    prices = (UnitPrice(meter="input_tokens", amount=amount, per="1000"),)
    return PriceBook(version=version, currency="USD", meters=DEFAULT_METERS, prices=prices)


async def records(settings: KafkaSettings) -> int:
    async with PartitionReader(settings, settings.topic(Topic.PRICE_BOOKS), 0) as reader:
        return (await reader.bounds())[1]


async def test_versions_are_published_once_and_read_back(settings: KafkaSettings) -> None:
    assert await read_price_books(settings) == {}
    assert await publish_price_book(settings, book_of(2))
    assert await publish_price_book(settings, book_of(1, "3"))
    books = await read_price_books(settings)
    assert list(books) == [1, 2]
    assert [encode_price_book(book) for book in books.values()] == [
        encode_price_book(book_of(1, "3")),
        encode_price_book(book_of(2)),
    ]


async def test_equal_content_again_does_nothing_and_other_content_is_refused(settings: KafkaSettings) -> None:
    assert await publish_price_book(settings, book_of(1))
    assert not await publish_price_book(settings, book_of(1))
    with pytest.raises(PriceBookConflict, match=r"version 1 .* next free number"):
        await publish_price_book(settings, book_of(1, "2"))
    assert await records(settings) == 1
    books = await read_price_books(settings)
    assert encode_price_book(books[1]) == encode_price_book(book_of(1))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (encode_price_book(book_of(3)), "version 3 stands under the key of version 2"),
        (None, "deleted"),
        (b"{}", "version: Field required"),
        (b"noise", "not JSON"),
    ],
    ids=["another version", "deleted", "not a book", "noise"],
)
async def test_what_stands_in_a_books_place_is_an_error_until_the_book_is_published_again(
    settings: KafkaSettings, value: bytes | None, text: str
) -> None:
    assert await publish_price_book(settings, book_of(2))
    await put(settings, b"2", value)
    with pytest.raises(InvalidRecord, match=f"offset 1: .*{text}.*publish version 2 again"):
        await read_price_books(settings)
    with pytest.raises(PriceBookConflict):
        await publish_price_book(settings, book_of(2, "3"))
    assert await publish_price_book(settings, book_of(2))
    assert list(await read_price_books(settings)) == [2]
    assert await records(settings) == 3


async def test_what_stands_under_no_version_disturbs_nobody(settings: KafkaSettings) -> None:
    for key in (b"noise", b"0", b"02", b"-1", b"\xff"):
        await put(settings, key, b"noise")
        await put(settings, key, None)
    assert await read_price_books(settings) == {}
    assert await publish_price_book(settings, book_of(1))
    assert list(await read_price_books(settings)) == [1]


async def put(settings: KafkaSettings, key: bytes, value: bytes | None) -> None:
    async with RecordProducer(settings) as producer:
        await (await producer.send(settings.topic(Topic.PRICE_BOOKS), 0, value, key))


async def test_a_deployment_that_does_not_exist_is_named(broker: LocalBroker, topic_prefix: str) -> None:
    settings = KafkaSettings(bootstrap=broker.bootstrap, topic_prefix=topic_prefix)
    with pytest.raises(TopicMissing, match="topics create"):
        await publish_price_book(settings, book_of(1))
