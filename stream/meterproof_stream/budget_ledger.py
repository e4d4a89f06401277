"""Spend per scope and window of one log, and the alerts that follow from this log alone (pure)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from typing import Final, NamedTuple

from meterproof_schemas.budget import (
    Alert,
    Budget,
    BudgetKind,
    PartialSum,
    SumKey,
    Watch,
    WatchedKind,
    definition_of,
    kinds_of,
    lies_in_one_log,
    subject_in,
)
from meterproof_schemas.correction import Counted, counted
from meterproof_schemas.errors import InvalidEvent, InvalidRegistry
from meterproof_schemas.event import Event
from meterproof_schemas.fast_event import read_events
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import EXACT, plain
from meterproof_schemas.window import window_end_us, window_start_us

_US_PER_MS: Final = 1000
_FORGET_INTERVAL_US: Final = 60_000_000
"""How much ingest time passes between two looks for windows to forget."""
KEPT_FINAL_US: Final = 3_600_000_000
"""For how much ingest time a final window is kept: whoever comes next may have to alert for it."""
_SPREAD_MIN: Final = 20_000
"""Offsets that the sums may be spread over, at least, before the oldest are stated again."""


class _Spent(NamedTuple):
    """One event with what it counts for, and where it stands."""

    event: Event
    position: int
    counted: Counted
    append_ms: int


@dataclass(slots=True)
class _Sum:
    """An absolute sum over the log's events below `position`."""

    position: int
    events: int = 0
    spend: Decimal = Decimal(0)
    usage: dict[str, Decimal] = field(default_factory=dict)
    event_time: str | None = None
    append_ms: int | None = None
    seen: int = 0
    """Position of the last value that stands on the topic, as far as it was looked at."""

    def add(self, spent: _Spent, meters: frozenset[str]) -> None:
        """Add an event; what was handed out as `usage` before stays as it was."""
        self.spend = EXACT.add(self.spend, spent.counted.spend)
        if meters:
            self.usage = usage = dict(self.usage)
            for meter, quantity in spent.counted.usage.items():
                if meter in meters:
                    usage[meter] = EXACT.add(usage.get(meter, Decimal(0)), quantity)
        self.events += spent.counted.events
        self.position = spent.position + 1
        self.event_time, self.append_ms = spent.event.time, spent.append_ms


class BudgetLedger:
    """The partial sums of one log. A pure function of the log, the budgets and the price books.

    Promises: a sum holds every accepted event of its scope and window below its position, once, priced by the book that
    its record names, and without what corrections took back. A threshold of a scope that lies in this log alone is
    reported by the event that reaches it, so that a replay reports the same alerts; other scopes are `ScopeTotals`'
    business. A window is forgotten once the ingest clock passed its end by the horizon, when no event can change it any
    more, and an hour.
    """

    def __init__(
        self, origin: str, horizon_ms: int, budgets: Sequence[Budget], book: Callable[[int], PriceBook]
    ) -> None:
        self._origin = origin
        self._horizon_us = horizon_ms * _US_PER_MS
        self._book = book
        self._budgets = budgets
        self._definition = definition_of(budgets)
        self._kinds = kinds_of(budgets)
        self._sums: dict[SumKey, _Sum] = {}
        self._changed: set[SumKey] = set()
        self._offsets: dict[SumKey, int] = {}
        """Where each sum stands on the topic, lowest first."""
        self._last_offset = -1
        self._floor_known = True
        self._alerts: list[Alert] = []
        self._currency: str | None = None
        self._forgotten_us = 0

    def restore(self, sums: Iterable[tuple[int, PartialSum]]) -> None:
        """Begin with sums that were made durable, each with its offset; of each the one with the highest position."""
        for offset, stored in sorted(sums, key=lambda found: found[0]):
            key = stored.key
            self._sums[key] = _Sum(
                stored.position,
                stored.events,
                Decimal(stored.spend),
                stored.exact_usage(),
                stored.event_time,
                stored.append_ms,
                seen=stored.position,
            )
            self._currency = stored.currency or self._currency
            self.written(key, offset)

    def written(self, key: SumKey, offset: int) -> None:
        """A sum that `drain` stated stands on the topic; a negative offset is one that Kafka did not tell."""
        if offset < 0:
            self._floor_known = False
        elif key in self._sums:
            self._offsets.pop(key, None)
            self._offsets[key] = self._last_offset = offset

    @property
    def floor(self) -> int | None:
        """The offset from which on every sum of this ledger stands; None where that is not known."""
        if not self._floor_known or self._last_offset < 0:
            return None
        return next(iter(self._offsets.values()), self._last_offset)

    def seen(self, key: SumKey, position: int, definition: str) -> None:
        """A value of this log stands on the topic behind those seen before. An older one is put right by `drain`.

        So a writer that was paused and woke up late, which nothing can keep from writing, does not have the last word.
        """
        total = self._sums.get(key)
        if total is None:
            return
        if position < total.seen or definition != self._definition:
            self._changed.add(key)
        total.seen = position

    @property
    def pending(self) -> bool:
        """Whether `drain` has something to say."""
        return bool(self._changed or self._alerts)

    def is_over(self, key: SumKey, clock_ms: int) -> bool:
        """Whether a window has been final for a while by the log's ingest clock, so that nobody asks for its sum."""
        kind = self._kinds.get(key.kind)
        final_us = clock_ms * _US_PER_MS - self._horizon_us
        return kind is not None and window_end_us(key.start_us, key.window, kind.zone) + KEPT_FINAL_US <= final_us

    def take(self, record: LogRecord) -> None:
        """Add an accepted record's events; what a sum holds already is left out.

        Raises:
            InvalidRegistry: a budget is in another currency than the price book.
        """
        header = record.header
        book = self._book(header.price_book) if header.price_book else None
        if book is not None and book.currency != self._currency:
            self._check_currency(book)
        effects = header.effects
        for position, event in enumerate(read_events(record.lines), header.first):
            if isinstance(event, InvalidEvent):
                raise event
            spent: _Spent | None = None
            for kind, watched in self._kinds.items():
                subject = subject_in(kind.scope, event)
                if subject is None or not (watches := watched.concerning(subject)):
                    continue
                if spent is None:  # priced only where somebody watches
                    spent = _Spent(event, position, counted(event, effects.get(position), book), header.append_ms)
                self._add(kind, watched, watches, subject, spent)

    def _add(
        self, kind: BudgetKind, watched: WatchedKind, watches: Sequence[Watch], subject: str, spent: _Spent
    ) -> None:
        scope, window, zone = kind
        event = spent.event
        key = SumKey(scope, subject, window, zone, window_start_us(event.time_us, window, watched.zone))
        total = self._sums.get(key)
        if total is None:
            total = self._sums[key] = _Sum(0)
        if spent.position < total.position:
            return
        spend_before, usage_before = total.spend, total.usage
        total.add(spent, watched.meters)
        self._changed.add(key)
        if not lies_in_one_log(scope):
            return
        for watch in watches:
            before, used = watch.budget.used(spend_before, usage_before), watch.budget.used(total.spend, total.usage)
            for threshold, _ in watch.crossed(before, used):
                self._alerts.append(
                    alert_of(
                        watch.budget,
                        threshold,
                        key,
                        used,
                        log=self._origin,
                        position=spent.position,
                        event_time=event.time,
                        append_ms=spent.append_ms,
                    )
                )

    def drain(self, position: int, clock_ms: int) -> tuple[list[Alert], list[PartialSum]]:
        """What changed since the last call: alerts in log order, and the sums as they are at `position`.

        A sum that is stated holds every event below `position`, so that is the position it states. The sums that were
        stated longest ago are stated again once they lie far behind the others, so that whoever starts has little to
        read, whatever Kafka has compacted.
        """
        alerts, self._alerts = self._alerts, []
        floor = self.floor
        spread = 0 if floor is None else self._last_offset - floor
        if self._changed and spread > max(_SPREAD_MIN, 2 * len(self._sums)):
            self._changed.update(islice(self._offsets, len(self._changed) // 2 + 50))
        changed, self._changed = self._changed, set()
        sums = [self._stated(key, position) for key in changed if key in self._sums]
        final_us = clock_ms * _US_PER_MS - self._horizon_us
        if final_us >= self._forgotten_us + _FORGET_INTERVAL_US:
            self._forgotten_us = final_us
            for key in [key for key in self._sums if self.is_over(key, clock_ms)]:
                del self._sums[key]
                self._offsets.pop(key, None)
        return alerts, sums

    def __len__(self) -> int:
        return len(self._sums)

    def _stated(self, key: SumKey, position: int) -> PartialSum:
        total = self._sums[key]
        # A sum that was restored may hold more than was read since: another writer had come further.
        total.position = max(total.position, position)
        spread = not lies_in_one_log(key.scope)
        return PartialSum.model_construct(  # of valid parts; checking them again would cost most of a flush
            v=1,
            log=self._origin,
            **key.as_json(),
            position=total.position,
            events=total.events,
            spend=plain(total.spend),
            currency=self._currency,
            definition=self._definition,
            usage={meter: plain(quantity) for meter, quantity in total.usage.items()} or None,
            event_time=total.event_time if spread else None,
            append_ms=total.append_ms if spread else None,
        )

    def _check_currency(self, book: PriceBook) -> None:
        for budget in self._budgets:
            if budget.currency not in {None, book.currency}:
                message = (
                    f"budget {budget.name} is in {budget.currency}, price book {book.version} in {book.currency}; "
                    "state the budget in the book's currency"
                )
                raise InvalidRegistry(message)
        self._currency = book.currency


def alert_of(
    budget: Budget,
    threshold: str,
    key: SumKey,
    used: Decimal,
    *,
    log: str,
    position: int,
    event_time: str,
    append_ms: int,
) -> Alert:
    """The alert for a threshold that the event at `position` of `log` reached."""
    return Alert(
        v=1,
        budget=budget.name,
        **key.as_json(),
        threshold=threshold,
        limit=budget.limit,
        spend=plain(used),
        currency=budget.currency,
        log=log,
        position=position,
        event_time=event_time,
        append_ms=append_ms,
        meters=budget.meters,
    )
