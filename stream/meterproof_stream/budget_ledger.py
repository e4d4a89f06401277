"""Spend per scope and window of one log, and the alerts that follow from this log alone (pure)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from meterproof_schemas.budget import (
    Alert,
    Budget,
    BudgetKind,
    PartialSum,
    SumHead,
    SumKey,
    Watch,
    WatchedKind,
    definition_of,
    kinds_of,
)
from meterproof_schemas.counted_lines import CountedLines, count_lines
from meterproof_schemas.errors import InvalidRegistry
from meterproof_schemas.log_record import LogRecord, RecordHeader
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import plain_scaled, scaled
from meterproof_schemas.scopes import lies_in_one_log, subject_in
from meterproof_schemas.window import window_end_us, window_start_us

_US_PER_MS: Final = 1000
_MINUTE_US: Final = 60_000_000
_FORGET_INTERVAL_US: Final = 60_000_000
"""How much ingest time passes between two looks for windows to forget."""
KEPT_FINAL_US: Final = 3_600_000_000
"""For how much ingest time a final window is kept: whoever comes next may have to alert for it."""
_SPREAD_MIN: Final = 20_000
"""Offsets that the sums may be spread over, at least, before the oldest are stated again."""
_NEVER: Final = 1 << 200
"""More than any sum reaches, in 10^-12."""


@dataclass(slots=True, eq=False)
class _Sum:
    """An absolute sum over the log's events below `position`; quantities and money in 10^-12."""

    key: SumKey
    watches: Sequence[Watch]
    position: int = 0
    events: int = 0
    spend: int = 0
    usage: dict[str, int] = field(default_factory=dict)
    event_time: str | None = None
    append_ms: int | None = None
    seen: int = 0
    """Position of the last value that stands on the topic, as far as it was looked at."""
    next_threshold: int = -_NEVER
    """No threshold in money is reached by a spend that has risen and is below; see `look_ahead`."""

    def used(self, watch: Watch) -> int:
        """What counts against a budget's limit: the spend, or the quantities of its meters."""
        meters = watch.budget.meters
        return self.spend if meters is None else sum(self.usage.get(meter, 0) for meter in meters)

    def look_ahead(self) -> None:
        """Look for `next_threshold`."""
        self.next_threshold = _NEVER
        for watch in self.watches:
            if watch.budget.meters is None and (reached := watch.reached(self.spend)) < len(watch.thresholds):
                self.next_threshold = min(self.next_threshold, watch.thresholds[reached][1])


@dataclass(slots=True)
class _Kept:
    """The sums of one kind, by subject and start of the window; see `BudgetLedger` for all of them together."""

    watched: WatchedKind
    sums: dict[tuple[str, int], _Sum] = field(default_factory=dict)


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
        self._kinds = {kind: _Kept(watched) for kind, watched in kinds_of(budgets).items()}
        self._meters = frozenset[str]().union(*(kept.watched.meters for kept in self._kinds.values()))
        self._sums: dict[SumKey, _Sum] = {}
        self._changed: set[_Sum] = set()
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
            total = self._begin(key)
            total.position = total.seen = stored.position
            total.events, total.spend = stored.events, scaled(stored.spend)
            total.usage = {meter: scaled(quantity) for meter, quantity in (stored.usage or {}).items()}
            total.event_time, total.append_ms = stored.event_time, stored.append_ms
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
            self._changed.add(total)
        total.seen = position

    @property
    def pending(self) -> bool:
        """Whether `drain` has something to say."""
        return bool(self._changed or self._alerts)

    def is_over(self, key: SumKey, clock_ms: int) -> bool:
        """Whether a window has been final for a while by the log's ingest clock, so that nobody asks for its sum."""
        kept = self._kinds.get(key.kind)
        final_us = clock_ms * _US_PER_MS - self._horizon_us
        return (
            kept is not None and window_end_us(key.start_us, key.window, kept.watched.zone) + KEPT_FINAL_US <= final_us
        )

    def take(self, record: LogRecord) -> None:
        """Add an accepted record's events; what a sum holds already is left out.

        Raises:
            InvalidRegistry: a budget is in another currency than the price book.
        """
        header = record.header
        book = self._book(header.price_book) if header.price_book else None
        if book is not None and book.currency != self._currency:
            self._check_currency(book)
        if not self._kinds:
            return
        counted = count_lines(record.lines, header.first, header.effects, book, self._meters)
        alerts: list[Alert] = []
        for kind, kept in self._kinds.items():
            self._add(kind, kept, counted, header, alerts)
        alerts.sort(key=lambda alert: alert.position)
        self._alerts += alerts

    def _add(
        self, kind: BudgetKind, kept: _Kept, counted: CountedLines, header: RecordHeader, alerts: list[Alert]
    ) -> None:
        """Add a record's events to the sums of one kind."""
        scope, window, zone = kind
        known, meters, alerted = kept.sums, kept.watched.meters, lies_in_one_log(scope)
        begin_us, minute = 0, None
        added = zip(counted.who, counted.times_us, counted.spends, counted.events, strict=True)
        for position, (event, time_us, spend, events) in enumerate(added, header.first):
            subject = subject_in(scope, event)
            if subject is None:
                continue
            if time_us // _MINUTE_US != minute:  # every window begins with one
                minute = time_us // _MINUTE_US
                begin_us = window_start_us(time_us, window, kept.watched.zone)
            total = known.get((subject, begin_us))
            if total is None:
                if not kept.watched.concerning(subject):
                    continue
                total = self._begin(SumKey(scope, subject, window, zone, begin_us))
            if position < total.position:
                continue
            self._changed.add(total)
            total.position = position + 1
            total.events += events
            total.event_time, total.append_ms = event.time, header.append_ms
            if not meters and spend >= 0 and total.spend + spend < total.next_threshold:
                total.spend += spend
                continue
            before = [total.used(watch) for watch in total.watches]
            total.spend += spend
            if meters:
                for meter, quantity in counted.usages[position - header.first].items():
                    if meter in meters:
                        total.usage[meter] = total.usage.get(meter, 0) + quantity
            else:
                total.look_ahead()
            if alerted:
                alerts += self._crossed(total, before, position)

    def _crossed(self, total: _Sum, before: Iterable[int], position: int) -> Iterator[Alert]:
        """The alerts of the event at `position`, which was just added; `before` is what each watch had as used."""
        for watch, used_before in zip(total.watches, before, strict=True):
            used = total.used(watch)
            for threshold, _ in watch.crossed(used_before, used):
                yield alert_of(
                    watch.budget,
                    threshold,
                    total.key,
                    used,
                    log=self._origin,
                    position=position,
                    event_time=total.event_time or "",
                    append_ms=total.append_ms or 0,
                )

    def _begin(self, key: SumKey) -> _Sum:
        """A sum of nothing; of kinds that no budget has as well, since whoever restores does not choose."""
        kept = self._kinds.get(key.kind)
        total = self._sums[key] = _Sum(key, () if kept is None else kept.watched.concerning(key.subject))
        if kept is not None:
            kept.sums[key.subject, key.start_us] = total
        return total

    def _forget(self, key: SumKey) -> None:
        del self._sums[key]
        self._offsets.pop(key, None)
        kept = self._kinds.get(key.kind)
        if kept is not None:
            del kept.sums[key.subject, key.start_us]

    def alerts(self) -> list[Alert]:
        """The alerts since the last call of this or of `drain`, in log order."""
        alerts, self._alerts = self._alerts, []
        return alerts

    def drain(self, position: int, clock_ms: int) -> tuple[list[Alert], list[tuple[SumKey, SumHead]]]:
        """What changed since the last call: alerts in log order (see `alerts`), and the sums as they are at `position`.

        A sum that is stated holds every event below `position`, so that is the position it states. The sums that were
        stated longest ago are stated again once they lie far behind the others, so that whoever starts has little to
        read, whatever Kafka has compacted.
        """
        alerts = self.alerts()
        floor = self.floor
        spread = 0 if floor is None else self._last_offset - floor
        if self._changed and spread > max(_SPREAD_MIN, 2 * len(self._sums)):
            oldest = islice(self._offsets, len(self._changed) // 2 + 50)
            self._changed.update(self._sums[key] for key in oldest)
        changed, self._changed = self._changed, set()
        sums = [(total.key, self._stated(total, position)) for total in changed]
        final_us = clock_ms * _US_PER_MS - self._horizon_us
        if final_us >= self._forgotten_us + _FORGET_INTERVAL_US:
            self._forgotten_us = final_us
            for key in [key for key in self._sums if self.is_over(key, clock_ms)]:
                self._forget(key)
        return alerts, sums

    def __len__(self) -> int:
        return len(self._sums)

    def _stated(self, total: _Sum, position: int) -> SumHead:
        # A sum that was restored may hold more than was read since: another writer had come further.
        total.position = max(total.position, position)
        key = total.key
        spread = not lies_in_one_log(key.scope)
        return SumHead(
            v=1,
            log=self._origin,
            **key.as_json(),
            position=total.position,
            events=total.events,
            spend=plain_scaled(total.spend),
            currency=self._currency,
            definition=self._definition,
            usage={meter: plain_scaled(quantity) for meter, quantity in total.usage.items()} or None,
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
    used: int,
    *,
    log: str,
    position: int,
    event_time: str,
    append_ms: int,
) -> Alert:
    """The alert for a threshold that the event at `position` of `log` reached, with what is used then in 10^-12."""
    return Alert(
        v=1,
        budget=budget.name,
        **key.as_json(),
        threshold=threshold,
        limit=budget.limit,
        spend=plain_scaled(used),
        currency=budget.currency,
        log=log,
        position=position,
        event_time=event_time,
        append_ms=append_ms,
        meters=budget.meters,
    )
