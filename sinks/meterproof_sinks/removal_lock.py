"""A lock for those who take rows away, `erase` and `retain`: one at a time notes what is to go."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import randbelow, token_hex
from typing import Final

from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError

_PREFIX: Final = "removal_lock_"
_AGE_S: Final = 7200
"""Of a lock that a crash left."""
_PATIENCE_S: Final = 300.0
_PAUSE_MS: Final = 1000
_OTHERS: Final = """
SELECT name, metadata_modification_time <= now() - {age:UInt32} FROM system.tables
WHERE database = currentDatabase() AND startsWith(name, {prefix:String}) AND name != {own:String}
"""


@contextmanager
def removal_lock(clickhouse: ClickHouse, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Wait until nobody else notes what is to go, and keep others waiting meanwhile.

    Else, what one notes as erased could be what another has noted as given up already and is about to drop: `density`
    would count it twice, or the note would be taken back of what is gone. In a folder nobody else is: it has one
    process, which does one thing after another.

    1. wait while others have a table that is the lock; drop one that a crash left
    2. make one, and look again: of two who do so at the same time, the second to make one sees the first's
    3. if there is another now, drop one's own, and begin again a little later

    Args:
        clickhouse: stays the caller's.
        patience_s: for others, in seconds.

    Raises:
        ClickHouseError: another did not end, or the database refused.
    """
    if clickhouse.embedded:
        yield
        return
    own = f"{_PREFIX}{token_hex(8)}"
    deadline_s = time.monotonic() + patience_s
    try:
        while not _has_made(clickhouse, own):
            if time.monotonic() > deadline_s:
                raise ClickHouseError(
                    f"another `erase` or `retain` is under way, or a crash left its table `{_PREFIX}…` (then it goes "
                    "within two hours); run it again"
                )
            time.sleep(randbelow(_PAUSE_MS) / 1000)
        yield
    finally:
        clickhouse.command(f"DROP TABLE IF EXISTS {own}")


def _has_made(clickhouse: ClickHouse, own: str) -> bool:
    if _others(clickhouse, own):  # 1
        return False
    clickhouse.command(f"CREATE TABLE {own} (nothing UInt8) ENGINE = Null")  # 2
    if _others(clickhouse, own):
        clickhouse.command(f"DROP TABLE {own}")  # 3
        return False
    return True


def _others(clickhouse: ClickHouse, own: str) -> list[str]:
    others = []
    for name, is_old in clickhouse.rows(_OTHERS, {"prefix": _PREFIX, "own": own, "age": _AGE_S}):
        if is_old:
            clickhouse.command(f"DROP TABLE IF EXISTS {name}")
        else:
            others.append(name)
    return others
