"""What `usage_retired` says of months that are given up: noted before a month is dropped, taken back if it was not."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final, NamedTuple

from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.log_bounds import BOUND, parameters_of
from meterproof_sinks.row_deletion import delete_rows


class Note(NamedTuple):
    """What is noted of a log's events of one month that were given up at one time."""

    times_before: int
    events: int
    last_position: int


def months_there(clickhouse: ClickHouse) -> list[int]:
    """The months, as YYYYMM, that have rows of single events, oldest first.

    Raises:
        ClickHouseError: it cannot be asked.
    """
    return [month for (month,) in clickhouse.rows(_MONTHS_THERE)]


def standing_notes(clickhouse: ClickHouse, month: int) -> dict[str, Note]:
    """By log, the last note of this month whose events are gone. One whose events are all there still is taken back.

    Events of which it is noted that they are erased, and which nobody came to delete yet, are there. What is there of a
    note's events and is not all of them was brought back by somebody. It goes with the month.

    Raises:
        ClickHouseError: the database refused.
    """
    standing = {}
    for log, notes in _notes(clickhouse, month).items():
        *earlier, newest = notes
        if newest.events in _there_of(clickhouse, month, log, earlier[-1] if earlier else None, newest):
            take_back(clickhouse, month, {log: newest})
            if earlier:
                standing[log] = earlier[-1]
        else:
            standing[log] = newest
    return standing


def note_month(
    clickhouse: ClickHouse, month: int, standing: Mapping[str, Note], below: Mapping[str, int]
) -> dict[str, Note]:
    """Note what the month holds of each log beyond what stands, and below these positions; by log, what was noted.

    What is noted as erased is not noted again.

    Raises:
        ClickHouseError: the database refused.
    """
    beyond = parameters_of({log: note.last_position + 1 for log, note in standing.items()})
    times = [note.times_before + 1 for note in standing.values()]
    given = {"month": month, "below_logs": list(below), "belows": list(below.values()), "times": times}
    clickhouse.command(_NOTE, {**given, **beyond})
    return {log: notes[-1] for log, notes in _notes(clickhouse, month).items() if notes[-1] != standing.get(log)}


def still_true(clickhouse: ClickHouse, month: int, noted: Mapping[str, Note], standing: Mapping[str, Note]) -> bool:
    """Whether nobody has taken one of these notes back, or erased some of what they are of.

    Raises:
        ClickHouseError: it cannot be asked.
    """
    notes = _notes(clickhouse, month)
    return all(
        note in notes.get(log, ()) and _there_of(clickhouse, month, log, standing.get(log), note)[1] == note.events
        for log, note in noted.items()
    )


def take_back(clickhouse: ClickHouse, month: int, noted: Mapping[str, Note]) -> None:
    """Take these notes back, whose events were not dropped.

    Raises:
        ClickHouseError: the database refused.
    """
    for log, note in noted.items():
        delete_rows(
            clickhouse,
            "usage_retired",
            "log = {log:String} AND month = {month:UInt32} AND times_before = {times:UInt64}",
            {"log": log, "month": month, "times": note.times_before},
        )


def _notes(clickhouse: ClickHouse, month: int) -> dict[str, list[Note]]:
    """Of one month, by log, oldest first."""
    notes: defaultdict[str, list[Note]] = defaultdict(list)
    for log, *note in clickhouse.rows(_NOTES, {"month": month}):
        notes[log].append(Note(*note))
    return notes


def _there_of(clickhouse: ClickHouse, month: int, log: str, before: Note | None, note: Note) -> tuple[int, int]:
    """How many rows are there of what a note is of; and of them, those that are not noted as erased."""
    first = 0 if before is None else before.last_position + 1
    given = {"month": month, "log": log, "first": first, "last": note.last_position}
    ((there, kept),) = clickhouse.rows(_THERE, given)
    return there, kept


_MONTHS_THERE: Final = """
SELECT DISTINCT toUInt32(partition) FROM system.parts
WHERE active AND database = currentDatabase() AND table = 'usage_rows' ORDER BY 1
"""
_NOTES: Final = """
SELECT log, times_before, events, last_position FROM usage_retired FINAL WHERE month = {month:UInt32}
ORDER BY log, times_before
"""
_THERE: Final = """
SELECT count(), countIf((log, position) NOT IN (SELECT log, position FROM usage_erased)) FROM usage_final
WHERE toYYYYMM(event_time) = {month:UInt32} AND log = {log:String}
  AND position >= {first:UInt64} AND position <= {last:UInt64}
"""
BELOW: Final = "mapFromArrays({below_logs:Array(String)}, {belows:Array(UInt64)})[log]"
"""SQL: how far a log was carried before the roll-ups were looked at: what comes later may be in none of them."""
_NOTE: Final = f"""
INSERT INTO usage_retired (log, month, times_before, events, uncounted, last_position, position_sum, step_sum, cost)
WITH (log, position) IN (SELECT log, position FROM usage_uncounted) AS is_uncounted
SELECT log, {{month:UInt32}}, mapFromArrays({{logs:Array(String)}}, {{times:Array(UInt64)}})[log],
       count(), countIf(is_uncounted), max(position), sum(position),
       sum(intHash64(position + 1) - intHash64(position)), sumIf(cost, NOT is_uncounted)
FROM usage_final
WHERE toYYYYMM(event_time) = {{month:UInt32}} AND position >= {BOUND} AND position < {BELOW}
  AND (log, position) NOT IN (SELECT log, position FROM usage_erased)
GROUP BY log
"""  # noqa: S608 - nothing of it comes from outside
