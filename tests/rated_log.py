"""Genuine logs whose events cost something: many agents, two months, price books, labels that try to break out."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, Final

from meterproof_schemas.accounts import Accounts
from meterproof_schemas.event import parse_event
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice
from meterproof_schemas.rating import price
from meterproof_stream.judge import Judgement
from tests.builders import agent_in, make_event
from tests.log_builder import LogBuilder

BOOKS: Final = {
    1: PriceBook(
        version=1,
        currency="USD",
        meters=DEFAULT_METERS,
        prices=(
            UnitPrice(meter="input_tokens", model="gpt-*", amount="2.5", per="1000000"),
            UnitPrice(meter="output_tokens", amount="10.000000000001"),
            UnitPrice(meter="requests", amount="0.000000000001"),
        ),
    ),
    2: PriceBook(
        version=2,
        currency="EUR",
        meters=DEFAULT_METERS,
        prices=(UnitPrice(meter="seconds", amount="0.333333333333"), UnitPrice(meter="input_tokens", amount="3")),
    ),
}
HOSTILE: Final = (
    "it's",
    'say "hi"',
    "back\\slash\\",
    "\\'; DROP TABLE usage_events; --",
    "{x:String} %(y)s ${z}",
    "naïve 日本語 😀 \u202eright to left",
    "\\N",
    "\\t\\n",
    "NULL",
    "[1,2]",
    "{'a':1}",
    "a|b,c;d",
    "~" * 60,
)
"""Names that the contract allows and that a careless destination would not survive."""
_HOUR_MS: Final = 3_600_000


@dataclass
class RatedLog(LogBuilder):
    """A log with a price book in force, and `accounts`: what the contract's own fold says that it adds up to.

    The same arguments give the same log, in any process.
    """

    seed: int = 1
    price_book: int = 1
    books: ClassVar[Mapping[int, PriceBook]] = BOOKS
    meters: ClassVar[frozenset[str]] = frozenset(meter.name for meter in DEFAULT_METERS)
    agents: int = 5
    accounts: Accounts = field(default_factory=lambda: Accounts(BOOKS))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.random = random.Random(self.seed)
        self.names = [agent_in(self.partition, self.partitions, number) for number in range(self.agents)]
        self._made = 0

    def rich_events(self, count: int) -> list[bytes]:
        """New event lines with random content that the log accepts."""
        return [self.rich_event() for _ in range(count)]

    def rich_event(self, **attributes: Any) -> bytes:
        """One new event line with random content."""
        draw = self.random
        self._made += 1
        usage: dict[str, Any] = {"requests": 1}
        if draw.random() < 0.8:
            usage["input_tokens"] = draw.randrange(10_000)
        if draw.random() < 0.5:
            usage["output_tokens"] = str(Decimal(draw.randrange(10**9)).scaleb(-draw.randrange(1, 6)))
        if draw.random() < 0.3:
            usage["seconds"] = f"{draw.randrange(100)}.{draw.randrange(10**12):012}"
        data: dict[str, Any] = {"customer": draw.choice(("acme", "globex", HOSTILE[0])), "usage": usage}
        if draw.random() < 0.9:
            data |= {"provider": "openai", "model": draw.choice(("gpt-5", "gpt-5-mini", "claude"))}
        if draw.random() < 0.3:
            data["tags"] = {draw.choice(HOSTILE): draw.choice(HOSTILE), "team": "a"}
        if draw.random() < 0.2:
            data["operation"] = draw.choice(HOSTILE)
        if draw.random() < 0.2:
            data["latency"] = {"total_us": draw.randrange(10**6)}
        return make_event(
            attributes.pop("event_id", f"r{self._made}"),
            subject=draw.choice(self.names),
            time_ms=self.clock_ms - draw.randrange(12 * _HOUR_MS),
            data=data,
            **attributes,
        )

    def grow(self, batches: int, lines_max: int = 40) -> None:
        """Add batches of random size: new events, repeats of old ones and lines that are refused."""
        lines: list[bytes] = []
        for _ in range(batches):
            new = self.rich_events(self.random.randrange(1, lines_max))
            repeats = self.random.sample(lines, min(len(lines), self.random.randrange(3)))
            refused = [b'{"no":"event"}'] * self.random.randrange(2)
            lines = [*lines[-200:], *new]
            self.price_book = self.random.choice((1, 1, 2, 0))
            self.batch([*new, *repeats, *refused], after_ms=self.random.randrange(60_000))

    def _append(self, judgement: Judgement) -> LogRecord:
        record = super()._append(judgement)
        self.accounts.add(record)
        return record


def costs(records: Sequence[tuple[int, LogRecord]]) -> list[Decimal]:
    """What each accepted event of these records costs by the book that its record names, by position."""
    return [
        price(parse_event(line), BOOKS[record.header.price_book]).amount if record.header.price_book else Decimal(0)
        for _, record in records
        for line in record.lines
    ]
