"""How many positions of one log ClickHouse holds, and whether each is there once: exact, in milliseconds."""

from dataclasses import dataclass
from typing import Final

from meterproof_sinks.clickhouse import ClickHouse

_ROWS: Final = """
SELECT count(), max(position), sum(intHash64(position + 1) - intHash64(position))
FROM usage_rows WHERE log = {log:String}
SETTINGS max_threads = 1
"""
"""Without a view, since planning is nearly all of the time; from the projection `stretches`."""
_DENSITY: Final = "SELECT positions, last_position, dense FROM density WHERE log = {log:String}"
_WORD: Final = 2**64
_HASH_KEY: Final = 0x4CF2D2BAAE6DA887


@dataclass(frozen=True, slots=True)
class LogTotal:
    """What the tables hold of one log: as rows, whatever is repeated among them included, erased, and given up."""

    positions: int
    """How many."""
    last_position: int
    dense: bool
    """Whether each position up to the last is there once."""

    @property
    def surplus_rows(self) -> int:
        """Rows more than positions up to the last one; below 0 some are missing."""
        return self.positions - self.last_position - 1


def log_total(clickhouse: ClickHouse, log: str, promised: int = 0) -> LogTotal | None:
    """Count one log; None if nothing of the log is there.

    1. count the rows alone: if they are dense as they lie there, up to `promised` at least, that is the answer
    2. else, as the view `density` does, which takes some times as long: below the progress row only, since a write to
       several months is there in several steps, and with what was erased or given up

    Args:
        clickhouse: stays the caller's.
        log: its origin.
        promised: first position that need not be there, as far as the caller knows.

    Raises:
        ClickHouseError: the database cannot be asked.
    """
    ((count, last_position, step_sum),) = clickhouse.rows(_ROWS, {"log": log})  # 1
    if count == last_position + 1 >= promised and fits(count, step_sum):
        return LogTotal(count, last_position, dense=True)
    found = clickhouse.rows(_DENSITY, {"log": log})  # 2
    return next((LogTotal(positions, last, bool(dense)) for positions, last, dense in found), None)


def fits(count: int, step_sum: int) -> bool:
    """Whether so many positions, with this sum of steps (modulo 2**64), are 0, 1, … count - 1, each once.

    A position's step is the hash of the next one less its own. Over all of them they add up to the hash of `count` less
    that of 0; what is missing or repeated leaves hashes over, which hardly ever add up to nothing (1 in 2**64).
    """
    return (step_sum - _hash(count) + _hash(0)) % _WORD == 0


def _hash(number: int) -> int:
    """ClickHouse's `intHash64`: the finalizer of MurmurHash3, of the number XOR a constant."""
    number ^= _HASH_KEY
    number = (number ^ number >> 33) * 0xFF51AFD7ED558CCD % _WORD
    number = (number ^ number >> 33) * 0xC4CEB9FE1A85EC53 % _WORD
    return number ^ number >> 33
