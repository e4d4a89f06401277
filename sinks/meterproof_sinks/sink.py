"""What a destination of the log must be able to do."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from meterproof_schemas.chain import Cursor
from meterproof_schemas.log_record import Genesis, LogRecord


class SinkFault(Exception):
    """Ends a worker, or a command, by one line: the text is for operators, and says what to do where anything helps."""

    retriable: ClassVar[bool] = False
    """Whether starting again later can help, with nothing changed here."""


class SinkUnavailable(Exception):
    """The destination cannot be reached, or cannot do it now; nothing is wrong with what it was given.

    The worker waits and makes the same call again.
    """


@dataclass(frozen=True, slots=True)
class Density:
    """How the rows that a destination has of a log compare with its positions, which have neither gap nor repeat."""

    dense: bool
    """Whether each position up to the highest is there once."""
    surplus_rows: int
    """Rows more than positions: repeats that no reader counts. Below 0 some are missing."""


class Sink(Protocol):
    """A destination that holds accepted log records durably and can say how far it got.

    Made before its worker and closed after it. Its own output is its only memory: no committed offset, no local note.
    The worker calls `cursor` once per log, then `write` for that log's records in order, each record once per run;
    never two calls for one log at a time, but calls for different logs may overlap, and `density` any call.
    """

    name: str
    """Short, for status files and messages."""

    async def cursor(self, log: int) -> Cursor | None:
        """The last log record of this partition that the destination contains whole; None if there is none.

        Everything below it is durable, and nothing above it counts.
        """

    async def write(self, partition: int, genesis: Genesis, records: list[tuple[int, LogRecord]]) -> None:
        """Write the next accepted records, each with its offset on `usage.log`; return when they are durable.

        After it returned, `cursor` names the last of them. Any error leaves the cursor where it was, and writing the
        same records again, cut in any other way, gives the same content.

        Raises:
            SinkUnavailable: the destination is away; the worker repeats the call until it is back.
        """

    async def density(self, partition: int) -> Density | None:
        """The destination's own count of a log, whose cursor was asked for; None if it has no quick way to count.

        Raises:
            SinkUnavailable: the destination is away.
        """

    async def close(self) -> None:
        """Let go of the destination; harmless when repeated."""
