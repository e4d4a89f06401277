"""Spend per scope and window of one log, and the alerts that follow from it (pure)."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from meterproof_schemas.budget import Alert, Budget, PartialSum, Scope
from meterproof_schemas.errors import InvalidRegistry
from meterproof_schemas.event import Event
from meterproof_schemas.fast_event import read_event
from meterproof_schemas.instant import format_instant_us, parse_instant_us
from meterproof_schemas.keys import matches
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import EXACT, plain
from meterproof_schemas.rating import price
from meterproof_schemas.window import WindowKind, window_end_us, window_start_us

Key = tuple[Scope, str, WindowKind, str, int]
"""(scope, subject, window, zone, start in microseconds)."""
_Kind = tuple[Scope, WindowKind, str]
_Watched = tuple[Budget, tuple[tuple[str, Decimal], ...]]
_US_PER_MS: Final = 1000
_FORGET_INTERVAL_US: Final = 60_000_000
"""How much ingest time passes between two looks for windows to forget."""


@dataclass(slots=True)
class _Sum:
    """An absolute sum over the log's events below `position`."""

    position: int
    events: int = 0
    spend: Decimal = Decimal(0)


def definition_of(budgets: Sequence[Budget]) -> str:
    """SHA-256 of the budgets: sums and alerts of other budgets have to be counted from the log's beginning."""
    return hashlib.sha256("\n".join(sorted(budget.model_dump_json() for budget in budgets)).encode()).hexdigest()


class BudgetLedger:
    """The partial sums of one log. A pure function of the log, the budgets and the price books.

    Promises: a sum holds every accepted event of its scope and window below its position, once, priced by the book that
    its record names; a threshold is reported by the event that reaches it, so a replay reports the same alerts.
    A window is forgotten once the ingest clock passed its end by the horizon, when no event can change it any more.
    """

    def __init__(
        self, origin: str, horizon_ms: int, budgets: Sequence[Budget], book: Callable[[int], PriceBook]
    ) -> None:
        self._origin = origin
        self._horizon_us = horizon_ms * _US_PER_MS
        self._book = book
        self._budgets = budgets
        self._definition = definition_of(budgets)
        self._kinds: dict[_Kind, tuple[ZoneInfo, list[_Watched]]] = {}
        for budget in budgets:
            kind = (budget.scope, budget.window, budget.zone)
            thresholds = tuple((threshold, budget.reached_at(threshold)) for threshold in budget.thresholds)
            self._kinds.setdefault(kind, (ZoneInfo(budget.zone), []))[1].append((budget, thresholds))
        self._sums: dict[Key, _Sum] = {}
        self._changed: set[Key] = set()
        self._alerts: list[Alert] = []
        self._currency: str | None = None
        self._forgotten_us = 0
        self.alerts = 0
        """Alerts reported by this ledger."""

    def restore(self, sums: Iterable[PartialSum]) -> None:
        """Begin with sums that were made durable; of two with one key the higher position holds."""
        for stored in sums:
            key: Key = (stored.scope, stored.subject, stored.window, stored.zone, parse_instant_us(stored.start))
            if stored.definition != self._definition:
                continue  # counted for other budgets: whether a threshold was crossed in it is not known
            known = self._sums.get(key)
            if known is None or known.position < stored.position:
                self._sums[key] = _Sum(stored.position, stored.events, Decimal(stored.spend))
                self._currency = stored.currency or self._currency

    def take(self, record: LogRecord) -> None:
        """Add an accepted record's events; what a sum holds already is left out.

        Raises:
            InvalidRegistry: a budget is in another currency than the price book.
        """
        header = record.header
        book = self._book(header.price_book) if header.price_book else None
        if book is not None and book.currency != self._currency:
            self._check_currency(book)
        for position, line in enumerate(record.lines, header.first):
            event = read_event(line)
            amount = price(event, book).amount if book is not None else Decimal(0)
            self._add(event, position, amount, header.append_ms)

    def _add(self, event: Event, position: int, amount: Decimal, append_ms: int) -> None:
        for (scope, window, zone), (zone_info, budgets) in self._kinds.items():
            subject = event.subject
            concerned = [watched for watched in budgets if matches((watched[0].subject,), subject)]
            if not concerned:
                continue
            key: Key = (scope, subject, window, zone, window_start_us(event.time_us, window, zone_info))
            total = self._sums.get(key)
            if total is None:
                total = self._sums[key] = _Sum(0)
            if position < total.position:
                continue
            before, total.spend = total.spend, EXACT.add(total.spend, amount)
            total.events += 1
            total.position = position + 1
            self._changed.add(key)
            for budget, thresholds in concerned:
                for threshold, reached in thresholds:
                    if before < reached <= total.spend:
                        self._report(budget, threshold, key, total.spend, event, position=position, append_ms=append_ms)

    def _report(
        self, budget: Budget, threshold: str, key: Key, spend: Decimal, event: Event, *, position: int, append_ms: int
    ) -> None:
        scope, subject, window, zone, start_us = key
        self.alerts += 1
        self._alerts.append(
            Alert(
                v=1,
                budget=budget.name,
                scope=scope,
                subject=subject,
                window=window,
                zone=zone,
                start=format_instant_us(start_us),
                threshold=threshold,
                limit=budget.limit,
                spend=plain(spend),
                currency=budget.currency,
                log=self._origin,
                position=position,
                event_time=event.time,
                append_ms=append_ms,
            )
        )

    def drain(self, position: int, clock_ms: int) -> tuple[list[Alert], list[PartialSum]]:
        """What changed since the last call: alerts in log order, and the sums as they are at `position`.

        A sum that is stated holds every event below `position`, so that is the position it states.
        """
        alerts, self._alerts = self._alerts, []
        changed, self._changed = self._changed, set()
        sums = []
        for key in changed:
            total = self._sums[key]
            total.position = position
            scope, subject, window, zone, start_us = key
            sums.append(
                PartialSum(
                    v=1,
                    log=self._origin,
                    scope=scope,
                    subject=subject,
                    window=window,
                    zone=zone,
                    start=format_instant_us(start_us),
                    position=position,
                    events=total.events,
                    spend=plain(total.spend),
                    currency=self._currency,
                    definition=self._definition,
                )
            )
        final_us = clock_ms * _US_PER_MS - self._horizon_us
        if final_us >= self._forgotten_us + _FORGET_INTERVAL_US:
            self._forget(final_us)
        return alerts, sums

    def __len__(self) -> int:
        return len(self._sums)

    def _forget(self, final_us: int) -> None:
        """Drop the windows that ended before `final_us`: an event of theirs would be too late."""
        self._forgotten_us = final_us
        ended = [
            key
            for key in self._sums
            if window_end_us(key[4], key[2], self._kinds[key[0], key[2], key[3]][0]) <= final_us
        ]
        for key in ended:
            del self._sums[key]

    def _check_currency(self, book: PriceBook) -> None:
        for budget in self._budgets:
            if budget.currency != book.currency:
                message = (
                    f"budget {budget.name} is in {budget.currency}, price book {book.version} in {book.currency}; "
                    "state the budget in the book's currency"
                )
                raise InvalidRegistry(message)
        self._currency = book.currency
