"""What a log's first record fixes and rows do not tell: how late an event may come, and how many logs there are."""

from typing import Final, NamedTuple

import orjson

from meterproof_schemas.log_record import Genesis
from meterproof_sinks.clickhouse import ClickHouse

_IS_NOTED: Final = "SELECT count() FROM log_limits WHERE log = {log:String} AND partitions > 0"
_KEPT: Final = """
SELECT substring(log, 1, length(log) - position(reverse(log), '/')) AS of_epoch,
       max(horizon_ms + future_tolerance_ms), max(partitions)
FROM log_limits GROUP BY of_epoch
"""


class EpochLimits(NamedTuple):
    """What all logs of an epoch have in common: one command creates them."""

    lateness_ms: int
    """How much later than its time an event can come, its clocks' tolerance included."""
    partitions: int
    """How many logs there are, written or not; 0 if it is not known."""


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
            "partitions": genesis.partitions,
        }
        clickhouse.insert("log_limits", (), orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE), "JSONEachRow", 1)


def epoch_limits(clickhouse: ClickHouse) -> dict[str, EpochLimits]:
    """By `epoch_of` a log, what is known of the logs of that epoch; what is known of one of them serves all.

    Raises:
        ClickHouseError: it cannot be asked.
    """
    return {epoch: EpochLimits(*limits) for epoch, *limits in clickhouse.rows(_KEPT)}


def epoch_of(log: str) -> str:
    """Name and epoch of a log, without its partition."""
    return log.rpartition("/")[0]


def logs_of(epoch: str, limits: EpochLimits) -> list[str]:
    """The logs of an epoch, as `Genesis.origin` names them."""
    return [f"{epoch}/p{partition}" for partition in range(limits.partitions)]
