"""How many positions of one log ClickHouse holds, and whether each is there once: exact, in milliseconds."""

from dataclasses import dataclass
from typing import Final

from meterproof_sinks.clickhouse import ClickHouse

_TOTALS: Final = """
SELECT count(), max(position), sum(position) FROM usage_rows WHERE log = {log:String}
UNION ALL
SELECT count(), max(position), sum(position) FROM usage_erased FINAL WHERE log = {log:String}
UNION ALL
SELECT sum(events), max(last_position), sum(position_sum) FROM usage_retired FINAL WHERE log = {log:String}
SETTINGS max_threads = 1
"""
"""What the view `density` adds up. Planning is nearly all of the time, so nothing is nested."""
_SUMS_MODULO: Final = 2**64


@dataclass(frozen=True, slots=True)
class LogTotal:
    """What the tables hold of one log: as rows, whatever is repeated among them included, erased, and given up."""

    positions: int
    """How many: never 0."""
    last_position: int
    position_sum: int
    """Modulo 2**64."""

    @property
    def dense(self) -> bool:
        """Whether each position up to the last is there once: as many as there must be, with the sum they must have.

        Gaps and repeats that make up for each other in both are not seen by this; `reconcile` looks at every row.
        """
        expected_sum = self.positions * (self.positions - 1) // 2
        return self.positions == self.last_position + 1 and (self.position_sum - expected_sum) % _SUMS_MODULO == 0

    @property
    def surplus_rows(self) -> int:
        """Rows more than positions up to the last one; below 0 some are missing."""
        return self.positions - self.last_position - 1


def log_total(clickhouse: ClickHouse, log: str) -> LogTotal | None:
    """Count one log as the view `density` does, in about half its time; None if nothing of the log is there.

    Raises:
        ClickHouseError: the database cannot be asked.
    """
    counts, last_positions, sums = zip(*clickhouse.rows(_TOTALS, {"log": log}), strict=True)
    positions = sum(counts)
    return LogTotal(positions, max(last_positions), sum(sums) % _SUMS_MODULO) if positions else None
