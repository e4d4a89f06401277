"""Delete rows of a table of the engine, which writes their files anew in its own time."""

import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from meterproof_sinks.clickhouse import ClickHouse, ClickHouseUnavailable

POSITIONS_MAX: Final = 1_000
"""Named by one statement: they are a part of the address where it goes to a server."""
_PATIENCE_S: Final = 60.0
_POLL_S: Final = 0.005
_POLL_MAX_S: Final = 0.2
_MUTATIONS: Final = """
SELECT mutation_id, is_done, parts_to_do, latest_fail_reason FROM system.mutations
WHERE database = currentDatabase() AND table = {table:String}
"""
_WORK_DONE: Final = """
SELECT sum(rows_read) FROM system.merges WHERE database = currentDatabase() AND table = {table:String}
"""


def delete_rows(
    clickhouse: ClickHouse,
    table: str,
    condition: str,
    parameters: Mapping[str, Any],
    *,
    patience_s: float = _PATIENCE_S,
) -> None:
    """Delete the rows of which `condition` holds, and return when the files without them are in place everywhere.

    That may take hours, as long as it goes on. The engine's own wait has no end where merges are stopped, and would
    outlast the answer of a server where the table is large: so the deletion is asked for, and looked at.

    1. note which deletions the engine knows of
    2. ask for this one
    3. wait until the server that is asked has done it
    4. have the replicas waited for, if there are some: behind this one, a deletion of nothing is done when it is

    Args:
        clickhouse: stays the caller's.
        table: one of ours.
        condition: in SQL.
        parameters: of the condition.
        patience_s: without any progress, in seconds.

    Raises:
        ClickHouseUnavailable: it does not go on, and stays asked for; or it was taken back with `KILL MUTATION`.
        ClickHouseError: it was refused.
    """
    before = frozenset(_mutations(clickhouse, table))  # 1
    clickhouse.command(f"ALTER TABLE {table} DELETE WHERE {condition} SETTINGS mutations_sync = 0", parameters)  # 2
    _wait(clickhouse, table, before, patience_s)  # 3
    if not clickhouse.embedded:
        clickhouse.command(f"ALTER TABLE {table} DELETE WHERE 0 SETTINGS mutations_sync = 2")  # 4


def delete_positions(clickhouse: ClickHouse, table: str, log: str, positions: Sequence[int]) -> None:
    """Delete the rows of these positions of a log, as `delete_rows` does.

    Raises:
        ClickHouseError: as there; some may be deleted.
    """
    for at in range(0, len(positions), POSITIONS_MAX):
        delete_rows(
            clickhouse,
            table,
            "log = {log:String} AND position IN {positions:Array(UInt64)}",
            {"log": log, "positions": positions[at : at + POSITIONS_MAX]},
        )


class _Mutation(NamedTuple):
    """What the engine says of a deletion."""

    is_done: bool
    files: int
    """To be written anew, still."""
    fault: str


def _mutations(clickhouse: ClickHouse, table: str) -> dict[str, _Mutation]:
    return {name: _Mutation(*of_it) for name, *of_it in clickhouse.rows(_MUTATIONS, {"table": table})}


def _wait(clickhouse: ClickHouse, table: str, before: AbstractSet[str], patience_s: float) -> None:
    """Wait until what is there that was not before is done. A replica may hear of it a little later."""
    begun: AbstractSet[str] = frozenset()
    seen: object = None
    deadline_s, poll_s = 0.0, _POLL_S
    while True:
        there = _mutations(clickhouse, table)
        begun = begun or there.keys() - before
        if begun - there.keys():
            raise ClickHouseUnavailable(f"rows of {table} are not deleted: somebody took that back; run it again")
        waiting = [there[name] for name in begun if not there[name].is_done]
        if begun and not waiting:
            return
        files = sum(one.files for one in waiting)
        fault = next((one.fault for one in waiting if one.fault), "")
        # A file that fails is begun again and again: that it is read is no progress.
        now = files, clickhouse.rows(_WORK_DONE, {"table": table}) if not fault else []
        if now != seen:
            seen, deadline_s = now, time.monotonic() + patience_s
        if time.monotonic() > deadline_s:
            raise ClickHouseUnavailable(
                f"rows of {table} are not deleted yet: for {patience_s:g} s the engine wrote none of its files anew"
                f"{fault and f' ({fault})'}. If its merges are stopped, `SYSTEM START MERGES {table}`. It stays asked "
                "for; run it again"
            )
        time.sleep(poll_s)
        poll_s = min(poll_s * 2, _POLL_MAX_S)
