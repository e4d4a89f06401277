"""Producers' series: every instance numbers its batches per partition, so gaps and forks show."""

from collections import deque
from dataclasses import dataclass, field

from meterproof_schemas.batch import BatchHeader


@dataclass(slots=True)
class _Series:
    next: int = 0
    missing: set[int] = field(default_factory=set)
    last_clock_ms: int = 0


class SeriesIndex:
    """Roots by (producer, instance, sequence) of one partition, for the horizon.

    Sequence numbers refuse nothing by themselves: the same number with the same root is a repeat whose lines are all
    duplicates; with another root it is a fork. A gap is reported until it is filled.
    """

    def __init__(self, horizon_ms: int) -> None:
        self._horizon_ms = horizon_ms
        self._roots: dict[tuple[str, str, int], str] = {}
        self._ages: deque[tuple[int, tuple[str, str, int]]] = deque()
        self._series: dict[tuple[str, str], _Series] = {}

    def forks(self, header: BatchHeader) -> bool:
        """Whether the series holds this sequence number with another root."""
        root = self._roots.get((header.producer, header.instance, header.sequence))
        return root is not None and root != header.root

    def add(self, header: BatchHeader, clock_ms: int) -> None:
        """Remember an admitted batch."""
        key = (header.producer, header.instance, header.sequence)
        if key in self._roots:
            return
        self._roots[key] = header.root
        self._ages.append((clock_ms, key))
        series = self._series.setdefault(key[:2], _Series())
        series.last_clock_ms = clock_ms
        if header.sequence < series.next:
            series.missing.discard(header.sequence)
        else:
            # A first number far above 0 is a series that began before the horizon, or one that lost its beginning.
            if series.next:
                series.missing.update(range(series.next, min(header.sequence, series.next + 1_000)))
            elif header.sequence:
                series.missing.add(header.sequence - 1)
            series.next = header.sequence + 1

    def evict(self, clock_ms: int) -> None:
        """Forget roots and series that are older than the horizon."""
        limit_ms = clock_ms - self._horizon_ms
        while self._ages and self._ages[0][0] < limit_ms:
            _, key = self._ages.popleft()
            del self._roots[key]
            series = self._series.get(key[:2])
            if series is not None and series.last_clock_ms < limit_ms:
                del self._series[key[:2]]

    def gaps(self) -> dict[tuple[str, str], list[int]]:
        """Missing sequence numbers by (producer, instance), where any are missing."""
        return {key: sorted(series.missing) for key, series in self._series.items() if series.missing}

    def roots(self) -> dict[tuple[str, str, int], str]:
        """A copy of all roots, for comparison."""
        return dict(self._roots)
