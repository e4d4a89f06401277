"""Roll-ups by minute, hour and day: days that have new events are built beside the tables and swapped in whole."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Final

import structlog

from meterproof_sinks.backlog import Backlog
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.event_time import month_of
from meterproof_sinks.log_bounds import carried
from meterproof_sinks.rollup_rows import GRAINS, sums_of
from meterproof_sinks.usage_groups import groups_of_a_day

REQUEST_FILE: Final = "rebuild-rollups"
"""In a ClickHouse folder, asks the process that owns it to build all roll-ups again; it removes the file when done."""
_REST: Final = 9
"""After a refresh, that many times its duration is rested: roll-ups take a tenth of the machine at most."""
_BACKLOG_REST_S: Final = 300.0
"""How long a backlog keeps roll-ups waiting."""
LAST_REFRESH_S: Final = 20.0
"""After which the last refresh of a worker that stops begins no further day."""
_SETTINGS: Final = f"SETTINGS max_threads = 1, max_bytes_before_external_group_by = {256 * 1024**2}"
"""Several threads would take a third more of the processor, to join what each of them found; groups that take more than
this go to the disk, so that a day of millions of events takes little more memory than one of few."""
_ASIDE: Final = f"{_SETTINGS}, os_threads_nice_value_query = 15"
"""And that behind all others where the process may say so (CAP_SYS_NICE)."""
_STAGING: Final = "staging_"
_STAGING_AGE_S: Final = 3600
"""A staging table that is older was left by a crash."""
_TABLES: Final = {"usage_groups": None, **{f"usage_{grain}s": grain for grain in GRAINS}}
"""What holds a day, and the length of what it adds up; groups are of several."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger("meterproof.rollups")

Bounds = Mapping[str, int]
"""By log: the first position that does not count."""
_ROLLUPS_OF: Final = "SELECT DISTINCT `rollup` FROM rollup_progress WHERE day = {day:Date}"
_OF_DAY: Final = "toDate(start) = {day:Date}"
_GOES_TO: Final = "SELECT log, max(built_to) FROM {table} WHERE built_to > 0 GROUP BY log"


@dataclass(slots=True)
class Refreshed:
    """What one refresh did."""

    built: list[date] = field(default_factory=list)
    """Days that were built and swapped in."""
    newer: list[date] = field(default_factory=list)
    """Days that somebody else had built further meanwhile; they were left as they are."""
    left: list[date] = field(default_factory=list)
    """Days that were not come to."""


class Rollups:
    """Keeps the roll-ups and `usage_groups` equal to the events below the sink's progress.

    Promises: a day of a table is, at any moment and after any crash, the exact sums of that day's events below the
    positions that its marker rows state; it never goes back to lower positions, unless it is rebuilt by force. What
    comes of a month after its events were given up is added to what the month's days hold. Holds only a cache of what
    it built, so several may run beside one another. Lives as long as its connection.
    """

    def __init__(self, clickhouse: ClickHouse, *, aside: bool = False) -> None:
        """Build nothing yet.

        Args:
            clickhouse: stays the caller's.
            aside: let whatever else this process does go first.

        """
        self._clickhouse = clickhouse
        self._settings = _ASIDE if aside else _SETTINGS
        self._seen: Bounds | None = None
        self._built: dict[date, dict[str, int]] = {}

    def refresh(self, enough: Callable[[], bool] = lambda: False) -> Refreshed:
        """Build the days that have events which a roll-up lacks; cheap when there are none.

        `enough` is asked before each day, and ends it early: what is built is whole, the rest waits for the next time.

        Raises:
            ClickHouseUnavailable: the database is away; what was done so far is whole.
            ClickHouseError: a statement was refused.
        """
        bounds = carried(self._clickhouse)
        if bounds == self._seen:
            return Refreshed()
        if self._seen is None:
            self._built = self._built_to()
        refreshed = self._build(
            [
                day
                for day, lasts in sorted(self._last_positions().items())
                if any(min(last + 1, bounds.get(log, 0)) > self._to(day, log) for log, last in lasts.items())
            ],
            bounds,
            enough=enough,
        )
        self._seen = None if refreshed.left else bounds
        return refreshed

    def rebuild(self, days: Collection[date] | None = None) -> Refreshed:
        """Build these days (None: all, those included that have no event any more) from the events, whatever is there.

        Days whose events were given up (`retention`) are left as they are: nothing could make them again.

        Raises:
            ClickHouseUnavailable: the database is away; what was done so far is whole.
            ClickHouseError: a statement was refused.
        """
        bounds = carried(self._clickhouse)
        if not any(bounds.values()):
            return Refreshed()  # what is there is of a write that is not complete, and no day has anything to hold
        if days is None:
            days = self._last_positions().keys() | self._built_to().keys()
        retired = self._retired_months()
        kept = sorted(day for day in days if month_of(day) not in retired)
        refreshed = self._build(kept, bounds, force=True)
        self._seen = None
        return refreshed

    def _build(
        self, days: list[date], bounds: Bounds, *, force: bool = False, enough: Callable[[], bool] = lambda: False
    ) -> Refreshed:
        if days:
            drop_left_behind(self._clickhouse, _STAGING_AGE_S)
        refreshed = Refreshed()
        for day in days:
            if enough():
                refreshed.left.append(day)
                continue
            (refreshed.built if self._build_day(day, bounds, force=force) else refreshed.newer).append(day)
        return refreshed

    def _build_day(self, day: date, bounds: Bounds, *, force: bool) -> bool:
        """Build one day in all roll-ups; False if somebody has built it further.

        `bounds` was read from the progress rows before this, so every row below is there: a write is never seen torn.

        1. make tables of their own. Whoever takes rows away waits for those that are there when that is noted (`erase`,
           `retain`); so look now whether the month's events were given up
        2. fill each, with one marker row per log
        3. stop if the day as it stands goes further: a late builder must not put back an older state
        4. swap each in whole, and drop the tables of their own
        """
        run, made = token_hex(8), dict[str, str]()
        try:
            for table in _TABLES:  # 1
                made[table] = f"{_STAGING}{run}_{table}"
                self._command(f"CREATE TABLE {made[table]} AS {table}", {})
            fill = self._add if month_of(day) in self._retired_months() else self._fill
            filled = fill(day, bounds, made)  # 2
            if not force:  # 3
                there = self._built_to(day).get(day, {})
                if any(there.get(log, 0) > bounds.get(log, 0) for log in there):
                    self._built[day] = there
                    return False
            for table in filled:  # 4
                self._command(f"ALTER TABLE {table} REPLACE PARTITION '{day.isoformat()}' FROM {made[table]}", {})
            self._built[day] = dict(bounds)
        finally:
            for staging in made.values():
                self._command(f"DROP TABLE IF EXISTS {staging}", {})
        return True

    def _fill(self, day: date, bounds: Bounds, made: Mapping[str, str]) -> list[str]:
        """Fill the groups and the finest roll-up from the events, each coarser one from the finer; and say which."""
        finer, parameters = None, _parameters(day, bounds)
        for table, grain in _TABLES.items():
            for rows in groups_of_a_day() if grain is None else (sums_of(grain, finer),):
                self._command(f"INSERT INTO {made[table]} {self._settings} {rows}", parameters)
            finer = None if grain is None else made[table]
        return list(made)

    def _add(self, day: date, bounds: Bounds, made: Mapping[str, str]) -> list[str]:
        """Of a day whose events were given up: what each roll-up has, and the events that it does not go to.

        Its groups were given up, too. Its minutes may have been: then it has hours and no minutes, and gets none.
        """
        there = {rollup for (rollup,) in self._clickhouse.rows(_ROLLUPS_OF, {"day": day})}
        filled = []
        for table, grain in _TABLES.items():
            if grain is None or (there and grain not in there):
                continue
            # With its marker rows, which say what of it is there: in one statement, since others may swap the day.
            self._command(f"INSERT INTO {made[table]} SELECT * FROM {table} WHERE {_OF_DAY}", {"day": day})  # noqa: S608
            froms = dict(self._clickhouse.rows(_GOES_TO.format(table=made[table])))
            parameters = {**_parameters(day, bounds), "froms": [froms.get(log, 0) for log in bounds]}
            rows = sums_of(grain, None, later=True)
            self._command(f"INSERT INTO {made[table]} {self._settings} {rows}", parameters)
            filled.append(table)
        return filled

    def _retired_months(self) -> set[int]:
        return {month for (month,) in self._clickhouse.rows("SELECT DISTINCT month FROM usage_retired")}

    def _last_positions(self) -> dict[date, dict[str, int]]:
        """By day and log: the highest position that is there; from the projection, and rows above progress included."""
        found: defaultdict[date, dict[str, int]] = defaultdict(dict)
        for log, day, last in self._clickhouse.rows(
            "SELECT log, toDate(hour) AS day, max(last) FROM ("
            "SELECT log, toStartOfHour(event_time) AS hour, max(position) AS last FROM usage_rows GROUP BY log, hour"
            ") GROUP BY log, day"
        ):
            found[day][log] = last
        return found

    def _built_to(self, day: date | None = None) -> dict[date, dict[str, int]]:
        """By day and log: how far all roll-ups go, by their marker rows."""
        where = "" if day is None else "WHERE day = {day:Date}"
        retired = self._retired_months()
        found: defaultdict[date, dict[str, int]] = defaultdict(dict)
        for built_day, log, next_, rollups in self._clickhouse.rows(
            f"SELECT day, log, min(next), groupArray(`rollup`) FROM rollup_progress {where} GROUP BY day, log",  # noqa: S608 - ours
            {} if day is None else {"day": day},
        ):
            # Minutes may have been given up after their time, and groups are with the month's events.
            needed = {"hour", "day"} if month_of(built_day) in retired else {"group", "hour", "day"}
            found[built_day][log] = next_ if needed <= set(rollups) else 0
        return dict(found)

    def _to(self, day: date, log: str) -> int:
        return self._built.get(day, {}).get(log, 0)

    def _command(self, sql: str, parameters: Mapping[str, object]) -> None:
        self._clickhouse.command(sql, parameters)


def _parameters(day: date, bounds: Bounds) -> dict[str, object]:
    """Of what goes into a day, as far as these positions."""
    return {
        "day": f"{day.isoformat()} 00:00:00",
        "after": f"{(day + timedelta(days=1)).isoformat()} 00:00:00",
        "logs": list(bounds),
        "nexts": list(bounds.values()),
    }


def drop_left_behind(clickhouse: ClickHouse, age_s: int = 0) -> None:
    """Drop the tables of days that somebody began to build so long ago, as a killed builder leaves them."""
    for (name,) in clickhouse.rows(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND startsWith(name, {prefix:String}) "
        "AND metadata_modification_time <= now() - {age:UInt32}",
        {"prefix": _STAGING, "age": age_s},
    ):
        clickhouse.command(f"DROP TABLE IF EXISTS `{name}`")


def days_being_built(clickhouse: ClickHouse) -> set[str]:
    """The staging tables that somebody has: of days that are being built, or that a crash left."""
    return {
        name
        for (name,) in clickhouse.rows(
            "SELECT name FROM system.tables WHERE database = currentDatabase() AND startsWith(name, {prefix:String})",
            {"prefix": _STAGING},
        )
    }


async def keep_rollups(
    clickhouse: ClickHouse,
    stop: asyncio.Event,
    interval_s: float,
    rest: float = _REST,
    *,
    turn: asyncio.Lock | None = None,
    backlog: Backlog | None = None,
) -> None:
    """Refresh the roll-ups every `interval_s` seconds until `stop` is set, over a connection of its own.

    After a refresh it rests `rest` times as long as that took, if that is longer, and on while the sink has a backlog,
    five minutes at most: each row that comes has its whole day built again. `turn` is had while it refreshes.

    A refresh that fails is told and tried again: roll-ups never keep the rows themselves from arriving. In a folder, a
    file `rebuild-rollups` has all of them built again.
    """
    request = clickhouse.folder / REQUEST_FILE if clickhouse.embedded else None
    connection: ClickHouse | None = None
    rollups: Rollups | None = None
    try:
        while not stop.is_set():
            began_s = time.monotonic()
            try:
                if connection is None or rollups is None:
                    connection = await asyncio.to_thread(clickhouse.another)
                    rollups = Rollups(connection, aside=clickhouse.embedded)
                async with turn or contextlib.nullcontext():
                    await asyncio.to_thread(_refresh_once, rollups, request)
            except ClickHouseError as error:
                _log.warning("rollups_not_refreshed", reason=str(error))
            ended_s = time.monotonic()
            rest_s = max(interval_s, rest * (ended_s - began_s))
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), rest_s)
                asked = request is not None and request.exists()
                waits = backlog is not None and backlog.waits and not asked
                if not waits or time.monotonic() - ended_s >= _BACKLOG_REST_S:
                    break
                rest_s = interval_s
    finally:
        if connection is not None:
            connection.close()


def refresh_last(clickhouse: ClickHouse) -> None:
    """Refresh once more, since nobody will for a while; a failure is told, and made good by the next start."""
    deadline_s = time.monotonic() + LAST_REFRESH_S
    try:
        refreshed = Rollups(clickhouse).refresh(lambda: time.monotonic() > deadline_s)
    except ClickHouseError as error:
        _log.warning("rollups_not_refreshed", reason=str(error))
    else:
        _log.info("rollups_refreshed_last", days=len(refreshed.built), left=len(refreshed.left))


def _refresh_once(rollups: Rollups, request: Path | None) -> None:
    if request is not None and request.exists():
        rebuilt = rollups.rebuild()
        request.unlink(missing_ok=True)
        _log.info("rollups_rebuilt", days=len(rebuilt.built))
    elif (refreshed := rollups.refresh()).built:
        _log.debug("rollups_refreshed", days=len(refreshed.built))
