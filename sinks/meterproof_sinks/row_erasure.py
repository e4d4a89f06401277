"""Erase an agent's or a customer's rows from ClickHouse, beside whoever writes there."""

from collections import defaultdict
from datetime import date
from typing import Final

from meterproof_sinks.begun_before import wait_for_builders, wait_for_inserts
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.erasure import Erasure
from meterproof_sinks.event_time import month_of
from meterproof_sinks.log_bounds import BOUND, carried, parameters_of
from meterproof_sinks.removal_lock import removal_lock
from meterproof_sinks.retired_notes import months_there, standing_notes
from meterproof_sinks.rollups import Rollups, drop_left_behind
from meterproof_sinks.row_deletion import delete_positions, delete_rows

_BELOW: Final = f"position < {BOUND}"
_RETIRED: Final = "SELECT DISTINCT month FROM usage_retired"
_ROLLUPS: Final = ("usage_minutes", "usage_hours", "usage_days")


def erase_rows(clickhouse: ClickHouse, erasure: Erasure) -> tuple[int, int]:
    """Erase the rows of whom the request names, up to the sink's progress; how many, and how many days were rebuilt.

    A sink may run meanwhile: it writes above its progress only. What it brings later is not erased. Repeating it after
    a crash finishes what is left.

    No statement has the name in it, only its salted digest: the engine keeps the text of what it deletes by, and a
    server the text of every query.

    1. note position and entry of each row, of those in quarantine too: so the log stays dense without them, and none
       is taken in again
    2. take back what a `retain` that was cut off noted of a month which it did not drop: those rows would count as
       given up and as erased; nobody else notes anything during 1 and 2
    3. wait for inserts that were let in before
    4. delete the rows, and wait until the files without them are in place; then what is said of corrections among them;
       then those in quarantine
    5. wait for who is building a day of roll-ups from rows that are gone; in a folder nobody is, and what a killed
       builder left there goes
    6. build those days again that had rows of that name, in roll-ups too; in months whose rows were given up, delete
       from the roll-ups
    7. note the request in `erasures`: no alert of that name from before comes in any more
    8. delete the alerts, which no log counts
    9. let the engine forget deletions that earlier builds spelled with the name in them

    Args:
        clickhouse: stays the caller's.
        erasure: the request.

    Raises:
        ClickHouseError: refused, or somebody else's insert, roll-up, `erase` or `retain` did not end; run it again.
    """
    name = named(erasure)
    whose = is_named(erasure.owner.kind)
    below = parameters_of(carried(clickhouse))
    set_aside = _set_aside(erasure)
    with removal_lock(clickhouse):
        days = _days(clickhouse, f"usage_final WHERE {whose} AND {_BELOW}", "event_time", {**name, **below})
        _note_positions(clickhouse, erasure, {**name, **below})  # 1
        _settle_notes(clickhouse)  # 2
    wait_for_inserts(clickhouse)  # 3
    delete_rows(clickhouse, "usage_rows", f"{whose} AND {_BELOW}", {**name, **below})  # 4
    _delete_corrections(clickhouse)
    delete_rows(clickhouse, "quarantine", f"{set_aside} OR {_NAMING}", name)
    wait_for_builders(clickhouse)  # 5
    if clickhouse.embedded:
        drop_left_behind(clickhouse)
    retired = {month for (month,) in clickhouse.rows(_RETIRED)}  # 6
    for table in _ROLLUPS:
        days |= _days(clickhouse, f"{table} WHERE {whose}", "start", name)
    if any(month_of(day) in retired for day in days):
        for _ in range(2):  # once more behind who adds to such a day: that one reads the day itself
            for table in _ROLLUPS:
                in_months = "toYYYYMM(start) IN {months:Array(UInt32)}"
                delete_rows(clickhouse, table, f"{whose} AND {in_months}", {**name, "months": sorted(retired)})
            wait_for_builders(clickhouse)
    built = Rollups(clickhouse).rebuild(days).built if days else []
    ((events,),) = clickhouse.rows(
        "SELECT count() FROM usage_erased FINAL WHERE request = {request:String}", {"request": erasure.request}
    )
    _note(clickhouse, erasure, events)  # 7
    of_alert = f"scope = {{kind:String}} AND {is_named('subject')}"
    delete_rows(clickhouse, "usage_alerts", of_alert, {"kind": erasure.owner.kind, **name})  # 8
    _forget_deletions(clickhouse)  # 9
    return events, len(built)


def _note_positions(clickhouse: ClickHouse, erasure: Erasure, parameters: dict[str, object]) -> None:
    whose = is_named(erasure.owner.kind)
    for rows in (
        f"SELECT log, position, lower(hex(entry)) AS entry FROM usage_final WHERE {whose} AND {_BELOW}",  # noqa: S608 - ours
        f"SELECT log, position, digest AS entry FROM quarantine FINAL WHERE {_set_aside(erasure)}",  # noqa: S608 - ours
    ):
        clickhouse.command(
            f"INSERT INTO usage_erased (log, position, entry, request) SELECT *, {{request:String}} FROM ({rows})",  # noqa: S608 - ours
            {**parameters, "request": erasure.request},
        )


def _settle_notes(clickhouse: ClickHouse) -> None:
    retired = {month for (month,) in clickhouse.rows(_RETIRED)}
    for month in months_there(clickhouse):
        if month in retired:
            standing_notes(clickhouse, month)


def is_named(column: str) -> str:
    """SQL: this column holds the name that is to be erased; as `Erasure.name_digest` is made."""
    return f"SHA256(concat(unhex({{salt:String}}), {column})) = unhex({{digest:String}})"


def named(erasure: Erasure) -> dict[str, object]:
    """Parameters of `is_named`."""
    return {"salt": erasure.salt.hex(), "digest": erasure.name_digest}


def _days(clickhouse: ClickHouse, rows: str, column: str, parameters: dict[str, object]) -> set[date]:
    sql = f"SELECT DISTINCT toDate({column}) FROM {rows}"  # noqa: S608 - ours
    return {day for (day,) in clickhouse.rows(sql, parameters)}


def _delete_corrections(clickhouse: ClickHouse) -> None:
    """Delete what is said of corrections that were erased; what they correct is gone with them."""
    found = defaultdict(list)
    for log, position in clickhouse.rows(
        "SELECT log, position FROM usage_corrections WHERE (log, position) IN (SELECT log, position FROM usage_erased)"
    ):
        found[log].append(position)
    for log, positions in found.items():
        delete_positions(clickhouse, "usage_corrections", log, positions)


def _set_aside(erasure: Erasure) -> str:
    """SQL: this row of `quarantine` is an event of that name."""
    fields = "'subject'" if erasure.owner.kind == "agent" else "'data', 'customer'"
    return f"kind = 'event' AND {is_named(f'JSONExtractString(row, {fields})')}"


_NAMING: Final = f"kind != 'event' AND arrayExists(text -> {is_named('text')}, extractAll(row, '\"([^\"]*)\"'))"
"""SQL: this row of `quarantine` is no event, as an alert is none, and has that name as a text in it, wherever it is."""


def _forget_deletions(clickhouse: ClickHouse) -> None:
    """Have the text of the last deletion alone kept, where there are others, behind one of nothing.

    The engine keeps a hundred otherwise. It removes the others by itself, within some minutes of being open.
    """
    for (table,) in clickhouse.rows(
        "SELECT DISTINCT table FROM system.mutations WHERE database = currentDatabase() AND is_done "
        "AND command LIKE '%DELETE%' AND command NOT LIKE '%unhex%' AND command NOT LIKE '%WHERE 0%'"
    ):
        clickhouse.command(f"ALTER TABLE {table} MODIFY SETTING finished_mutations_to_keep = 1")
        delete_rows(clickhouse, table, "0", {})


def _note(clickhouse: ClickHouse, erasure: Erasure, events: int) -> None:
    clickhouse.command(
        "INSERT INTO erasures (request, requested_at, requested_by, reason, kind, salt, name_digest, events) VALUES "
        "({request:String}, fromUnixTimestamp64Milli({ms:Int64}, 'UTC'), {by:String}, {reason:String}, {kind:String}, "
        "{salt:String}, {digest:String}, {events:UInt64})",
        {
            "request": erasure.request,
            "ms": erasure.requested_ms,
            "by": erasure.requested_by,
            "reason": erasure.reason,
            "kind": erasure.owner.kind,
            "salt": erasure.salt.hex(),
            "digest": erasure.name_digest,
            "events": events,
        },
    )
