"""Delete the rows of some positions of a log."""

from collections.abc import Sequence
from typing import Final

from meterproof_sinks.clickhouse import ClickHouse

POSITIONS_MAX: Final = 1_000
"""Named by one statement: they are a part of the address where it goes to a server."""


def delete_positions(clickhouse: ClickHouse, table: str, log: str, positions: Sequence[int]) -> None:
    """Delete rows, and return when the files without them are in place.

    Raises:
        ClickHouseError: it was refused; some may be deleted.
    """
    for at in range(0, len(positions), POSITIONS_MAX):
        clickhouse.command(
            f"ALTER TABLE {table} DELETE WHERE log = {{log:String}} AND position IN {{positions:Array(UInt64)}} "
            "SETTINGS mutations_sync = 2",
            {"log": log, "positions": positions[at : at + POSITIONS_MAX]},
        )
