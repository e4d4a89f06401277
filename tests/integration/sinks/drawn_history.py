"""A drawn history: sinks that crash, stand still and come back, erasures, months given up, roll-ups built late.

Each step is drawn from a seed of its own, so a history is a list of steps that can be run again, and shortened:
`python -m tests.integration.sinks.drawn_history FIRST COUNT LENGTH` runs those of many seeds, and shortens what fails.
"""

import asyncio
import calendar
import contextlib
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson

from meterproof_schemas.correction import correction_line
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice
from meterproof_sinks.audit_folder import log_folder_name
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.audit_upkeep import LockedFolder
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError, ClickHouseUnavailable
from meterproof_sinks.clickhouse_sink import ClickHouseSink
from meterproof_sinks.disk import Disk
from meterproof_sinks.erasure import new_erasure
from meterproof_sinks.event_owner import OwnerKind
from meterproof_sinks.log_bounds import carried
from meterproof_sinks.migrate import migrate
from meterproof_sinks.rebuilding import rebuild
from meterproof_sinks.reconciliation import reconcile
from meterproof_sinks.retention import RAW_DAYS_MIN, NotRolledUp, retire
from meterproof_sinks.rollups import Rollups, drop_left_behind
from meterproof_sinks.row_erasure import erase_rows
from tests.builders import NOW_MS, make_event, make_genesis_record, make_limits
from tests.integration.sinks import history_oracle
from tests.integration.sinks.clickhouse_folder import RECONCILIATION, opened
from tests.integration.sinks.history_oracle import Oracle, told
from tests.rated_log import RatedLog

BOOKS: Final = {
    version: PriceBook(
        version=version,
        currency=currency,
        meters=DEFAULT_METERS,
        prices=(
            UnitPrice(meter="seconds", model="too-dear", amount="900000000000000000"),
            UnitPrice(meter="input_tokens", model="gpt-*", amount=amount, per="1000000"),
            UnitPrice(meter="output_tokens", amount="10.000000000001"),
        ),
    )
    for version, currency, amount in ((1, "USD", "2.5"), (2, "EUR", "3"))
}
PARTITIONS: Final = 2
EVERYTHING: Final = dict.fromkeys(range(PARTITIONS), 10_000)
"""All records of each log, as `History.carry` takes them."""
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_HORIZON_MS: Final = 20 * _DAY_MS
_CUSTOMERS: Final = ("c-ash", "c-birch", "c-cedar", "c-elm")
_SINKS: Final = 3
_BUILDERS: Final = 2
QUERIES: Final = Path(__file__).parents[3] / "sinks" / "queries"


class _DrawnLog(RatedLog):
    books = BOOKS


class _Cut(ClickHouse):
    """A connection that fails, or waits for somebody else, at an appointed call.

    Its operator lets merges go on for whoever deletes rows, who would be told to wait for that.
    """

    left = -1
    """Calls until then."""
    act: Callable[[Callable[[], Any]], Any] | None = None

    def appoint(self, left: int, act: Callable[[Callable[[], Any]], Any]) -> None:
        self.left, self.act = left, act

    def spare(self) -> bool:
        """Appoint nothing any more; whether what was appointed has come."""
        came, self.act = self.act is None, None
        return came

    def _pass(self, call: Callable[[], Any]) -> Any:
        if self.act is not None:
            self.left -= 1
            if self.left < 0:
                act, self.act = self.act, None
                return act(call)
        return call()

    def insert(self, table: str, columns: Sequence[str], body: bytes, format_name: str, rows: int) -> None:
        self._pass(lambda: ClickHouse.insert(self, table, columns, body, format_name, rows))

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        if deletion := re.match(r"ALTER TABLE (\w+) DELETE", sql):
            ClickHouse.command(self, f"SYSTEM START MERGES {deletion[1]}")
        self._pass(lambda: ClickHouse.command(self, sql, parameters or {}))

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._pass(lambda: ClickHouse.rows(self, sql, parameters or {}))
        return found


def refused(_: Callable[[], Any]) -> Any:
    """The call is not made."""
    raise ClickHouseUnavailable("drawn: refused")


def _lost(call: Callable[[], Any]) -> Any:
    """The call is made, and nobody hears of it."""
    call()
    raise ClickHouseUnavailable("drawn: the answer was lost")


async def _books() -> Mapping[int, PriceBook]:
    return BOOKS


@dataclass
class _Writer:
    """A sink with what it has in hand; it may have stood still for any time."""

    database: _Cut
    sink: ClickHouseSink
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    """Its worker's."""
    at: dict[int, int] = field(default_factory=dict)
    """By partition, the number of the next record; missing before it asked."""

    def close(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.database.close()


Step = tuple[str, int]
"""What to do, and the seed of how."""


class History:
    """One database, two logs, an audit folder, and whoever works on them. Lives as long as one drawn history."""

    def __init__(self, clickhouse: ClickHouse, folder: Path, *, say: Callable[[str], None] = lambda _: None) -> None:
        self.clickhouse = clickhouse
        self.folder = folder
        self.audit = folder / "audit"
        self.say = say
        self.oracle = Oracle()
        self.logs = [self._new_log(partition) for partition in range(PARTITIONS)]
        self._told = [0] * PARTITIONS
        self._lines: list[list[bytes]] = [[] for _ in self.logs]
        self.writers = [self._new_writer() for _ in range(_SINKS)]
        self.builders = [self._new_builder() for _ in range(_BUILDERS)]
        self.names_erased: set[tuple[OwnerKind, str]] = set()
        self._made = 0
        self._nested = False
        self._busy: set[int] = set()
        self.lines_erased: set[tuple[str, int]] = set()
        self._checks = 0

    # --- who works -------------------------------------------------------------------------------------------------

    def _new_log(self, partition: int) -> RatedLog:
        limits = make_limits(horizon_ms=_HORIZON_MS, corrections=True)
        genesis = make_genesis_record(partition=partition, partitions=PARTITIONS, limits=limits)
        log = _DrawnLog(partition=partition, partitions=PARTITIONS, genesis_value=genesis, agents=3)
        log.clock_ms = NOW_MS - 6 * _HOUR_MS
        return log

    def _cut(self) -> _Cut:
        return _Cut(self.clickhouse._connect, self.clickhouse._folder)

    def _new_writer(self) -> _Writer:
        database = self._cut()
        return _Writer(database, ClickHouseSink(database, _books))

    def _new_builder(self) -> tuple[_Cut, Rollups]:
        database = self._cut()
        return database, Rollups(database)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
        for database, _ in self.builders:
            database.close()

    # --- steps -----------------------------------------------------------------------------------------------------

    def run(self, steps: Sequence[Step]) -> None:
        """Take the steps, and look after each whether all is exact."""
        for number, (name, seed) in enumerate(steps):
            self.say(f"{number}: {name} {seed}")
            self.step(name, seed)
            self.check()
        self.say("finish")
        self.finish()

    def step(self, name: str, seed: int) -> None:
        getattr(self, f"do_{name}")(random.Random(seed))

    def do_grow(self, draw: random.Random) -> None:
        """The logs go on: events, repeats of them, corrections, refused lines."""
        jump_ms = draw.choice((0, 0, 0, 0, 9 * _HOUR_MS, 12 * _DAY_MS, 20 * _DAY_MS))
        for number, log in enumerate(self.logs):
            log.clock_ms += jump_ms
            for _ in range(draw.randrange(1, 4)):
                new = [line for _ in range(draw.randrange(1, 8)) for line in self._event(log, draw)]
                older = draw.sample(self._lines[number], min(len(self._lines[number]), draw.randrange(4)))
                fixed = [line for old in older for line in self._correction(log, old, draw)]
                lines = [*new, *fixed, *older[:1], *[b'{"no":"event"}'] * draw.randrange(2)]
                draw.shuffle(lines)
                log.price_book = draw.choice((1, 1, 1, 2, 0))
                self._lines[number] += new
                if draw.random() < 0.1:
                    log.hole()
                log.batch(lines, after_ms=draw.randrange(60_000))
            self._tell(number)

    def _event(self, log: RatedLog, draw: random.Random) -> list[bytes]:
        self._made += 1
        model = draw.choice(("gpt-5", "gpt-5-mini", "claude"))
        usage: dict[str, Any] = {
            "input_tokens": draw.randrange(4),
            "output_tokens": f"{draw.randrange(9)}.000000000001",
        }
        if draw.random() < 0.3:
            usage["seconds"] = draw.randrange(100)
        data: dict[str, Any] = {
            "customer": draw.choice(_CUSTOMERS),
            "usage": usage,
            "model": model,
            "provider": "openai" if model != "claude" else "anthropic",
            "operation": draw.choice(("chat", "search")),
        }
        if draw.random() < 0.02:
            data |= {"model": "too-dear", "usage": usage | {"seconds": 900_000_000_000_000_000}}
        if draw.random() < 0.3:
            data["status"] = draw.choice(("error", "ok"))
        if draw.random() < 0.6:
            run = draw.randrange(6)
            data |= {"session": f"s{draw.randrange(5)}", "run": f"run-{run}"}
            if run and draw.random() < 0.6:
                data["parent"] = f"run-{(run - 1) // 2}"
        if draw.random() < 0.4:
            data["tags"] = {"team": draw.choice("ab")}
        if draw.random() < 0.5:
            data["traceparent"] = f"00-{draw.randrange(9):032x}-{draw.randrange(1, 2**60):016x}-01"
        if draw.random() < 0.5:
            data["latency"] = {"total_us": draw.randrange(1000)}
        late_ms = draw.randrange(12 * _HOUR_MS)
        if draw.random() < 0.1:  # as late as the log takes it, and a little later
            late_ms = _HORIZON_MS - draw.choice((-1, 0, 5 * _DAY_MS, 12 * _DAY_MS))
        agent, time_ms = draw.choice(log.names), log.clock_ms - late_ms
        source = draw.choice(("gateway/chat", "tools/search"))
        times = 2 if draw.random() < 0.1 else 1
        return [
            make_event(f"e{self._made}.{time}", source=source, subject=agent, time_ms=time_ms, data=data)
            for time in range(times)
        ]

    def _correction(self, log: RatedLog, line: bytes, draw: random.Random) -> list[bytes]:
        document = orjson.loads(line)
        if draw.random() < 0.4:
            return []
        self._made += 1
        if draw.random() < 0.1:
            line = orjson.dumps(document | {"id": f"never-{self._made}"})
        kind = draw.choice(("void", "replace"))
        usage = None if kind == "void" else document["data"]["usage"] | {"output_tokens": draw.randrange(9)}
        return [correction_line(line, correction_id=f"x{self._made}", kind=kind, salt="0" * 32, usage=usage)]

    def _tell(self, number: int) -> None:
        log = self.logs[number]
        for event in told(log, BOOKS, self._told[number]):
            self.oracle.events[event.place] = event
        self._told[number] = len(log.records)

    def do_write(self, draw: random.Random) -> None:
        """A sink carries on from where it thinks that it is; it may be cut off, or stand still at any of its calls."""
        number = draw.randrange(_SINKS)
        if number in self._busy:
            return
        writer = self.writers[number]
        fate = "" if self._nested else draw.choice(("", "", "", "refused", "lost", "died", "paused", "paused"))
        left = draw.randrange(9)
        inner = self._drawn(draw, ("write", "write", "erase", "refresh", "grow", "retire", "merge"))
        cuts = {partition: draw.randrange(1, 5) for partition in draw.sample(range(PARTITIONS), draw.choice((1, 1, 2)))}
        if fate == "paused":
            self._busy.add(number)
            writer.database.appoint(left, partial(self._meanwhile, inner))
        elif fate:
            writer.database.appoint(left, _lost if draw.random() < 0.5 else refused)
        try:
            self.carry(writer, cuts)
        except ClickHouseUnavailable:
            if fate == "died":
                self._restart(number)
            else:  # the worker makes the same calls again
                self.carry(writer, cuts)
        self._busy.discard(number)
        if writer.database.spare() and fate:
            self.say(f"   {fate} at call {left}")

    def carry(self, writer: _Writer, cuts: Mapping[int, int]) -> None:
        """A sink writes the next so many records of each of these logs."""
        writer.loop.run_until_complete(self._write(writer, cuts))

    async def _write(self, writer: _Writer, cuts: Mapping[int, int]) -> None:
        ends = {}
        for partition in cuts:
            if partition not in writer.at:
                cursor = await writer.sink.cursor(partition)
                offsets = [offset for offset, _ in self.logs[partition].records]
                writer.at[partition] = 0 if cursor is None else offsets.index(cursor.log_offset) + 1
                if cursor is not None:
                    assert self.logs[partition].records[writer.at[partition] - 1][1].digest == cursor.digest

        async def write(partition: int) -> None:
            at, log = writer.at[partition], self.logs[partition]
            records = log.records[at : at + cuts[partition]]
            await writer.sink.write(partition, log.genesis, records)
            ends[partition] = at + len(records)

        outcomes = await asyncio.gather(*map(write, cuts), return_exceptions=True)
        writer.at |= ends
        for partition, end in ends.items():
            if end:
                log = self.logs[partition]
                known = self.oracle.carried.get(log.origin, 0)
                self.oracle.carried[log.origin] = max(known, log.records[end - 1][1].header.size)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    def do_restart(self, draw: random.Random) -> None:
        """A sink is started again."""
        if not self._nested:
            self._restart(draw.randrange(_SINKS))

    def _restart(self, number: int) -> None:
        self.writers[number].close()
        self.writers[number] = self._new_writer()

    def do_refresh(self, draw: random.Random) -> None:
        """A builder brings the roll-ups up to date, or builds some of them by force; it may be late with it."""
        number = draw.randrange(_BUILDERS)
        if -1 - number in self._busy:
            return
        database, rollups = self.builders[number]
        fate = "" if self._nested else draw.choice(("", "", "died", "paused", "paused"))
        left = draw.randrange(30)
        inner = self._drawn(draw, ("write", "grow", "write", "refresh", "merge"))
        if fate == "paused":
            self._busy.add(-1 - number)
            database.appoint(left, partial(self._meanwhile, inner))
        elif fate:
            database.appoint(left, _lost if draw.random() < 0.5 else refused)
        days = None if draw.random() < 0.3 else draw.sample(sorted(self._days()), min(len(self._days()), 1))
        try:
            if draw.random() < 0.5:
                rollups.refresh()
            else:
                rollups.rebuild(days)
        except ClickHouseUnavailable:
            pass  # told and tried again at another time, by the same or a new one
        self._busy.discard(-1 - number)
        if database.spare() and fate:
            self.say(f"   {fate} at call {left}")
        if fate == "died" and not self.clickhouse.embedded:
            drop_left_behind(self.clickhouse)  # as after two hours, which whoever erases on a server waits for
        if fate == "died" and draw.random() < 0.5:
            database.close()
            self.builders[number] = self._new_builder()

    def _days(self) -> set[date]:
        return {event.day for event in self.oracle.below()} or {date(2026, 1, 1)}

    def do_erase(self, draw: random.Random) -> None:
        """An agent or a customer is erased, beside sinks that write; repeated if it was cut off."""
        kind: OwnerKind = "agent" if draw.random() < 0.3 else "customer"
        name = draw.choice(_CUSTOMERS if kind == "customer" else [name for log in self.logs for name in log.names])
        fate = "" if self._nested else draw.choice(("", "", "died", "paused"))
        inner = self._drawn(draw, ("write", "grow", "write"))
        left = draw.randrange(1, 30)
        database = self._cut()
        try:
            if fate == "paused":
                database.appoint(left, partial(self._meanwhile, inner))
            elif fate:
                database.appoint(left, _lost if draw.random() < 0.5 else refused)
            self.erase(database, kind, name)
            if database.spare() and fate:
                self.say(f"   {fate} at call {left}")
        finally:
            database.close()
        if not self._nested:
            self._nothing_left()

    def erase(self, database: ClickHouse, kind: OwnerKind, name: str) -> None:
        """As the command does it, which is run again if it could not."""
        self._write_audit()
        self._erase_lines(kind, name)
        try:
            self._erase_rows(database, kind, name)
        except ClickHouseUnavailable:
            self._erase_rows(database, kind, name)

    def _erase_rows(self, database: ClickHouse, kind: OwnerKind, name: str) -> None:
        self.say(f"   {kind} {name}")
        before = carried(self.clickhouse)
        erase_rows(
            database,
            new_erasure(kind, name, requested_by="a", reason="b", now_ms=NOW_MS, random_bytes=os.urandom),
        )
        # A sink that stands still with one log may write the other: how much of that is erased too, the note tells.
        noted = self.clickhouse.rows("SELECT log, position + 1 FROM usage_erased")
        self.oracle.erase(
            kind,
            name,
            {
                log: max(before.get(log, 0), *(end for of_log, end in noted if of_log == log and end <= there), 0)
                for log, there in carried(self.clickhouse).items()
            },
        )
        self.names_erased.add((kind, name))

    def do_retire(self, draw: random.Random) -> None:
        """The oldest month is asked to go: it does if nothing of it can come any more, and else stays whole."""
        months = sorted({event.month for event in self.oracle.events.values()} - self.oracle.given_up)
        if not months or any(event.month == months[0] and event.unfit for event in self.oracle.events.values()):
            return
        month = months[0]
        if not self._nested:
            writer = self.writers[draw.randrange(_SINKS)]
            self.carry(writer, EVERYTHING)
        today = date(month // 100 + month % 100 // 12, month % 100 % 12 + 1, 1) + timedelta(days=RAW_DAYS_MIN)
        minutes = draw.choice((None, None, 62))
        fate = "" if self._nested else draw.choice(("", "", "died", "paused"))
        left = draw.randrange(16)
        inner = self._drawn(draw, ("write", "grow", "write"))
        settled = self._is_settled(month)
        database = self._cut()
        try:
            if fate == "paused":
                database.appoint(left, partial(self._meanwhile, inner))
            elif fate:
                database.appoint(left, _lost if draw.random() < 0.5 else refused)
            try:
                retire(database, today, raw_days=RAW_DAYS_MIN, minute_days=minutes)
            except (ClickHouseUnavailable, NotRolledUp):  # the latter also of a log that began meanwhile: run it again
                retire(database, today, raw_days=RAW_DAYS_MIN, minute_days=minutes)
            if database.spare() and fate:
                self.say(f"   {fate} at call {left}")
        finally:
            database.close()
        gone = bool(self.clickhouse.rows("SELECT 1 FROM usage_retired WHERE month = {month:UInt32}", {"month": month}))
        there = any(event.month == month for event in self.oracle.rows())
        assert gone or not (settled and there), f"{month} could go, and stays"
        assert not gone or self._is_settled(month), f"{month} is gone, and more of it can come"
        if gone or (settled and not there):
            self.oracle.given_up.add(month)
        self.say(f"   {month}: {'gone' if gone else 'stays'}")

    def _is_settled(self, month: int) -> bool:
        """Whether each log that is there has come so far that it refuses whatever is of this month."""
        over_ms = calendar.timegm((month // 100 + month % 100 // 12, month % 100 % 12 + 1, 1, 0, 0, 0)) * 1000
        ends = dict(self.clickhouse.rows("SELECT log, max(log_offset) FROM sink_progress GROUP BY log"))
        clocks = [
            next((record.header.clock_ms for offset, record in log.records if offset == ends.get(log.origin)), 0)
            for log in self.logs
        ]
        return min(clocks) >= over_ms + self.logs[0].genesis.limits.identities_kept_ms

    def do_merge(self, draw: random.Random) -> None:
        """The engine tidies up, or does not for a while."""
        table = draw.choice(("usage_rows", "usage_records", "sink_progress", "usage_corrections", "usage_erased"))
        what = draw.choice(("SYSTEM STOP MERGES {}", "SYSTEM START MERGES {}", "OPTIMIZE TABLE {} FINAL"))
        with contextlib.suppress(ClickHouseError):  # merges are stopped
            self.clickhouse.command(what.format(table))

    def do_migrate(self, _: random.Random) -> None:
        """A command migrates what is migrated already."""
        assert migrate(self.clickhouse) == []

    def do_rebuild(self, draw: random.Random) -> None:
        """With the sinks stopped, the database is made again from the audit folder, or what it lacks is added."""
        if self._nested:
            return
        self._write_audit()
        if draw.random() < 0.5:
            self.say("   --replace")
            truncate(self.clickhouse)
            self.oracle.given_up.clear()
            self.oracle.carried.clear()
            self.oracle.erased.clear()
            self.oracle.forgotten.clear()
        self.add_from_audit()

    def add_from_audit(self) -> None:
        """What the database lacks of the audit folder is added; sinks are started again then."""
        before = carried(self.clickhouse)
        for number in range(_SINKS):
            self._restart(number)
        with contextlib.closing(self._cut()) as database:
            asyncio.run(rebuild(database, self.audit, _books))
        for log in self.logs:
            self.oracle.carried[log.origin] = log.state.position
        self.oracle.erased |= {place for place in self.lines_erased if place[1] >= before.get(place[0], 0)}

    def _drawn(self, draw: random.Random, names: Sequence[str]) -> list[Step]:
        """Some steps for others to take meanwhile."""
        return [(draw.choice(names), draw.randrange(10**6)) for _ in range(draw.randrange(1, 4))]

    def _meanwhile(self, steps: Sequence[Step], call: Callable[[], Any]) -> Any:
        """What others do before this call is made."""
        self._nested = True
        try:
            for name, seed in steps:
                self.say(f"   meanwhile {name} {seed}")
                self.step(name, seed)
        finally:
            self._nested = False
        return call()

    # --- the audit folder ------------------------------------------------------------------------------------------

    def _write_audit(self) -> None:
        """The audit sink has carried everything."""
        for log in self.logs:
            folder = self.audit / log_folder_name(log.origin)
            writer = AuditLog(folder, log.origin, log.partition)
            there = writer.cursor
            records = [item for item in log.records if there is None or item[0] > there.log_offset]
            if records:
                writer.append(records)
            writer.close()

    def _erase_lines(self, kind: OwnerKind, name: str) -> None:
        owner = new_erasure(kind, name, requested_by="", reason="", now_ms=0, random_bytes=bytes).owner
        for log in self.logs:
            keeper = LockedFolder(self.audit / log_folder_name(log.origin), Disk())
            try:
                keeper.erase(owner.owns)
            finally:
                keeper.release()
            for event in self.oracle.events.values():
                if event.is_of(kind, name):
                    self.lines_erased.add(event.place)

    # --- what must hold --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Every total is exact, right now."""
        there = carried(self.clickhouse)
        for log in self.logs:
            known, found = self.oracle.carried.get(log.origin, 0), there.get(log.origin, 0)
            assert found >= known, "progress goes back"
            assert found in {record.header.size for _, record in log.records} | {0}, "progress is between records"
            self.oracle.carried[log.origin] = found
        keys = "log, toString(customer), toString(agent), toString(status), toString(currency)"
        in_rows = self.clickhouse.rows(
            f"SELECT toDate(event_time), {keys}, count(), sum(cost), sum(units) FROM usage GROUP BY ALL"
        )
        in_sums = self.clickhouse.rows(
            f"SELECT day, {keys}, sum(events), sum(cost), sum(units) FROM usage_sums GROUP BY ALL"
        )
        _same("usage", in_rows, history_oracle.totals(self.oracle.standing(sums=False)))
        _same("usage_sums", in_sums, history_oracle.totals(self.oracle.standing(sums=True)))
        unfit = {event.log for event in self.oracle.below() if event.unfit and event.place not in self.oracle.erased}
        repeated = self._repeated()
        for log, dense, positions, last in self.clickhouse.rows(
            "SELECT log, dense, positions, last_position FROM density"
        ):
            assert dense or log in unfit | repeated, f"{log} is not dense: {positions} of {last + 1}"
        self.check_queries()

    def _repeated(self) -> set[str]:
        """The logs of which a row lies on disk more than once, until the engine merges them: no reader counts it."""
        return {
            log
            for (log,) in self.clickhouse.rows(
                "SELECT log FROM usage_rows GROUP BY log HAVING count() > uniqExact(position)"
            )
        }

    def check_queries(self, *, all_of_them: bool = False) -> None:
        """What ships answers what other code counts: one query in turn, or each."""
        sums, rows = self.oracle.standing(sums=True), self.oracle.standing(sums=False)
        checks: list[tuple[str, int, int, Callable[[], Mapping[Any, Any]]]] = [
            ("spend_by_account", 3, 2, lambda: history_oracle.accounts(sums)),
            ("spend_by_session", 2, 4, lambda: history_oracle.sessions(rows)),
            ("wasted_spend", 3, 4, lambda: history_oracle.waste(rows)),
            ("usage_by_customer_and_day", 3, 2, lambda: history_oracle.by_customer_and_day(sums)),
            ("spend_by_run", 2, 4, lambda: history_oracle.runs(rows)),
            ("service_dependencies", 2, 3, lambda: history_oracle.calls(rows)),
            ("rate_by_provider", 2, 1, lambda: history_oracle.peaks(rows)),
        ]
        self._checks += 1
        number, now = divmod(self._checks, 4)
        for query, keys, values, expected in checks if all_of_them else [checks[number % len(checks)]] * (not now):
            _same(query, self._answer(query, keys, values), expected())
        if all_of_them:
            stated: dict[Any, Any] = {}
            for customer, _, kind, effect, count, *_ in self._rows_of("corrections"):
                stated[customer, kind, effect] = stated.get((customer, kind, effect), 0) + count
            _equal("corrections", stated, history_oracle.corrections(self.oracle.rows()))

    def _rows_of(self, query: str) -> list[tuple[Any, ...]]:
        return self.clickhouse.rows((QUERIES / f"{query}.sql").read_text("utf-8"))

    def _answer(self, query: str, keys: int, values: int) -> list[tuple[Any, ...]]:
        return [row[: keys + values] for row in self._rows_of(query)]

    def _nothing_left(self) -> None:
        """No table has a name that was erased, but for what came of it since."""
        texts = {
            table: self.clickhouse.raw(f"SELECT * FROM {table}", "TSV")
            for (table,) in self.clickhouse.rows(
                "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
            )
        }
        for kind, name in self.names_erased:
            if all(
                event.place in self.oracle.erased | self.oracle.forgotten
                for event in self.oracle.events.values()
                if event.is_of(kind, name)
            ):
                for table, text in texts.items():
                    assert not re.search(rb"(?<![\w-])%s(?![\w-])" % name.encode(), text), f"{name} is in {table}"

    def finish(self) -> None:
        """All is carried, everything that was asked is done to its end: then nothing differs anywhere."""
        last = self._new_writer()
        try:
            self.carry(last, EVERYTHING)
        finally:
            last.close()
        self.check()
        self._write_audit()
        there = self.oracle.erased | self.oracle.forgotten
        with contextlib.closing(self._cut()) as database:
            for kind, name in sorted(self.names_erased):
                if any(event.is_of(kind, name) and event.place not in there for event in self.oracle.events.values()):
                    self._erase_lines(kind, name)
                    self._erase_rows(database, kind, name)
        self._nothing_left()
        self.check()
        Rollups(self.clickhouse).refresh()
        self.check()
        self.check_queries(all_of_them=True)
        if {event.place for event in self.oracle.events.values() if event.unfit} - self.oracle.erased:
            return
        found = asyncio.run(reconcile(self.clickhouse, self.audit, None, given_books=BOOKS))
        assert found.differences == [], found.differences
        repeated = self._repeated()
        differences = [
            one
            for one in self.clickhouse.rows(RECONCILIATION)
            if one[1] not in repeated or one[0] != "rows are not dense"
        ]
        assert differences == [], differences


def _same(what: str, found: list[tuple[Any, ...]], expected: Mapping[Any, Any]) -> None:
    size = len(next(iter(expected))) if expected else (len(found[0]) if found else 0)
    got = {row[:size] if size != 1 else row[0]: row[size:] if len(row) - size > 1 else row[size] for row in found}
    _equal(what, got, expected)


def _equal(what: str, got: Mapping[Any, Any], expected: Mapping[Any, Any]) -> None:
    different = {
        key: (got.get(key), expected.get(key))
        for key in got.keys() | expected.keys()
        if got.get(key) != expected.get(key)
    }
    assert not different, f"{what}: {different}"


def truncate(clickhouse: ClickHouse) -> None:
    """Empty every table, so that one engine serves many histories."""
    for name, in_folder in clickhouse.rows(
        "SELECT name, startsWith(name, 'staging_') FROM system.tables "
        "WHERE database = currentDatabase() AND engine LIKE '%MergeTree' AND name != 'migrations'"
    ):
        if in_folder:
            clickhouse.command(f"DROP TABLE {name} SYNC")
        else:
            clickhouse.command(f"SYSTEM START MERGES {name}")
            clickhouse.command(f"TRUNCATE TABLE {name} SYNC")


_WEIGHTS: Final = {
    "grow": 4, "write": 9, "restart": 1, "refresh": 3, "erase": 1.5, "retire": 1.5, "merge": 1, "migrate": 0.2,
    "rebuild": 0.7,
}  # fmt: skip


def drawn_steps(seed: int, length: int) -> list[Step]:
    """A history."""
    draw = random.Random(seed)
    names = draw.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=length)
    return [(name, draw.randrange(10**6)) for name in ("grow", *names)]


def run_history(
    clickhouse: ClickHouse, steps: Sequence[Step], folder: Path, say: Callable[[str], None] = lambda _: None
) -> History:
    """Run one in an empty database; what it did."""
    truncate(clickhouse)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    history = History(clickhouse, folder, say=say)
    try:
        history.run(steps)
    finally:
        history.close()
    return history


def _fault(clickhouse: ClickHouse, steps: Sequence[Step], folder: Path) -> Exception | None:
    try:
        run_history(clickhouse, steps, folder)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        return error
    return None


def _shortened(clickhouse: ClickHouse, steps: list[Step], folder: Path, kind: type[Exception]) -> list[Step]:
    """Without the steps that a fault of this kind does not need."""
    for number in reversed(range(len(steps))):
        without = [*steps[:number], *steps[number + 1 :]]
        if type(_fault(clickhouse, without, folder)) is kind:
            steps = without
    return steps


def main() -> None:
    """Hunt."""

    def say(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    first, count, length = map(int, sys.argv[1:])
    with TemporaryDirectory() as parent, opened(Path(parent) / "clickhouse") as clickhouse:
        folder = Path(parent) / "history"
        for seed in range(first, first + count):
            steps = drawn_steps(seed, length)
            error = _fault(clickhouse, steps, folder)
            say(f"{seed}: " + ("exact" if error is None else f"{type(error).__name__}: {error}"))
            if error is not None:
                steps = _shortened(clickhouse, steps, folder, type(error))
                say(str(steps))
                run_history(clickhouse, steps, folder, say)


if __name__ == "__main__":
    main()
