"""What the client library says about connections: it raises without the cause, and logs the cause without end.

A filter on its loggers does two things: it keeps the last texts for whoever asks (`collected_causes`), and it lets each
kind of warning or error through once per interval, with the number of those withheld.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

QUIET_INTERVAL_S: Final = 30.0
"""The same kind of message appears at most once in this time."""

_LOGGERS: Final = (
    "aiokafka",  # the client's own: connections and metadata
    "aiokafka.conn",
    "aiokafka.cluster",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.sender",
)
_causes: ContextVar[list[str] | None] = ContextVar("_causes", default=None)


class ConnectionLog(logging.Filter):
    """Lets one message of a kind (logger, level, text before its values are put in) through per interval.

    Lives as long as the process, on the library's loggers; messages below WARNING pass untouched.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock_s = clock_s
        self._kinds: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message appears; it may get a count of those withheld before it."""
        if record.levelno < logging.WARNING:
            return True
        causes = _causes.get()
        if causes is not None:
            causes.append(record.getMessage())
            return False
        kind = (record.name, record.levelno, str(record.msg))
        now_s = self._clock_s()
        since_s, withheld = self._kinds.get(kind, (now_s - QUIET_INTERVAL_S, 0))
        if now_s - since_s < QUIET_INTERVAL_S:
            self._kinds[kind] = (since_s, withheld + 1)
            return False
        self._kinds[kind] = (now_s, 0)
        if withheld:
            record.msg = f"{record.getMessage()} ({withheld} more like this since the last one)"
            record.args = None
        return True


@contextmanager
def collected_causes() -> Iterator[list[str]]:
    """Collect what the library logs as warning or error within this block, in this task and those it starts.

    It is withheld from the log: whoever collects says it, in an error or in the log.
    """
    causes: list[str] = []
    token = _causes.set(causes)
    try:
        yield causes
    finally:
        _causes.reset(token)


def install() -> None:
    """Put the filter on the library's loggers; harmless when repeated."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(present, ConnectionLog) for present in logger.filters):
            logger.addFilter(ConnectionLog())
