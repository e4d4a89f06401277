"""Whether every partition moves: the difference between a worker that has nothing to do and one that does nothing."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class _Waiting:
    """Records wait at an offset."""

    at: int
    since_s: float
    """When that was first seen."""
    ours_since_s: float
    """Since when nothing outside of this process was waited for, either."""


class Progress:
    """Knows for how long records have waited on each partition while none was taken. Without a clock of its own.

    A partition's time begins anew when a record is taken, when none waits, when the partition is not held, and when the
    broker does not answer: what is not known is held against nobody. Lives as long as its worker.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, _Waiting] = {}
        self._empty: dict[int, tuple[int, int]] = {}

    def look(
        self, now_s: float, due: Mapping[int, int], ends: Mapping[int, int] | None, *, waits_for: str | None
    ) -> None:
        """Take notice.

        Args:
            now_s: monotonic.
            due: the offset that is due, by partition held.
            ends: the offset behind the last record, by partition; None when the broker does not answer.
            waits_for: what outside of this process is waited for before more is taken; None if nothing is.

        """
        before, self._waiting = self._waiting, {}
        for partition, at in due.items():
            end = None if ends is None else ends.get(partition)
            if end is None or end <= at or self._empty.get(partition) == (at, end):
                continue
            known = before.get(partition)
            if known is None or known.at != at:
                known = _Waiting(at, now_s, now_s)
            elif waits_for is not None:
                known.ours_since_s = now_s
            self._waiting[partition] = known

    def nothing_stands(self, partition: int, at: int, end: int) -> None:
        """No record stands between these offsets, only markers of transactions: nothing waits there."""
        self._empty[partition] = (at, end)
        self._waiting.pop(partition, None)

    def waiting_s(self, now_s: float) -> dict[int, float]:
        """By partition, how long records have waited while none was taken, whatever the reason."""
        return {partition: now_s - waiting.since_s for partition, waiting in self._waiting.items()}

    def stuck_s(self, now_s: float) -> dict[int, float]:
        """By partition, how long that had no reason outside of this process."""
        return {partition: now_s - waiting.ours_since_s for partition, waiting in self._waiting.items()}
