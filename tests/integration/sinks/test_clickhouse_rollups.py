"""Roll-ups are the events' own sums, for any grouping, at any moment, after any crash."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof_sinks.backlog import Backlog
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.log_bounds import carried
from meterproof_sinks.rollup_rows import GRAINS
from meterproof_sinks.rollups import REQUEST_FILE, Rollups, keep_rollups
from tests.integration.sinks.clickhouse_folder import new_sink, one, opened
from tests.rated_log import RatedLog, costs

pytestmark = pytest.mark.clickhouse

_TABLES = {"minute": "usage_minutes", "hour": "usage_hours", "day": "usage_days"}
_LENGTHS = {"minute": 16, "hour": 13, "day": 10}
"""Of an instant's text, what names its minute, hour or day."""
_PATIENCE_S = 240.0


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[ClickHouse]:
    with opened(tmp_path / "clickhouse") as database:
        yield database


def _log(batches: int = 20, **options: Any) -> RatedLog:
    log = RatedLog(**{"seed": 71, **options})
    log.grow(batches)
    return log


async def _write(clickhouse: ClickHouse, log: RatedLog, first: int = 0, last: int | None = None) -> None:
    sink = new_sink(clickhouse)
    await sink.cursor(log.partition)
    await sink.write(log.partition, log.genesis, log.records[first:last])


def _by_hand(log: RatedLog, grain: str, names: tuple[str, ...]) -> dict[tuple[str, ...], tuple[int, Decimal, Decimal]]:
    """Events, spend and input tokens by time and these names, from the lines themselves."""
    found: defaultdict[tuple[str, ...], list[Any]] = defaultdict(lambda: [0, Decimal(0), Decimal(0)])
    lines = [line for _, record in log.records for line in record.lines]
    for line, cost in zip(lines, costs(log.records), strict=True):
        event = orjson.loads(line)
        data = event["data"]
        said = {
            "agent": event["subject"],
            "customer": data["customer"],
            "operation": data.get("operation", ""),
            "model": data.get("model", ""),
            "tags['team']": data.get("tags", {}).get("team", ""),
        }
        account = found[(event["time"][: _LENGTHS[grain]], *(said[name] for name in names))]
        account[0] += 1
        account[1] += cost
        account[2] += Decimal(data["usage"].get("input_tokens", 0))
    return {key: (account[0], account[1], account[2]) for key, account in found.items()}


def _read(clickhouse: ClickHouse, grain: str, names: tuple[str, ...]) -> dict[tuple[str, ...], Any]:
    columns = ", ".join(names)
    rows = clickhouse.rows(
        f"SELECT formatDateTime(start, '%Y-%m-%dT%H:%i'), {columns}, "
        f"sum(events), sum(cost), sum(usage['input_tokens']) "
        f"FROM usage_by_{grain} GROUP BY start, {columns}"
    )
    return {(row[0][: _LENGTHS[grain]], *row[1 : 1 + len(names)]): (row[-3], row[-2], row[-1]) for row in rows}


async def test_all_roll_ups_can_be_asked_for_before_any_write_is_whole(clickhouse: ClickHouse) -> None:
    """The first one was cut off before its progress row: its rows are of no day yet."""
    log = _log(batches=3)
    await _write(clickhouse, log)
    clickhouse.command("TRUNCATE TABLE sink_progress")
    assert one(clickhouse, "SELECT count() FROM usage_rows") > 0
    assert Rollups(clickhouse).rebuild().built == []
    await _write(clickhouse, log)
    assert Rollups(clickhouse).rebuild().built != []


async def test_they_equal_a_count_by_hand_for_every_grain_and_name(clickhouse: ClickHouse) -> None:
    log = _log(30)
    await _write(clickhouse, log)
    refreshed = Rollups(clickhouse).refresh()
    assert len(refreshed.built) == 2
    for grain in GRAINS:
        for names in (("agent",), ("customer", "agent"), ("operation",), ("model",), ("tags['team']", "model")):
            assert _read(clickhouse, grain, names) == _by_hand(log, grain, names), (grain, names)
    progress = clickhouse.rows("SELECT DISTINCT next FROM rollup_progress")
    assert progress == [(log.state.position,)]
    assert one(clickhouse, "SELECT max(events) FROM up_to") == log.state.position


async def test_only_days_with_new_events_are_built(clickhouse: ClickHouse) -> None:
    log = _log(12)
    await _write(clickhouse, log, last=6)
    rollups = Rollups(clickhouse)
    assert rollups.refresh().built
    assert rollups.refresh().built == []
    assert Rollups(clickhouse).refresh().built == [], "another process finds out what is built"
    await _write(clickhouse, log, first=6)
    assert rollups.refresh().built
    assert _read(clickhouse, "hour", ("agent",)) == _by_hand(log, "hour", ("agent",))
    built = rollups.refresh().built
    log.clock_ms += 3 * 24 * 3_600_000
    at = len(log.records)
    log.batch(log.rich_events(5))
    await _write(clickhouse, log, first=at)
    built = rollups.refresh().built
    assert set(built) <= {date(2026, 1, 3), date(2026, 1, 4)}
    assert built
    assert _read(clickhouse, "day", ("customer",)) == _by_hand(log, "day", ("customer",))


async def test_what_was_not_come_to_is_built_the_next_time(clickhouse: ClickHouse) -> None:
    log = _log(batches=20)
    await _write(clickhouse, log)
    rollups = Rollups(clickhouse)
    asked = iter([False, True, True])
    early = rollups.refresh(lambda: next(asked, True))
    assert len(early.built) == 1
    assert early.left
    assert rollups.refresh().built == early.left
    assert one(clickhouse, "SELECT sum(events) FROM usage_by_day") == log.state.position


async def test_repeated_rows_and_unfinished_writes_do_not_count(clickhouse: ClickHouse) -> None:
    log = _log(12)
    await _write(clickhouse, log, last=6)
    half = log.records[5][1].header.size
    clickhouse.command("SYSTEM STOP MERGES usage_rows")
    for _ in range(2):  # late writers
        late = new_sink(clickhouse)
        late._present[log.origin] = (frozenset(), frozenset())
        await late.write(0, log.genesis, log.records[1:6])
    # A write that was torn before its progress row
    progress = clickhouse.rows("SELECT * FROM sink_progress FINAL")
    await _write(clickhouse, log, first=6)
    clickhouse.command("TRUNCATE TABLE sink_progress")
    clickhouse.command(
        "INSERT INTO sink_progress SELECT log, 0, '', 0, '', {n:UInt64}, now() FROM up_to LIMIT 0", {"n": half}
    )
    row = progress[0]
    clickhouse.command(
        "INSERT INTO sink_progress (log, partition, epoch, log_offset, digest, next) "
        "VALUES ({l:String}, 0, {e:String}, {o:UInt64}, {d:String}, {n:UInt64})",
        {"l": row[0], "e": row[2], "o": row[3], "d": row[4], "n": row[5]},
    )
    Rollups(clickhouse).refresh()
    assert one(clickhouse, "SELECT sum(events) FROM usage_by_minute") == half
    assert one(clickhouse, "SELECT sum(events) FROM usage_by_day") == half
    assert one(clickhouse, "SELECT sum(cost) FROM usage_by_hour") == sum(costs(log.records)[:half], Decimal(0))


async def test_a_late_builder_puts_nothing_back(clickhouse: ClickHouse) -> None:
    log = _log(12)
    await _write(clickhouse, log, last=6)
    late = Rollups(clickhouse)
    bounds = carried(clickhouse)
    await _write(clickhouse, log, first=6)
    Rollups(clickhouse).refresh()
    days = sorted(late._last_positions())
    assert late._build(days, bounds).newer == days
    assert _read(clickhouse, "hour", ("agent",)) == _by_hand(log, "hour", ("agent",))


async def test_what_was_changed_by_hand_is_healed_by_a_rebuild(clickhouse: ClickHouse) -> None:
    log = _log()
    await _write(clickhouse, log)
    rollups = Rollups(clickhouse)
    rollups.refresh()
    clickhouse.command("INSERT INTO usage_hours SELECT * FROM usage_hours WHERE built_to = 0 LIMIT 3")
    clickhouse.command("ALTER TABLE usage_days DROP PARTITION '2026-01-01'")
    nowhere = date(2026, 1, 1) + timedelta(days=30)
    clickhouse.command(f"INSERT INTO usage_minutes (start, log, built_to, events) VALUES ('{nowhere}', 'x', 0, 7)")
    clickhouse.command(f"INSERT INTO usage_minutes (start, log, built_to) VALUES ('{nowhere}', 'x', 9)")
    rollups.rebuild()
    for grain in GRAINS:
        assert _read(clickhouse, grain, ("agent",)) == _by_hand(log, grain, ("agent",)), grain


async def test_what_a_killed_builder_left_is_dropped_when_it_is_old(clickhouse: ClickHouse) -> None:
    log = _log(4)
    await _write(clickhouse, log)
    clickhouse.command("CREATE TABLE staging_left_behind AS usage_hours")
    rollups = Rollups(clickhouse)
    rollups.refresh()
    assert clickhouse.rows("EXISTS TABLE staging_left_behind") == [(1,)], "it may be somebody's at work"
    assert clickhouse.rows("SELECT name FROM system.tables WHERE name LIKE 'staging%'") == [("staging_left_behind",)]


async def test_they_wait_while_the_sink_has_a_backlog(clickhouse: ClickHouse) -> None:
    log = _log(12)
    now_s = [log.clock_ms / 1000 + 3600]
    asked = 0

    def clock() -> float:
        nonlocal asked
        asked += 1
        return now_s[0]

    backlog, stop, sink = Backlog(clock), asyncio.Event(), new_sink(clickhouse)
    await sink.cursor(0)
    backlog.note(log.records)  # before they are there, so that no refresh sees them
    keeping = asyncio.create_task(keep_rollups(clickhouse, stop, 0.01, rest=0, backlog=backlog))
    reader = clickhouse.another()

    def seen() -> int:
        return int(one(reader, "SELECT sum(events) FROM usage_by_day") or 0)

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while not await asyncio.to_thread(holds):
                assert not keeping.done()
                await asyncio.sleep(0.01)

    try:
        await until(lambda: asked > 2)  # the first refresh, of nothing, is over
        await sink.write(0, log.genesis, log.records)
        before = asked
        await until(lambda: asked > before + 5)
        assert seen() == 0
        now_s[0] += 60
        await until(lambda: seen() == log.state.position)
    finally:
        stop.set()
        await keeping
        reader.close()


async def test_they_are_kept_while_rows_arrive_and_built_again_on_request(clickhouse: ClickHouse) -> None:
    log = _log(24)
    stop = asyncio.Event()
    keeping = asyncio.create_task(keep_rollups(clickhouse, stop, 0.05, rest=0))
    sink = new_sink(clickhouse)
    await sink.cursor(0)
    reader = clickhouse.another()

    def seen() -> int:
        return int(one(reader, "SELECT sum(events) FROM usage_by_day") or 0)

    async def until(size: int) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while await asyncio.to_thread(seen) != size:
                assert not keeping.done()
                await asyncio.sleep(0.02)

    try:
        for first in range(0, len(log.records), 5):
            await sink.write(0, log.genesis, log.records[first : first + 5])
        await until(log.state.position)
        clickhouse.command("ALTER TABLE usage_days DROP PARTITION '2026-01-01'")
        assert await asyncio.to_thread(seen) < log.state.position
        request = clickhouse.folder / REQUEST_FILE
        request.touch()
        await until(log.state.position)
        async with asyncio.timeout(_PATIENCE_S):
            while request.exists():  # noqa: ASYNC110 - another loop's work
                await asyncio.sleep(0.02)
    finally:
        stop.set()
        await keeping
        reader.close()
    for grain in GRAINS:
        assert _read(clickhouse, grain, ("customer",)) == _by_hand(log, grain, ("customer",)), grain
