"""What ClickHouse must answer after a drawn history: counted in plain Python from the log's own lines."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from fractions import Fraction
from typing import Any, Final

import orjson

from meterproof_schemas.event import parse_event
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import decimal_of
from meterproof_schemas.rating import price
from tests.rated_log import RatedLog

TOO_DEAR: Final = 10**26
"""What no row can hold."""
_OK: Final = frozenset({"", "ok"})
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC, as the driver hands it out


@dataclass(frozen=True)
class Told:
    """An accepted event as its line tells it."""

    log: str
    position: int
    line: dict[str, Any]
    time: datetime
    cost: Fraction
    currency: str
    effect: str | None
    """Of a correction."""
    target: int | None
    """Position of the event that a correction with an effect takes back or replaces."""

    @property
    def place(self) -> tuple[str, int]:
        """Log and position."""
        return self.log, self.position

    @property
    def data(self) -> dict[str, Any]:
        """Of the event."""
        found: dict[str, Any] = self.line["data"]
        return found

    @property
    def agent(self) -> str:
        """Who consumed."""
        return str(self.line["subject"])

    @property
    def day(self) -> date:
        """Of the usage."""
        return self.time.date()

    @property
    def month(self) -> int:
        """As YYYYMM."""
        return self.time.year * 100 + self.time.month

    @property
    def usage(self) -> dict[str, Fraction]:
        """Quantity by meter."""
        return {meter: Fraction(decimal_of(quantity)) for meter, quantity in self.data["usage"].items()}

    @property
    def failed(self) -> bool:
        """Whether the call bought nothing."""
        return self.data.get("status", "") not in _OK

    @property
    def unfit(self) -> bool:
        """Whether no row can hold it."""
        return self.cost >= TOO_DEAR

    def is_of(self, kind: str, name: str) -> bool:
        """Whether it is of an agent or a customer."""
        return name == (self.agent if kind == "agent" else self.data["customer"])


def told(log: RatedLog, books: dict[int, PriceBook], since: int = 0) -> Iterator[Told]:
    """The accepted events of a log's records from one of them on."""
    identities = {}
    for number, (_, record) in enumerate(log.records):
        book = books.get(record.header.price_book)
        for position, line in enumerate(record.lines, record.header.first):
            event, document = parse_event(line), orjson.loads(line)
            identities[event.source, event.id] = position
            if number < since:
                continue
            effect = record.header.effects.get(position)
            corrects = document["data"].get("corrects")
            rated = None if book is None else price(event, book)
            yield Told(
                log.origin,
                position,
                document,
                _EPOCH + timedelta(microseconds=event.time_us),
                Fraction(0 if rated is None else rated.amount),
                "" if rated is None else rated.currency,
                None if effect is None else effect.value,
                identities[event.source, corrects["id"]] if effect is not None and effect.value == "applied" else None,
            )


@dataclass
class Oracle:
    """What is accepted, what of it is carried, erased and given up; and what follows for every total."""

    events: dict[tuple[str, int], Told] = field(default_factory=dict)
    """By log and position."""
    carried: dict[str, int] = field(default_factory=dict)
    """By log: the position below which everything was carried."""
    erased: set[tuple[str, int]] = field(default_factory=set)
    """From the rows."""
    forgotten: set[tuple[str, int]] = field(default_factory=set)
    """From the sums of months that were given up before."""
    given_up: set[int] = field(default_factory=set)
    """Months, as YYYYMM."""

    def below(self) -> Iterator[Told]:
        """Events that were carried."""
        return (event for event in self.events.values() if event.position < self.carried.get(event.log, 0))

    def rows(self) -> list[Told]:
        """Events that have a row."""
        return [
            event
            for event in self.below()
            if event.place not in self.erased and event.month not in self.given_up and not event.unfit
        ]

    def standing(self, *, sums: bool) -> list[Told]:
        """Events that count: in rows, or in `sums`, which those of months given up are in too."""
        carried = list(self.below())
        uncounted: set[tuple[str, int]] = set()
        for event in carried:
            if event.effect is not None and event.place not in self.erased:
                if event.target is not None:
                    uncounted.add((event.log, event.target))
                if event.target is None or event.data["corrects"]["kind"] == "void":
                    uncounted.add(event.place)
        return [
            event
            for event in carried
            if event.place not in uncounted
            and event.place not in self.erased
            and not event.unfit
            and (event.month not in self.given_up or (sums and event.place not in self.forgotten))
        ]

    def erase(self, kind: str, name: str, below: dict[str, int]) -> None:
        """What is carried of a name goes."""
        for event in self.events.values():
            if event.is_of(kind, name) and event.position < below.get(event.log, 0):
                (self.forgotten if event.month in self.given_up else self.erased).add(event.place)


def totals(events: Iterable[Told]) -> dict[tuple[Any, ...], tuple[int, Fraction, Fraction]]:
    """Events, spend and units by day, log, customer, agent, status and currency."""
    found: defaultdict[tuple[Any, ...], list[Any]] = defaultdict(lambda: [0, Fraction(0), Fraction(0)])
    for event in events:
        key = (event.day, event.log, event.data["customer"], event.agent, event.data.get("status", ""), event.currency)
        found[key][0] += 1
        found[key][1] += event.cost
        found[key][2] += sum(event.usage.values())
    return {key: tuple(values) for key, values in found.items()}


def accounts(events: Iterable[Told]) -> dict[tuple[str, str, str], tuple[int, Fraction]]:
    """`spend_by_account`."""
    found: defaultdict[tuple[str, str, str], list[Any]] = defaultdict(lambda: [0, Fraction(0)])
    for event in events:
        tags = event.data.get("tags", {})
        names = {"agent": event.agent, "customer": event.data["customer"], "team": tags.get("team", "")}
        for account, name in (names | {"project": "", "cost centre": ""}).items():
            found[account, name, event.currency][0] += 1
            found[account, name, event.currency][1] += event.cost
    return {key: tuple(values) for key, values in found.items()}


def by_customer_and_day(events: Iterable[Told]) -> dict[tuple[str, date, str], tuple[int, Fraction]]:
    """`usage_by_customer_and_day`."""
    found: defaultdict[tuple[str, date, str], list[Any]] = defaultdict(lambda: [0, Fraction(0)])
    for event in events:
        for meter, quantity in event.usage.items():
            found[event.data["customer"], event.day, meter][0] += 1
            found[event.data["customer"], event.day, meter][1] += quantity
    return {key: tuple(values) for key, values in found.items()}


def sessions(events: Iterable[Told]) -> dict[tuple[str, str], tuple[int, datetime, datetime, Fraction]]:
    """`spend_by_session`."""
    of: defaultdict[tuple[str, str], list[Told]] = defaultdict(list)
    for event in events:
        if session := event.data.get("session", ""):
            of[session, event.currency].append(event)
    return {
        key: (
            len(found),
            min(event.time for event in found),
            max(event.time for event in found),
            sum((event.cost for event in found), Fraction(0)),
        )
        for key, found in of.items()
    }


def runs(events: Iterable[Told]) -> dict[tuple[str, str], tuple[int, Fraction, int, Fraction]]:
    """`spend_by_run`: own events and spend, and those with all that it started."""
    parents: dict[str, str] = {}
    of: defaultdict[tuple[str, str], list[Told]] = defaultdict(list)
    for event in events:
        if run := event.data.get("run", ""):
            parents[run] = max(parents.get(run, ""), event.data.get("parent", ""))
            of[run, event.currency].append(event)
    found: defaultdict[tuple[str, str], list[Any]] = defaultdict(lambda: [0, Fraction(0), 0, Fraction(0)])
    for (run, currency), own in of.items():
        spend = sum((event.cost for event in own), Fraction(0))
        found[run, currency][0] += len(own)
        found[run, currency][1] += spend
        root = run
        while root:
            if root in parents:
                found[root, currency][2] += len(own)
                found[root, currency][3] += spend
            root = parents.get(root, "")
    return {key: tuple(values) for key, values in found.items()}


def waste(events: Iterable[Told]) -> dict[tuple[str, str, str], tuple[int, Fraction, int, Fraction]]:
    """`wasted_spend`."""
    found: defaultdict[tuple[str, str, str], list[Any]] = defaultdict(lambda: [0, Fraction(0), 0, Fraction(0)])
    alike: set[tuple[Any, ...]] = set()
    for event in sorted(events, key=lambda event: event.place):
        data, operation = event.data, event.data.get("operation", "")
        key = (event.agent, operation, event.currency)
        if event.failed:
            found[key][0] += 1
            found[key][1] += event.cost
            continue
        named = [data.get(name, "") for name in ("provider", "model", "session")]
        minute = event.time.replace(second=0, microsecond=0)
        likeness = (*key, event.line["source"], *named, minute, frozenset(event.usage.items()))
        if likeness in alike:
            found[key][2] += 1
            found[key][3] += event.cost
        alike.add(likeness)
    return {key: tuple(values) for key, values in found.items()}


def calls(events: Iterable[Told]) -> dict[tuple[str, str], tuple[int, int, int]]:
    """`service_dependencies`: calls, traces, failed calls."""
    counted: Counter[tuple[str, str]] = Counter()
    failed: Counter[tuple[str, str]] = Counter()
    traces: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for event in events:
        if parent := event.data.get("traceparent", ""):
            edge = (event.agent, event.line["source"])
            counted[edge] += 1
            failed[edge] += event.failed
            traces[edge].add(parent[3:35])
    return {edge: (counted[edge], len(traces[edge]), failed[edge]) for edge in counted}


def peaks(events: Iterable[Told]) -> dict[tuple[str, str], int]:
    """`rate_by_provider`: calls in the busiest minute."""
    minutes = Counter(
        (event.data["provider"], event.data["model"], event.time.replace(second=0, microsecond=0))
        for event in events
        if event.data.get("provider")
    )
    found: dict[tuple[str, str], int] = {}
    for (provider, model, _), times in minutes.items():
        found[provider, model] = max(found.get((provider, model), 0), times)
    return found


def corrections(events: Iterable[Told]) -> dict[tuple[str, str, str], int]:
    """`corrections`, of events that have rows: by customer, kind and effect."""
    return Counter(
        (event.data["customer"], event.data["corrects"]["kind"], event.effect)
        for event in events
        if event.effect is not None
    )
