"""Whether events of a time can still come: of which logs, and until when.

A log accepts nothing that is older than its clock less its horizon, a correction neither, whose time is that of what it
corrects. Its clock never goes back. So what came behind a record is known to be younger than that record's clock less
the horizon, whether it is in or not. The clock of a log that nothing comes into stands still; it has come as far as the
newest checkpoint of all logs, if all that is signed of the log is in.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from meterproof_schemas.instant import format_instant_ms
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.log_limits import epoch_limits, epoch_of, logs_of


@dataclass(frozen=True, slots=True)
class LogEnd:
    """How far one log is in, as far as it matters to what can come yet."""

    log: str
    clock_ms: int | None
    """Of its newest record that is in; None if none is."""
    lags: bool
    """Whether a signed checkpoint names a record that is not in."""
    signed_ms: int | None
    """When the broker took the newest checkpoint of all logs."""
    lateness_ms: int | None
    """How much later than its time an event can come; None if it is not known."""

    def can_bring(self, before_ms: int) -> str | None:
        """Why an event from before this time can still come; None if none can."""
        if self.lateness_ms is None:
            return (
                f"{self.log}: how late its events may come is not known here; the sink notes it with the first record "
                "that it writes"
            )
        settled_ms = before_ms + self.lateness_ms
        if self.clock_ms is not None and self.clock_ms >= settled_ms:
            return None
        if not self.lags and self.signed_ms is not None and self.signed_ms >= settled_ms:
            return None
        until = f"such events can come until its clock is {format_instant_ms(settled_ms)}"
        if self.clock_ms is None:
            return f"{self.log}: nothing of it is in; {until}"
        newest = f"its newest record that is in is of {format_instant_ms(self.clock_ms)}; {until}"
        if self.lags:
            return f"{self.log}: {newest}, and more of it is known that is not in"
        return f"{self.log}: {newest}, or a checkpoint of any log that is signed then shows that it has no more"


def log_ends(clickhouse: ClickHouse, complete: Collection[str] = ()) -> list[LogEnd]:
    """The logs of which more may come: all but those that are known to be complete.

    They are those that the database has rows or checkpoints of, and the others of their epochs, of which nothing has
    come yet.

    Raises:
        ClickHouseError: it cannot be asked, or knows of no log of such a name.
    """
    limits = epoch_limits(clickhouse)
    rows: dict[str, tuple[int | None, bool]] = {
        log: (None, False) for epoch, of_epoch in limits.items() for log in logs_of(epoch, of_epoch)
    }
    signed_ms = None
    for log, clock_ms, lags, taken_ms in clickhouse.rows(_UP_TO):
        rows[log] = clock_ms, bool(lags)
        signed_ms = max(filter(None, (signed_ms, taken_ms)), default=None)
    if unknown := sorted(set(complete) - rows.keys()):
        raise ClickHouseError(f"{unknown[0]}: no such log is here; here are {', '.join(sorted(rows)) or 'none'}")
    lateness_ms = {epoch: of_epoch.lateness_ms for epoch, of_epoch in limits.items()}
    return [
        LogEnd(log, *rows[log], signed_ms, lateness_ms.get(epoch_of(log)))
        for log in sorted(rows.keys() - set(complete))
    ]


def end_of_month_ms(month: int) -> int:
    """When a month, as YYYYMM, is over."""
    year, number = divmod(month, 100)
    return int(datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1000


_UP_TO: Final = """
SELECT log, toUnixTimestamp64Milli(clock_time), lags, toUnixTimestamp64Milli(checkpoint_time) FROM up_to ORDER BY log
"""
