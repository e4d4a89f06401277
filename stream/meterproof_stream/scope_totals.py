"""What scopes that lie in several logs have spent: the sum of their partial sums, and the alerts that follow (pure)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from meterproof_schemas.budget import (
    Alert,
    Budget,
    BudgetKind,
    Marker,
    PartialSum,
    SumKey,
    WatchedKind,
    definition_of,
    kinds_of,
)
from meterproof_schemas.quantity import EXACT, scaled_decimal
from meterproof_schemas.scopes import home_partition, lies_in_one_log
from meterproof_schemas.window import window_end_us
from meterproof_stream.budget_ledger import KEPT_FINAL_US, alert_of

_US_PER_MS: Final = 1000
_FORGET_INTERVAL_US: Final = 60_000_000


@dataclass(slots=True)
class _Part:
    position: int
    spend: Decimal
    usage: dict[str, Decimal]


@dataclass(slots=True)
class _Total:
    home: int
    parts: dict[str, _Part] = field(default_factory=dict)
    """By log, the partial sum with the highest position."""
    last: PartialSum | None = None
    """The partial sum by which it changed last."""
    told: set[tuple[str, str]] = field(default_factory=set)
    """Budget and threshold of what `reached` has said of it."""


class WindowForgotten(Exception):
    """A partial sum of a window came that was taken for final: its other parts have to be read again."""

    def __init__(self, log: str) -> None:
        super().__init__(log)
        self.log = log


class ScopeTotals:
    """Adds up the partial sums of all logs. A pure function of the records of `usage.budget-state`.

    Promises: per scope, window and log the partial sum with the highest position counts, whatever came after it;
    partial sums that were made for other budgets do not count. A total is forgotten once its window is final by the
    clock of the logs that are up to date; a log that lags behind them and still adds to such a window raises
    `WindowForgotten`, upon which its reader begins anew with that log in `lagging`: every total is of all parts.
    """

    def __init__(
        self, budgets: Sequence[Budget], horizon_ms: int, partitions: int, lagging: Mapping[str, int] | None = None
    ) -> None:
        self.lagging = dict(lagging or {})
        """Logs that are behind the others, with their ingest clocks in milliseconds: nothing above is forgotten."""
        self.clocks: dict[str, int] = {}
        """Ingest clock by log, as the markers say."""
        self._horizon_us = horizon_ms * _US_PER_MS
        self._partitions = partitions
        self._definition = definition_of(budgets)
        self._kinds: dict[BudgetKind, WatchedKind] = {
            kind: watched for kind, watched in kinds_of(budgets).items() if not lies_in_one_log(kind.scope)
        }
        self._totals: dict[SumKey, _Total] = {}
        self._forgotten_us: int | None = None
        """Windows that ended by then are not known any more."""

    def __len__(self) -> int:
        return len(self._totals)

    def wants(self, key: SumKey) -> bool:
        """Whether a sum is one that is added up here, in a window that may still matter."""
        kind = self._kinds.get(key.kind)
        return kind is not None and not self._ended_by(key, kind, self._over_us())

    def mark(self, marker: Marker) -> None:
        """A log's marker: how far its ingest clock is."""
        if marker.definition != self._definition or marker.clock_ms is None:
            return
        clock_ms = max(self.clocks.get(marker.log, 0), marker.clock_ms)
        self.clocks[marker.log] = clock_ms
        if marker.log in self.lagging:
            if clock_ms * _US_PER_MS >= max(self.clocks.values()) * _US_PER_MS - _FORGET_INTERVAL_US:
                del self.lagging[marker.log]
            else:
                self.lagging[marker.log] = clock_ms

    def offer(self, stored: PartialSum) -> SumKey | None:
        """Take a partial sum; the key of the total that changed by it, None when none did.

        Raises:
            WindowForgotten: the other parts of its total are not known any more.
        """
        key = stored.key
        kind = self._kinds.get(key.kind)
        if kind is None or stored.definition != self._definition:
            return None
        total = self._totals.get(key)
        if total is None:
            if self._forgotten_us is not None and self._ended_by(key, kind, self._forgotten_us):
                raise WindowForgotten(stored.log)
            total = self._totals[key] = _Total(home_partition(key.scope, key.subject, self._partitions))
        part = total.parts.get(stored.log)
        if part is not None and part.position >= stored.position:
            return None
        total.parts[stored.log] = _Part(stored.position, Decimal(stored.spend), stored.exact_usage())
        total.last = stored
        return key

    def spend(self, key: SumKey) -> Decimal:
        """What a scope has spent in a window, over all logs."""
        total = Decimal(0)
        for part in self._totals[key].parts.values():
            total = EXACT.add(total, part.spend)
        return total

    def usage(self, key: SumKey) -> dict[str, Decimal]:
        """What a scope has used in a window, over all logs, by meter."""
        usage: dict[str, Decimal] = {}
        for part in self._totals[key].parts.values():
            for meter, quantity in part.usage.items():
                usage[meter] = EXACT.add(usage.get(meter, Decimal(0)), quantity)
        return usage

    def reached(self, homes: Collection[int], keys: Iterable[SumKey] | None = None) -> list[tuple[int, Alert]]:
        """Every threshold that is reached, with its home partition, in these homes.

        Of the totals of `keys`: what was not said before. Of all, where there are none: everything, said before or not.
        """
        alerts: list[tuple[int, Alert]] = []
        for key in list(self._totals) if keys is None else keys:
            total = self._totals[key]
            if total.home not in homes or total.last is None:
                continue
            watches = self._kinds[key.kind].concerning(key.subject)
            spend, usage, last = self.spend(key), self.usage(key), total.last
            for watch in watches:
                used = scaled_decimal(watch.budget.used(spend, usage))
                for threshold, _ in watch.thresholds[: watch.reached(used)]:
                    name = (watch.budget.name, threshold)
                    if keys is not None and name in total.told:
                        continue
                    total.told.add(name)
                    alert = alert_of(
                        watch.budget,
                        threshold,
                        key,
                        used,
                        log=last.log,
                        position=max(0, last.position - 1),
                        event_time=last.event_time or last.start,
                        append_ms=last.append_ms or 0,
                    )
                    alerts.append((total.home, alert))
        return alerts

    def forget(self) -> None:
        """Drop the totals of windows that are final; cheap when called often."""
        over_us = self._over_us()
        if self._forgotten_us is not None and over_us < self._forgotten_us + _FORGET_INTERVAL_US:
            return
        self._forgotten_us = over_us
        for key in [key for key in self._totals if self._ended_by(key, self._kinds[key.kind], over_us)]:
            del self._totals[key]

    def _over_us(self) -> int:
        """Windows that ended by then have been final for a while, by the newest log and by those that lag."""
        clock_ms = min([max(self.clocks.values(), default=0), *self.lagging.values()])
        return clock_ms * _US_PER_MS - self._horizon_us - KEPT_FINAL_US

    @staticmethod
    def _ended_by(key: SumKey, kind: WatchedKind, instant_us: int) -> bool:
        return window_end_us(key.start_us, key.window, kind.zone) <= instant_us
