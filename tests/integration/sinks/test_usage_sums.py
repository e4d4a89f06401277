"""Sums from roll-up and rows together are exact at every moment, also while days are swapped in and rows arrive."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.rollups import Rollups
from tests.integration.sinks.clickhouse_folder import RECONCILIATION, new_sink, opened
from tests.rated_log import RatedLog, costs

pytestmark = pytest.mark.clickhouse

_SUMS = """
SELECT sum(events), sum(cost), (SELECT sum(up_to.events) FROM up_to) AS up_to FROM usage_sums
"""
_SESSIONS = _SUMS.replace("usage_sums", "session_sums")
_PAUSE_S = 0.1
_ROUNDS = 10


def _assert_exact(found: list[tuple[int, Decimal, int]], log: RatedLog, *, shared: bool = True) -> int:
    """The sums are those of the log's first events, and `up_to` says how many where all of a query sees one state."""
    ((events, spend, up_to),) = found
    assert events == up_to or not shared
    assert spend == sum(costs(log.records)[:events], Decimal(0))
    return events


@contextmanager
def _pausing(clickhouse: ClickHouse, *, shared: bool) -> Iterator[ClickHouse]:
    """A reader of the same folder, whose engine pauses whenever it fixes what a query will read of a table."""
    settings = {
        "merge_tree_storage_snapshot_sleep_ms": int(_PAUSE_S * 1000),
        "enable_shared_storage_snapshot_in_query": int(shared),
    }
    reader = ClickHouse.read_folder(clickhouse.folder, settings=settings)
    try:
        yield reader
    finally:
        reader.close()


@pytest.mark.parametrize(("sums", "shared"), [(_SUMS, True), (_SUMS, False), (_SESSIONS, True)])
async def test_what_comes_in_while_a_query_is_analysed_is_counted_once_or_not_at_all(
    tmp_path: Path, sums: str, *, shared: bool
) -> None:
    log = RatedLog(seed=23)
    log.grow(3 * _ROUNDS + 6)
    with opened(tmp_path / "clickhouse") as clickhouse:
        sink = new_sink(clickhouse)
        await sink.cursor(0)
        await sink.write(0, log.genesis, log.records[:4])
        rollups = Rollups(clickhouse)
        rollups.refresh()
        with _pausing(clickhouse, shared=shared) as reader:
            for number in range(_ROUNDS):
                done = 4 + 3 * number
                reading = asyncio.create_task(asyncio.to_thread(reader.rows, sums))
                await asyncio.sleep(_PAUSE_S * (number / 2 + 0.3))
                await sink.write(0, log.genesis, log.records[done : done + 3])
                if number % 3:
                    await asyncio.to_thread(rollups.refresh)
                _assert_exact(await reading, log, shared=shared)
        assert _assert_exact(clickhouse.rows(sums), log) == log.records[4 + 3 * _ROUNDS - 1][1].header.size


@pytest.mark.parametrize("shared", [True, False])
async def test_reconciliation_finds_nothing_in_what_comes_in_while_it_is_analysed(
    tmp_path: Path, *, shared: bool
) -> None:
    log = RatedLog(seed=25)
    log.grow(2 * _ROUNDS + 4)
    with opened(tmp_path / "clickhouse") as clickhouse:
        sink = new_sink(clickhouse)
        await sink.cursor(0)
        await sink.write(0, log.genesis, log.records[:4])
        with _pausing(clickhouse, shared=shared) as reader:
            for number in range(_ROUNDS):
                done = 4 + 2 * number
                reading = asyncio.create_task(asyncio.to_thread(reader.rows, RECONCILIATION))
                await asyncio.sleep(_PAUSE_S * (number / 2 + 0.3))
                await sink.write(0, log.genesis, log.records[done : done + 2])
                assert await reading == []


async def test_the_roll_up_is_read_where_it_is_and_the_rows_where_it_is_not(tmp_path: Path) -> None:
    log = RatedLog(seed=24)
    log.grow(12)
    with opened(tmp_path / "clickhouse") as clickhouse:
        assert clickhouse.rows(_SUMS)[0][0] == 0
        sink = new_sink(clickhouse)
        await sink.cursor(0)
        await sink.write(0, log.genesis, log.records[:6])
        half = _assert_exact(clickhouse.rows(_SUMS), log)
        assert clickhouse.rows("SELECT max(events) FROM usage_sums") == [(1,)], "there is no roll-up yet"
        Rollups(clickhouse).refresh()
        assert _assert_exact(clickhouse.rows(_SUMS), log) == half
        assert clickhouse.rows("SELECT count() FROM days_behind") == [(0,)]
        clickhouse.command(
            "ALTER TABLE usage_days UPDATE cost = cost + 1 WHERE built_to = 0 SETTINGS mutations_sync = 2"
        )
        ((rows, spend),) = clickhouse.rows("SELECT countIf(built_to = 0), sum(cost) FROM usage_days")
        assert clickhouse.rows("SELECT sum(cost) FROM usage_sums") == [(spend,)], "the roll-up is what is read"
        assert rows > 0
        Rollups(clickhouse).rebuild()
        await sink.write(0, log.genesis, log.records[6:])
        assert _assert_exact(clickhouse.rows(_SUMS), log) == log.state.position
        # A roll-up that goes further than progress does for a query
        Rollups(clickhouse).refresh()
        clickhouse.command("TRUNCATE TABLE sink_progress")
        clickhouse.command(
            "INSERT INTO sink_progress (log, partition, log_offset, next) SELECT {l:String}, 0, {o:UInt64}, {n:UInt64}",
            {"l": log.origin, "o": log.records[5][0], "n": half},
        )
        assert clickhouse.rows("SELECT count() > 0 FROM days_ahead") == [(1,)]
        assert clickhouse.rows("SELECT count() > 0 FROM groups_ahead") == [(1,)]
        assert _assert_exact(clickhouse.rows(_SUMS), log) == half
        assert _assert_exact(clickhouse.rows(_SESSIONS), log) == half
        for query in ("SELECT sum(units) FROM {v:Identifier}", "SELECT sumMap(usage) FROM {v:Identifier}"):
            assert clickhouse.rows(query, {"v": "usage_sums"}) == clickhouse.rows(query, {"v": "usage"})


async def test_what_sums_lack_is_read_from_where_it_begins(tmp_path: Path) -> None:
    """Of a day that nothing was built of, from its first position, not from the beginning of the log."""
    log = RatedLog(seed=26)
    log.grow(40)
    with opened(tmp_path / "clickhouse") as clickhouse:
        sink = new_sink(clickhouse)
        await sink.cursor(0)
        await sink.write(0, log.genesis, log.records[:30])
        Rollups(clickhouse).refresh()
        nothing = [(2**64 - 1, 2**64 - 1)]
        assert _begins(clickhouse) == nothing
        ((first, day),) = clickhouse.rows(
            "SELECT min(position) AS first, toDate(event_time) AS day FROM usage_rows GROUP BY day "
            "ORDER BY first DESC LIMIT 1"
        )
        assert first > 0
        for table in ("usage_groups", "usage_days"):
            clickhouse.command(f"ALTER TABLE {table} DROP PARTITION '{day}'")
        assert _begins(clickhouse) == [(first, first)]
        carried = _assert_exact(clickhouse.rows(_SUMS), log)
        assert _assert_exact(clickhouse.rows(_SESSIONS), log) == carried
        Rollups(clickhouse).rebuild()
        assert _begins(clickhouse) == nothing
        await sink.write(0, log.genesis, log.records[30:])
        assert _begins(clickhouse) == [(carried, carried)], "later events of days that were built"
        assert _assert_exact(clickhouse.rows(_SUMS), log) == _assert_exact(clickhouse.rows(_SESSIONS), log) > carried


def _begins(clickhouse: ClickHouse) -> list[tuple[int, int]]:
    """From which position on the rows are looked through for sums of groups, and for those of the roll-up by day."""
    return clickhouse.rows("SELECT (SELECT lowest FROM groups_read), (SELECT lowest FROM days_read)")
