"""What stands on a log's partition of `usage.budget-state`, for whoever takes the log over (pure)."""

from collections.abc import Callable
from typing import Final

import structlog

from meterproof_schemas.budget import (
    Marker,
    PartialSum,
    SumKey,
    decode_budget_state,
    is_marker_key,
    parse_state_key,
    read_sum_head,
)
from meterproof_schemas.errors import InvalidRecord, StageStopped
from meterproof_schemas.reasons import StopReason

_log: Final = structlog.get_logger("meterproof.budgets")


class StoredBudgets:
    """A fold over the records of one partition, oldest first.

    Promises: of each sum the value with the highest position counts, whichever came last. Sums for which `is_over` says
    that nothing can change them any more are passed over by their keys alone: there are many more of them than others.
    """

    def __init__(self, origin: str, definition: str, is_over: Callable[[SumKey], bool]) -> None:
        self._origin = origin
        self._prefix = f"{origin}|".encode()
        self._definition = definition
        self._is_over = is_over
        self._over: dict[tuple[bytes, ...], bool] = {}
        self._marker: Marker | None = None
        self._best: dict[bytes, tuple[int, int, bytes]] = {}
        self._last: dict[bytes, tuple[SumKey, int, str]] = {}

    def offer(self, offset: int, key: bytes, value: bytes) -> None:
        """Take the next record. What is neither sum nor marker is passed over, with a warning.

        Raises:
            StageStopped: `log_diverged`: it is of another log.
        """
        if not key.startswith(self._prefix) or is_marker_key(key):
            self._offer_marker(value)
            return
        window = tuple(key.rsplit(b"|", 3)[1:])
        over = self._over.get(window)
        if over is None:
            named = parse_state_key(key)
            over = self._over[window] = named is not None and self._is_over(named[1])
        if over:
            return
        named, head = parse_state_key(key), read_sum_head(value)
        if named is None or head is None:
            _log.warning("budget_state_ignored", key=key.decode(errors="replace"))
            return
        self._last[key] = named[1], head.position, head.definition
        if head.definition == self._definition and head.position >= self._best.get(key, (-1,))[0]:
            self._best[key] = head.position, offset, value

    @property
    def marker(self) -> Marker | None:
        """The last marker; None where there is none, or where it was made for other budgets: then nothing counts."""
        return self._marker if self._counts else None

    @property
    def other_budgets(self) -> bool:
        """Whether the last marker was made for other budgets."""
        return self._marker is not None and not self._counts

    def sums(self) -> list[tuple[int, PartialSum]]:
        """Of each sum that can still change, the value with the highest position, with its offset."""
        if self.other_budgets:
            return []
        decoded = [(offset, _decoded(value)) for _, offset, value in self._best.values()]
        return [(offset, stored) for offset, stored in decoded if isinstance(stored, PartialSum)]

    def last(self) -> list[tuple[SumKey, int, str]]:
        """Of each such sum, position and definition of the value that stands last."""
        return list(self._last.values())

    @property
    def _counts(self) -> bool:
        return self._marker is not None and self._marker.definition == self._definition

    def _offer_marker(self, value: bytes) -> None:
        stored = _decoded(value)
        if stored is None:
            return
        if stored.log != self._origin:
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"usage.budget-state holds sums of {stored.log}, but the log is {self._origin}: the log was "
                "re-created. Restore it, or start a new deployment with empty topics.",
            )
        if isinstance(stored, Marker):
            self._marker = stored


def _decoded(value: bytes) -> PartialSum | Marker | None:
    try:
        return decode_budget_state(value)
    except InvalidRecord as error:
        _log.warning("budget_state_ignored", error=str(error))
        return None
