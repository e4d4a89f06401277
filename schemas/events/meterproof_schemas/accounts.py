"""Usage and spend per agent and per customer: what a log's accepted events add up to."""

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal

from meterproof_schemas.correction import counted
from meterproof_schemas.fast_event import read_event
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import EXACT


class Account:
    """Events, quantities by meter and spend of one agent or customer, exact."""

    __slots__ = ("events", "spend", "usage")

    def __init__(self) -> None:
        self.events = 0
        self.usage: defaultdict[str, Decimal] = defaultdict(Decimal)
        self.spend = Decimal(0)


class Accounts:
    """The books of one log: a fold over its accepted records, by the price book that each record names.

    Exact. Lives as long as the fold that adds to it.
    """

    def __init__(self, books: Mapping[int, PriceBook]) -> None:
        self._books = books
        self.agents: defaultdict[str, Account] = defaultdict(Account)
        self.customers: defaultdict[str, Account] = defaultdict(Account)

    def add(self, record: LogRecord) -> None:
        """Add an accepted record's events.

        Raises:
            KeyError: the record names a price book that was not given.
        """
        book = self._books[record.header.price_book] if record.header.price_book else None
        effects = record.header.effects
        for position, line in enumerate(record.lines, record.header.first):
            event = read_event(line)
            events, usage, spend = counted(event, effects.get(position), book)
            for account in (self.agents[event.subject], self.customers[event.data.customer]):
                account.events += events
                account.spend = EXACT.add(account.spend, spend)
                for meter, quantity in usage.items():
                    account.usage[meter] = EXACT.add(account.usage[meter], quantity)
