"""Rows in a real ClickHouse equal the fold of the log: after any cut, replay, late writer or kill."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.clickhouse_sink import ClickHouseSink
from meterproof_sinks.sink import Density
from meterproof_sinks.usage_rows import event_rows, sent_of
from tests.integration.sinks.clickhouse_child import carry, make_log
from tests.integration.sinks.clickhouse_folder import (
    assert_adds_up,
    assert_holds_exactly,
    insert_events,
    new_sink,
    one,
    opened,
    read_books,
)
from tests.rated_log import BOOKS, RatedLog

pytestmark = pytest.mark.clickhouse

_CHILD = "tests.integration.sinks.clickhouse_child"


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[ClickHouse]:
    with opened(tmp_path / "clickhouse") as database:
        yield database


async def test_the_tables_add_up_to_the_fold_of_the_log(clickhouse: ClickHouse) -> None:
    log = make_log(seed=1, batches=60)
    await carry(clickhouse, log, cut=1)
    assert_adds_up(clickhouse, log)
    assert one(clickhouse, "SELECT dense FROM density") == 1
    assert one(clickhouse, "SELECT countDistinct(toYYYYMM(event_time)) FROM usage") == 2
    assert set(clickhouse.rows("SELECT DISTINCT currency, price_book FROM usage")) == {("", 0), ("USD", 1), ("EUR", 2)}


async def test_every_log_record_is_told_with_what_became_of_its_lines(clickhouse: ClickHouse) -> None:
    log = make_log(seed=2, batches=30)
    log.source(b"not a batch\n")
    log.hole()
    await carry(clickhouse, log, cut=2)
    ((records, accepted, duplicates, refusals),) = clickhouse.rows(
        "SELECT count(), sum(accepted), sum(duplicates), sumMap(refusals) FROM records"
    )
    assert records == len(log.records)
    assert accepted == log.state.counts["accepted"]
    assert duplicates == log.state.counts["duplicate"] > 0
    assert refusals == {"malformed_event": log.state.counts["malformed_event"]}
    assert clickhouse.rows("SELECT reason, count() FROM records WHERE reason != '' GROUP BY reason") == [
        ("malformed_batch", 1)
    ]
    assert clickhouse.rows("SELECT kind, count() FROM records GROUP BY kind ORDER BY kind") == [
        ("batch", 31),
        ("genesis", 1),
        ("hole", 1),
    ]
    told = clickhouse.rows("SELECT log_offset, digest, root, size FROM records ORDER BY log_offset")
    assert told == [(offset, r.digest, r.header.root, r.header.size) for offset, r in log.records]


async def test_several_logs_share_the_tables(clickhouse: ClickHouse) -> None:
    logs = [RatedLog(partition=number, partitions=3, seed=number) for number in range(3)]
    for log in logs:
        log.grow(15)
    sink = new_sink(clickhouse)
    for log in logs:
        assert await sink.cursor(log.partition) is None
        await sink.write(log.partition, log.genesis, log.records)
    for log in logs:
        assert assert_holds_exactly(clickhouse, log) == log.state.position
    assert clickhouse.rows("SELECT count(), min(dense) FROM density") == [(3, 1)]


async def test_replays_of_old_ranges_by_late_writers_change_nothing_that_is_read(clickhouse: ClickHouse) -> None:
    log = make_log(seed=3, batches=40)
    draw = random.Random(3)
    await carry(clickhouse, log, cut=3)
    repeats = 0
    # Nothing is tidied up in between: reads must be right before any merge.
    clickhouse.command("SYSTEM STOP MERGES usage_rows")
    clickhouse.command("SYSTEM STOP MERGES usage_records")
    for _ in range(6):
        first = draw.randrange(1, len(log.records) - 10)
        replayed = log.records[first : first + draw.randrange(1, 10)]
        late = ClickHouseSink(clickhouse, read_books)
        # A writer that never asked what is there: it knows of no progress and finds nothing present.
        late._present[log.origin] = (frozenset(), frozenset())
        await late.write(0, log.genesis, replayed)
        repeats += sum(record.header.accepted for _, record in replayed)
        assert_adds_up(clickhouse, log)
        assert one(clickhouse, "SELECT count() FROM records") == len(log.records)
    assert one(clickhouse, "SELECT count() FROM usage_rows") == log.state.position + repeats
    assert one(clickhouse, "SELECT dense FROM density") == 0, "the density check sees what FINAL removes"
    sink = new_sink(clickhouse)
    assert await sink.density(0) is None
    cursor = await sink.cursor(0)
    assert await sink.density(0) == Density(dense=False, surplus_rows=repeats)
    assert cursor is not None
    assert cursor.log_offset == log.records[-1][0], "a late writer moves the cursor of nobody"
    clickhouse.command("SYSTEM START MERGES usage_rows")
    clickhouse.command("OPTIMIZE TABLE usage_rows FINAL")
    assert_adds_up(clickhouse, log)
    assert one(clickhouse, "SELECT dense FROM density") == 1, "merging removes what was repeated"
    assert await sink.density(0) == Density(dense=True, surplus_rows=0)


async def test_gaps_that_repeats_make_up_for_and_a_lost_end_are_not_dense(clickhouse: ClickHouse) -> None:
    log = make_log(seed=6, batches=10)
    sink = new_sink(clickhouse)
    await sink.cursor(0)
    await sink.write(0, log.genesis, log.records)
    size = log.state.position
    # 1, 2 and 6 are missing, 0, 4 and 5 are there twice: count, sum and sum of squares are what they were.
    clickhouse.command("ALTER TABLE usage_rows DELETE WHERE position IN (1, 2, 6) SETTINGS mutations_sync = 2")
    clickhouse.command("SYSTEM STOP MERGES usage_rows")
    clickhouse.command("INSERT INTO usage_rows SELECT * FROM usage_rows WHERE position IN (0, 4, 5)")
    assert clickhouse.rows("SELECT count(), sum(position), sum(position * position) FROM usage_rows") == [
        (size, sum(range(size)), sum(position**2 for position in range(size)))
    ]
    assert await sink.density(0) == Density(dense=False, surplus_rows=0)
    assert one(clickhouse, "SELECT dense FROM density") == 0
    clickhouse.command("SYSTEM START MERGES usage_rows")
    await new_sink(clickhouse).write(0, log.genesis, log.records)
    clickhouse.command("OPTIMIZE TABLE usage_rows FINAL")
    assert await sink.density(0) == Density(dense=True, surplus_rows=0)
    clickhouse.command(
        "ALTER TABLE usage_rows DELETE WHERE position = {last:UInt64} SETTINGS mutations_sync = 2", {"last": size - 1}
    )
    assert await sink.density(0) == Density(dense=False, surplus_rows=-1)


async def test_rows_above_the_progress_row_are_not_shown_and_not_written_again(clickhouse: ClickHouse) -> None:
    log = make_log(seed=4, batches=30)
    half = len(log.records) // 2
    sink = new_sink(clickhouse)
    await sink.cursor(0)
    await sink.write(0, log.genesis, log.records[:half])
    before = assert_holds_exactly(clickhouse, log)
    # What a crash between the events and the progress row leaves: here only the last month has arrived.
    rest = [record for _, record in log.records[half:]]
    rows, _ = event_rows(log.origin, rest, list(map(sent_of, rest)), BOOKS.get, frozenset())
    insert_events(clickhouse, rows)
    clickhouse.command(
        "ALTER TABLE usage_rows DELETE WHERE toYYYYMM(event_time) = 202512 AND position >= {n:UInt64} "
        "SETTINGS mutations_sync = 2",
        {"n": before},
    )
    assert one(clickhouse, "SELECT count() FROM usage_rows WHERE position >= {n:UInt64}", {"n": before}) > 0
    assert one(clickhouse, "SELECT max(position) FROM usage") < before
    assert one(clickhouse, "SELECT dense FROM density") == 1, "nor do they count before all of them are there"
    assert await sink.density(0) == Density(dense=True, surplus_rows=0)

    restarted = new_sink(clickhouse)
    cursor = await restarted.cursor(0)
    assert cursor is not None
    assert cursor.position == before
    await restarted.write(0, log.genesis, log.records[half:])
    left = one(clickhouse, "SELECT count() FROM usage_rows")
    assert left == one(clickhouse, "SELECT uniqExact(position) FROM usage_rows"), "no row was written twice"


_ONE_VIEW = """
CREATE VIEW one_view AS SELECT * FROM usage_rows FINAL WHERE position < (
  SELECT mapFromArrays(groupArray(log), groupArray(next))
  FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
)[log]
"""
_PAUSES_S = (0.6, 1.2, 2.4, 4.8, 9.6)
"""Tried in turn until the write came between the engine's two looks: how long that takes depends on the machine."""


async def test_a_write_that_ends_while_a_query_is_analysed_is_not_shown_torn(clickhouse: ClickHouse) -> None:
    log = make_log(seed=8, batches=4 + 4 * 6 * len(_PAUSES_S))
    done = 4
    sink = new_sink(clickhouse)
    await sink.cursor(0)
    await sink.write(0, log.genesis, log.records[:done])
    clickhouse.command(_ONE_VIEW)
    query = "SELECT uniqExact(position) = max(position) + 1 FROM {view:Identifier}"
    whole: dict[str, list[int]] = {"usage": [], "one_view": []}
    for pause_s in _PAUSES_S:
        # The engine pauses whenever it fixes what a query will read of a table.
        pausing = {"merge_tree_storage_snapshot_sleep_ms": int(pause_s * 1000)}
        reader = ClickHouse.read_folder(clickhouse.folder, settings=pausing)
        try:
            for moment_s in (pause_s / 2, pause_s * 3 / 2):
                for view, seen in whole.items():
                    records = log.records[done : done + 6]
                    done += 6
                    # Half of the write is there when the query begins; the rest and the progress row come later
                    rest = [record for _, record in records]
                    other = frozenset(range(rest[0].header.first, rest[-1].header.size, 2))
                    rows, _ = event_rows(log.origin, rest, list(map(sent_of, rest)), BOOKS.get, other)
                    insert_events(clickhouse, rows)
                    reading = asyncio.create_task(asyncio.to_thread(one, reader, query, {"view": view}))
                    await asyncio.sleep(moment_s)
                    await sink.write(0, log.genesis, records)
                    seen.append(await reading)
        finally:
            reader.close()
        if 0 in whole["one_view"]:
            break
    assert set(whole["usage"]) == {1}
    assert 0 in whole["one_view"], "were one view enough, there would not be two"
    assert assert_holds_exactly(clickhouse, log) == log.records[done - 1][1].header.size


@pytest.mark.slow
def test_kills_at_every_step_lose_and_double_nothing(tmp_path: Path) -> None:
    folder, seed, batches = tmp_path / "clickhouse", 5, 60
    log = make_log(seed, batches)
    kills = ["events:2", "records:3", "progress:2", "events:1", "after:3", "after:15", "after:40", "records:1"]
    sizes = [0]
    for cut, kill in enumerate([*kills, "never"]):
        child = subprocess.run(
            [sys.executable, "-m", _CHILD, str(folder), str(seed), str(batches), str(cut), kill],
            check=False,
            capture_output=True,
        )
        finished = child.returncode == 0
        assert finished or child.returncode == -signal.SIGKILL, child.stderr.decode()
        with opened(folder) as clickhouse:
            sizes.append(assert_holds_exactly(clickhouse, log))
            if kill == "never":
                assert_adds_up(clickhouse, log)
                assert one(clickhouse, "SELECT dense FROM density") == 1, "no physical repeat was left either"
                assert one(clickhouse, "SELECT count() FROM records") == len(log.records)
                assert not list((folder / "inserts").iterdir()), "what a killed insert leaves on disk is cleared away"
    assert sizes == sorted(sizes)
    assert sizes[1] > 0, "the second write of events was killed, the first one counts"
    assert sizes[-1] == log.state.position
