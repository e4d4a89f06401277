"""Whether a sink carries what came in long ago."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from meterproof_schemas.log_record import LogRecord

_OLD_S: Final = 10.0
"""Records that the broker took longer ago were waiting."""
_NEWS_S: Final = 5.0
"""A write that ended longer ago says nothing of now."""


class Backlog:
    """Knows from what is written whether a sink catches up with its log. Lives as long as its worker.

    Only how often something is done hangs on it: the broker's clock may differ from this one.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """None, until something is noted."""
        self._clock = clock
        self._noted_s: float | None = None

    def note(self, records: Sequence[tuple[int, LogRecord]]) -> None:
        """Records that were just written."""
        now_s = self._clock()
        if records and now_s - records[-1][1].header.append_ms / 1000 > _OLD_S:
            self._noted_s = now_s

    @property
    def waits(self) -> bool:
        """Whether what was written just now had waited."""
        return self._noted_s is not None and abs(self._clock() - self._noted_s) <= _NEWS_S
