"""Producers' series: every instance numbers its batches per partition, so gaps and forks show."""

from collections import deque
from dataclasses import dataclass, field

from meterproof_schemas.batch import BatchHeader


@dataclass(slots=True)
class _Series:
    """One instance's batches of one partition. Every batch costs about 250 bytes, so names are held once."""

    key: tuple[str, str]
    roots: dict[int, bytes] = field(default_factory=dict)
    next: int = 0
    missing: set[int] = field(default_factory=set)
    last_clock_ms: int = 0


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """What one admitted batch changed: enough to bring a `SeriesIndex` back, one row per batch of the horizon."""

    clock_ms: int
    producer: str
    instance: str
    sequence: int
    root: bytes
    next: int
    """Of the series, after the batch."""
    missing: list[int]
    """Of the series, after the batch."""


class SeriesIndex:
    """Roots by (producer, instance, sequence) of one partition, for the horizon.

    Sequence numbers refuse nothing by themselves: the same number with the same root is a repeat whose lines are all
    duplicates; with another root it is a fork. A gap is reported until it is filled. Lives as long as the log's state.
    """

    def __init__(self, horizon_ms: int, *, begun: bool = False) -> None:
        """Know no series; `begun`: the log was not read from its beginning, so a first number above 0 is no gap."""
        self._horizon_ms = horizon_ms
        self._begun = begun
        self._ages: deque[tuple[int, _Series, int]] = deque()
        self._series: dict[tuple[str, str], _Series] = {}
        self._added = 0

    def forks(self, header: BatchHeader) -> bool:
        """Whether the series holds this sequence number with another root."""
        series = self._series.get((header.producer, header.instance))
        root = None if series is None else series.roots.get(header.sequence)
        return root is not None and root.hex() != header.root

    @property
    def added(self) -> int:
        """Batches ever remembered: tells whether `add` changed anything."""
        return self._added

    def add(self, header: BatchHeader, clock_ms: int) -> None:
        """Remember an admitted batch; one whose number is known changes nothing."""
        key = (header.producer, header.instance)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(key)
        elif header.sequence in series.roots:
            return
        self._remember(series, header.sequence, bytes.fromhex(header.root), clock_ms)
        if header.sequence < series.next:
            series.missing.discard(header.sequence)
        else:
            # A first number far above 0 is a series that began before the horizon, or one that lost its beginning.
            if series.next:
                series.missing.update(range(series.next, min(header.sequence, series.next + 1_000)))
            elif header.sequence and not self._begun:
                series.missing.add(header.sequence - 1)
            series.next = header.sequence + 1

    def row(self, header: BatchHeader, clock_ms: int) -> SeriesRow:
        """What `add` made of this batch just now, for `restore`."""
        series = self._series[header.producer, header.instance]
        root = series.roots[header.sequence]
        return SeriesRow(clock_ms, *series.key, header.sequence, root, series.next, sorted(series.missing))

    def restore(self, row: SeriesRow) -> None:
        """Take a row over. The rows of the horizon, in the order in which they were made, give the index back."""
        key = (row.producer, row.instance)
        series = self._series.setdefault(key, _Series(key))
        self._remember(series, row.sequence, row.root, row.clock_ms)
        series.next, series.missing = row.next, set(row.missing)

    def _remember(self, series: _Series, sequence: int, root: bytes, clock_ms: int) -> None:
        self._added += 1
        series.roots[sequence] = root
        series.last_clock_ms = clock_ms
        self._ages.append((clock_ms, series, sequence))

    def evict(self, clock_ms: int) -> None:
        """Forget roots and series that are older than the horizon."""
        limit_ms = clock_ms - self._horizon_ms
        while self._ages and self._ages[0][0] < limit_ms:
            _, series, sequence = self._ages.popleft()
            del series.roots[sequence]
            if series.last_clock_ms < limit_ms:
                self._series.pop(series.key, None)

    def gaps(self) -> dict[tuple[str, str], list[int]]:
        """Missing sequence numbers by (producer, instance), where any are missing."""
        return {key: sorted(series.missing) for key, series in self._series.items() if series.missing}

    def roots(self) -> dict[tuple[str, str, int], str]:
        """All roots, for comparison."""
        return {
            (*key, sequence): root.hex()
            for key, series in self._series.items()
            for sequence, root in series.roots.items()
        }
