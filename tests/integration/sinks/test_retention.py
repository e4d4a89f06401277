"""Single events go after their time; what they added up to stays, and nothing that is compared begins to differ."""

import asyncio
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from threading import Thread

import orjson
import pytest

from meterproof.kafka.reader import Record
from meterproof_schemas.checkpoint_record import encode_checkpoint_record
from meterproof_sinks.audit_folder import log_folder_name
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError, ClickHouseUnavailable
from meterproof_sinks.followed_rows import checkpoint_row
from meterproof_sinks.legal_holds import Hold
from meterproof_sinks.log_total import LogTotal, log_total
from meterproof_sinks.reconciliation import reconcile
from meterproof_sinks.retention import NotRolledUp, Retired, retire
from meterproof_sinks.rollups import Rollups
from tests.builders import NOW_MS, make_genesis_record
from tests.integration.sinks.clickhouse_folder import RECONCILIATION, new_sink, one, opened
from tests.log_builder import checkpoint_record
from tests.meterproof_command import run_meterproof
from tests.rated_log import BOOKS, RatedLog, costs

pytestmark = pytest.mark.clickhouse

_TODAY = date(2026, 4, 15)
_RAW_DAYS = 90
_AFTER_THE_HORIZON_MS = 2 * 86_400_000


async def test_months_go_and_what_they_added_up_to_stays(tmp_path: Path) -> None:
    log = RatedLog(seed=61)
    log.grow(25)
    log.tick(_AFTER_THE_HORIZON_MS)
    audit = tmp_path / "audit"
    writer = AuditLog(audit / log_folder_name(log.origin), log.origin, 0)
    writer.append(log.records)
    writer.close()
    size, spend = log.state.position, sum(costs(log.records), Decimal(0))
    with opened(tmp_path / "clickhouse") as clickhouse:
        await new_sink(clickhouse).write(0, log.genesis, log.records)
        rollups = Rollups(clickhouse)
        rollups.refresh()
        old = one(clickhouse, "SELECT count() FROM usage WHERE toYYYYMM(event_time) = 202512")
        assert 0 < old < size

        clickhouse.command("ALTER TABLE usage_days UPDATE cost = cost + 1 WHERE 1 SETTINGS mutations_sync = 2")
        with pytest.raises(NotRolledUp, match="202512"):
            retire(clickhouse, _TODAY, raw_days=_RAW_DAYS, minute_days=None)
        assert one(clickhouse, "SELECT count() FROM usage") == size, "nothing was given up"
        rollups.rebuild()

        # A hold keeps the month whole, also one that a run was about to drop, and had noted, when it was killed
        clickhouse.command(
            "INSERT INTO usage_retired (log, month, events, last_position, position_sum, cost) "
            "SELECT log, 202512, count(), max(position), sum(position), sum(cost) "
            "FROM usage_final WHERE toYYYYMM(event_time) = 202512 GROUP BY log"
        )
        for customer in ("globex", None):
            hold = Hold("h1", customer, "2026-01-01T00:00:00.000Z", "legal", "case 12")
            kept = retire(clickhouse, _TODAY, raw_days=_RAW_DAYS, minute_days=30, holds=[hold])
            assert (kept.months, kept.minute_days) == ([], [])
            assert kept.held == dict.fromkeys(("202512", "2025-12-31", "2026-01-01"), str(hold))
            assert one(clickhouse, "SELECT count() FROM usage") == size
            assert one(clickhouse, "SELECT dense FROM density") == 1

        nobody = Hold("h2", "nobody", "2026-01-01T00:00:00.000Z", "legal", "case 13")
        steps: list[str] = []
        retired = retire(clickhouse, _TODAY, raw_days=_RAW_DAYS, minute_days=None, holds=[nobody], on_step=steps.append)
        assert steps == ["bringing the roll-ups up to date", "events of 202512"]
        assert (retired.months, retired.events) == ([202512], old)
        assert retire(clickhouse, _TODAY, raw_days=_RAW_DAYS, minute_days=None).months == []
        assert one(clickhouse, "SELECT count() FROM usage") == size - old
        assert clickhouse.rows(RECONCILIATION) == []
        assert one(clickhouse, "SELECT sum(events) FROM session_sums") == size - old, "nor do sessions stay"
        assert clickhouse.rows("SELECT count() FROM usage_groups WHERE toYYYYMM(start) = 202512") == [(0,)]
        for again in (rollups.refresh, rollups.rebuild, Rollups(clickhouse).refresh):
            again()
            for table in ("usage_by_minute", "usage_by_hour", "usage_by_day"):
                assert clickhouse.rows(f"SELECT sum(events), sum(cost) FROM {table}") == [(size, spend)], table
        assert one(clickhouse, "SELECT dense FROM density") == 1
        assert log_total(clickhouse, log.origin) == LogTotal(size, size - 1, dense=True)
        found = await reconcile(clickhouse, audit, None, given_books=BOOKS)
        assert found.differences == []
        assert found.retired == {log.origin: old}
        note = f"{log.origin}: {old:,} events of 2025-12 were given up: only their number is compared"
        assert note in found.notes

        # The log goes on
        at = len(log.records)
        log.grow(2)
        sink = new_sink(clickhouse)
        await sink.cursor(0)
        await sink.write(0, log.genesis, log.records[at:])
        assert one(clickhouse, "SELECT dense FROM density") == 1

        steps.clear()
        retired = retire(clickhouse, _TODAY, raw_days=None, minute_days=30, on_step=steps.append)
        assert retired.minute_days == [date(2025, 12, 31), date(2026, 1, 1)]
        assert steps == ["minutes of 2025-12-31", "minutes of 2026-01-01"]
        assert set(Rollups(clickhouse).refresh().built) <= {date(2026, 1, 2), date(2026, 1, 3)}
        assert one(clickhouse, "SELECT sum(events) FROM usage_by_day") == log.state.position
        assert one(clickhouse, "SELECT count() FROM usage_by_minute WHERE toYYYYMM(start) = 202512") == 0
        with pytest.raises(ValueError, match="at least"):
            retire(clickhouse, _TODAY, raw_days=7, minute_days=None)


async def test_what_comes_after_its_month_was_given_up_counts_and_is_given_up_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a log of which somebody said wrongly that it is complete."""
    log = RatedLog(seed=61)
    log.grow(30)
    audit = tmp_path / "audit"
    writer = AuditLog(audit / log_folder_name(log.origin), log.origin, 0)
    writer.append(log.records)
    writer.close()
    spends = costs(log.records)
    in_december = "toYYYYMM(event_time) = 202512"
    with opened(tmp_path / "clickhouse") as clickhouse:
        sink, rollups = new_sink(clickhouse), Rollups(clickhouse)
        await sink.cursor(0)

        async def carry(first: int, after: int) -> None:
            await sink.write(0, log.genesis, log.records[first:after])
            await assert_exact(("usage_sums",))
            rollups.refresh()
            await assert_exact(("usage_sums", "usage_by_minute", "usage_by_hour", "usage_by_day"))

        async def assert_exact(tables: tuple[str, ...]) -> None:
            size = one(clickhouse, "SELECT max(next) FROM sink_progress")
            for table in tables:
                expected = [(size, sum(spends[:size], Decimal(0)))]
                assert clickhouse.rows(f"SELECT sum(events), sum(cost) FROM {table}") == expected, table
            assert clickhouse.rows(RECONCILIATION) == []
            assert log_total(clickhouse, log.origin) == LogTotal(size, size - 1, dense=True)
            assert (await reconcile(clickhouse, audit, None, given_books=BOOKS)).differences == []

        def retire_() -> Retired:
            return retire(clickhouse, _TODAY, raw_days=_RAW_DAYS, minute_days=None, complete=[log.origin])

        given_up = 0
        for first, after in ((0, 10), (10, 18)):
            await carry(first, after)
            there = one(clickhouse, f"SELECT count() FROM usage WHERE {in_december}")
            retired = retire_()
            assert (retired.months, retired.events) == ([202512], there)
            assert there > 0
            given_up += there
            await assert_exact(("usage_sums", "usage_by_minute", "usage_by_hour", "usage_by_day"))
        assert one(clickhouse, "SELECT sum(events) FROM usage_retired FINAL") == given_up

        # One that is killed when it has noted what it drops; more comes, a hold is set and lifted
        await carry(18, 24)
        monkeypatch.setattr("meterproof_sinks.retention.wait_for_inserts", _killed)
        with pytest.raises(ClickHouseUnavailable):
            retire_()
        monkeypatch.undo()
        assert one(clickhouse, "SELECT sum(events) FROM usage_retired FINAL") > given_up
        hold = Hold("h1", None, "2026-01-01T00:00:00.000Z", "legal", "case 12")
        assert retire(clickhouse, _TODAY, raw_days=_RAW_DAYS, minute_days=None, holds=[hold]).months == []
        assert one(clickhouse, "SELECT sum(events) FROM usage_retired FINAL") == given_up
        await assert_exact(("usage_sums", "usage_by_day"))
        monkeypatch.setattr("meterproof_sinks.retention.wait_for_inserts", _killed)
        with pytest.raises(ClickHouseUnavailable):
            retire_()
        monkeypatch.undo()
        await sink.write(0, log.genesis, log.records[24:])
        there = one(clickhouse, f"SELECT count() FROM usage WHERE {in_december}")
        retired = retire_()
        assert (retired.months, retired.events) == ([202512], there)
        assert one(clickhouse, f"SELECT count() FROM usage_rows WHERE {in_december}") == 0
        assert one(clickhouse, "SELECT sum(events) FROM usage_retired FINAL") == given_up + there
        await assert_exact(("usage_sums", "usage_by_minute", "usage_by_hour", "usage_by_day"))


async def test_a_month_stays_while_a_log_can_bring_more_of_it(tmp_path: Path) -> None:
    busy, quiet = (RatedLog(partition=partition, partitions=2, seed=61 + partition) for partition in range(2))
    settled_ms = NOW_MS + busy.genesis.limits.identities_kept_ms
    with opened(tmp_path / "clickhouse") as clickhouse:
        at = {busy.origin: 0, quiet.origin: 0}

        async def carry(log: RatedLog) -> None:
            sink = new_sink(clickhouse)
            await sink.cursor(log.partition)
            await sink.write(log.partition, log.genesis, log.records[at[log.origin] :])
            at[log.origin] = len(log.records)

        def retire_() -> Retired:
            size = one(clickhouse, "SELECT count() FROM usage")
            retired = retire(clickhouse, _TODAY, raw_days=_RAW_DAYS, minute_days=None)
            assert [*retired.waiting, *map(str, retired.months)] == ["202512"]
            assert one(clickhouse, "SELECT count() FROM usage") == size - retired.events
            return retired

        def waits_for() -> list[str]:
            retired = retire_()
            assert retired.months == []
            return [why.partition(": ")[0] for why in retired.waiting["202512"]]

        for log in (busy, quiet):
            log.grow(5)
            await carry(log)
            assert waits_for() == [busy.origin, quiet.origin], "also one of which nothing has come"
        busy.tick(settled_ms - 1 - busy.clock_ms)
        await carry(busy)
        assert waits_for() == [busy.origin, quiet.origin]
        busy.tick(1)
        await carry(busy)
        assert waits_for() == [quiet.origin], "nothing is signed, so nobody knows that it is idle"
        _sign(clickhouse, quiet, quiet.clock_ms)
        _sign(clickhouse, busy, settled_ms - 1)
        assert waits_for() == [quiet.origin]

        # It comes late, and all of it counts
        quiet.batch(quiet.rich_events(3))
        _sign(clickhouse, quiet, settled_ms)
        (why,) = retire_().waiting["202512"]
        assert "more of it is known" in why
        await carry(quiet)

        # Databases of before know no log's limits, until the sink writes again: what one log has serves all of them
        clickhouse.command("TRUNCATE TABLE log_limits")
        assert waits_for() == [busy.origin, quiet.origin]
        busy.tick(1)
        await carry(busy)
        old = one(clickhouse, "SELECT count() FROM usage WHERE toYYYYMM(event_time) = 202512")
        retired = retire_()
        assert (retired.months, retired.events, retired.waiting) == ([202512], old, {})
        assert old > 0
        for log in (busy, quiet):
            size = log.state.position
            assert log_total(clickhouse, log.origin) == LogTotal(size, size - 1, dense=True)


async def test_a_log_that_is_dead_is_waited_for_until_somebody_says_that_it_is_complete(tmp_path: Path) -> None:
    alive, dead = (RatedLog(partition=partition, partitions=2, seed=61 + partition) for partition in range(2))
    with opened(tmp_path / "clickhouse") as clickhouse:
        for log in (alive, dead):
            log.grow(3)
            if log is alive:
                log.tick(_AFTER_THE_HORIZON_MS)
            await new_sink(clickhouse).write(log.partition, log.genesis, log.records)
        _sign(clickhouse, alive, alive.clock_ms)
        dead.batch(dead.rich_events(1))
        _sign(clickhouse, dead, dead.clock_ms)  # and then the log was lost, and that record with it
        (why,) = retire(clickhouse, _TODAY, raw_days=_RAW_DAYS, minute_days=None).waiting["202512"]
        assert why.startswith(dead.origin)
        with pytest.raises(ClickHouseError, match="mistyped: no such log"):
            retire(clickhouse, _TODAY, raw_days=_RAW_DAYS, minute_days=None, complete=["mistyped"])
        retired = retire(clickhouse, _TODAY, raw_days=_RAW_DAYS, minute_days=None, complete=[dead.origin])
        assert (retired.months, retired.waiting) == ([202512], {})


async def test_what_nothing_has_come_of_keeps_a_month_too_and_so_does_what_begins_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, unwritten = (RatedLog(partition=partition, partitions=2, seed=61) for partition in range(2))
    stranger = RatedLog(genesis_value=make_genesis_record(epoch="f" * 32), seed=67)
    for one_log in (log, stranger):
        one_log.grow(5)
    log.tick(_AFTER_THE_HORIZON_MS)
    with opened(tmp_path / "clickhouse") as clickhouse:

        async def write(written: RatedLog) -> None:
            await new_sink(clickhouse).write(written.partition, written.genesis, written.records)

        await write(log)
        (why,) = retire(clickhouse, _TODAY, raw_days=_RAW_DAYS, minute_days=None).waiting["202512"]
        assert why.startswith(f"{unwritten.origin}: nothing of it is in")

        def begin(_: ClickHouse) -> None:
            thread = Thread(target=lambda: asyncio.run(write(stranger)))
            thread.start()
            thread.join()

        monkeypatch.setattr("meterproof_sinks.retention.wait_for_inserts", begin)
        with pytest.raises(NotRolledUp, match=r"a new log came in meanwhile.* Run it again"):
            retire(clickhouse, _TODAY, raw_days=_RAW_DAYS, minute_days=None, complete=[unwritten.origin])
        monkeypatch.undo()
        assert one(clickhouse, "SELECT count() FROM usage_retired") == 0
        assert one(clickhouse, "SELECT count() FROM usage") == log.state.position + stranger.state.position
        (why,) = retire(clickhouse, _TODAY, raw_days=_RAW_DAYS, minute_days=None, complete=[unwritten.origin]).waiting[
            "202512"
        ]
        assert why.startswith(stranger.origin)


def _sign(clickhouse: ClickHouse, log: RatedLog, at_ms: int) -> None:
    """Put what `usage.checkpoints` says of a log into its table, as taken by the broker at that time."""
    value = encode_checkpoint_record(checkpoint_record(log))
    row = checkpoint_row(0, Record(0, at_ms, append_time=True, key=b"", value=value))
    clickhouse.insert("usage_checkpoints", (), orjson.dumps(row) + b"\n", "JSONEachRow", 1)


def _killed(_: ClickHouse) -> None:
    raise ClickHouseUnavailable("killed")


def test_the_command_heeds_the_holds_of_the_data_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    days = ("retain", "--raw-days", "62", "--minute-days", "1")
    assert run_meterproof(*days, data=data).returncode == 2, "nobody knows of holds there"
    data.mkdir()
    who = ("--by", "legal@example.com", "--reason", "case 12")
    assert run_meterproof("audit", "hold", "add", "--customer", "globex", *who, data=data).returncode == 0
    assert run_meterproof(*days, "--no-holds", data=data).returncode == 2, "there are holds"
    log = RatedLog(seed=61)
    log.grow(4)
    with opened(data / "clickhouse") as clickhouse:
        asyncio.run(new_sink(clickhouse).write(0, log.genesis, log.records))
        Rollups(clickhouse).refresh()
    told = run_meterproof(*days, "--json", data=data)
    assert (told.returncode, json.loads(told.stdout)["months"]) == (1, []), told.stderr
    assert "case 12" in json.loads(told.stdout)["held"]["202512"]
    (why,) = json.loads(told.stdout)["waiting"]["202512"]
    assert why.startswith(log.origin)


def test_the_command_names_the_log_that_keeps_a_month(tmp_path: Path) -> None:
    data = tmp_path / "data"
    days = ("retain", "--raw-days", "62")
    log = RatedLog(seed=61)
    log.grow(4)
    with opened(data / "clickhouse") as clickhouse:
        asyncio.run(new_sink(clickhouse).write(0, log.genesis, log.records))
    told = run_meterproof(*days, data=data)
    assert told.returncode == 1
    assert f"202512 is old enough, but more of it can come: {log.origin}: " in told.stderr
    assert "--complete LOG" in told.stderr
    told = run_meterproof(*days, "--complete", log.origin, "--json", data=data)
    assert told.returncode == 0, told.stderr
    assert 202512 in json.loads(told.stdout)["months"]
    assert json.loads(told.stdout)["waiting"] == {}
