"""How late an event of a log may come, as the table `log_limits` has it from the log's first record."""

from typing import Final

import orjson

from meterproof_schemas.log_record import Genesis
from meterproof_sinks.clickhouse import ClickHouse

_IS_NOTED: Final = "SELECT count() FROM log_limits WHERE log = {log:String}"
_KEPT: Final = """
SELECT substring(log, 1, length(log) - position(reverse(log), '/')) AS of_epoch, max(horizon_ms + future_tolerance_ms)
FROM log_limits GROUP BY of_epoch
"""


def note_limits(clickhouse: ClickHouse, genesis: Genesis) -> None:
    """Note a log's limits, unless they are; they never change.

    Raises:
        ClickHouseError: the database refused, or is away.
    """
    if clickhouse.rows(_IS_NOTED, {"log": genesis.origin}) == [(0,)]:
        row = {
            "log": genesis.origin,
            "horizon_ms": genesis.limits.horizon_ms,
            "future_tolerance_ms": genesis.limits.future_tolerance_ms,
        }
        clickhouse.insert("log_limits", (), orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE), "JSONEachRow", 1)


def lateness_ms(clickhouse: ClickHouse) -> dict[str, int]:
    """By `epoch_of` a log, how much later than its time an event can come, its clocks' tolerance included.

    The logs of an epoch are created by one command, with the same limits; so what is known of one of them serves all.

    Raises:
        ClickHouseError: it cannot be asked.
    """
    return dict(clickhouse.rows(_KEPT))


def epoch_of(log: str) -> str:
    """Name and epoch of a log, without its partition."""
    return log.rpartition("/")[0]
