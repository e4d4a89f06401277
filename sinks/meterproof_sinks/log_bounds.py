"""Positions by log: how far rows are there, and how one statement is given a bound for each log."""

from collections.abc import Mapping
from typing import Any, Final

from meterproof_sinks.clickhouse import ClickHouse

BOUND: Final = "mapFromArrays({logs:Array(String)}, {bounds:Array(UInt64)})[log]"
"""SQL: the bound of the log that a row is of; of one that is not named, 0."""


def parameters_of(bounds: Mapping[str, int]) -> dict[str, Any]:
    """Parameters of `BOUND`."""
    return {"logs": list(bounds), "bounds": list(bounds.values())}


def carried(clickhouse: ClickHouse) -> dict[str, int]:
    """By log, the position below which the sink has said that every row is there.

    Raises:
        ClickHouseError: it cannot be asked.
    """
    return dict(clickhouse.rows("SELECT log, argMax(next, log_offset) FROM sink_progress GROUP BY log ORDER BY log"))
