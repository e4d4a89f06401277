"""Each total says up to when it is complete: never later than what is known to be in, of every log."""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof.kafka.reader import Record
from meterproof_schemas.checkpoint_record import encode_checkpoint_record
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.erasure import new_erasure
from meterproof_sinks.followed_rows import checkpoint_row
from meterproof_sinks.migrate import all_migrations, migrate
from meterproof_sinks.rebuilding import given_books, rebuild
from meterproof_sinks.retention import retire
from meterproof_sinks.rollups import Rollups
from meterproof_sinks.row_erasure import erase_rows
from meterproof_sinks.usage_rows import record_rows, sent_of
from tests.builders import NOW_MS
from tests.integration.sinks.clickhouse_folder import new_sink, one, opened
from tests.integration.sinks.rated_folder import rated_logs, write_audit_folder
from tests.log_builder import checkpoint_record
from tests.rated_log import BOOKS, RatedLog

pytestmark = pytest.mark.clickhouse

QUERIES = Path(__file__).parents[3] / "sinks" / "queries"
INTEGRITY = Path(__file__).parents[3] / "sinks" / "dashboards" / "integrity.json"
_NOT_OF_ALL_LOGS = {"alerts_by_agent", "checkpoint_coverage", "reconciliation"}
"""Says when the newest alert was raised; says it of each log; says nothing."""
_BATCHES = 6
_SECOND_MS = 1_000


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[ClickHouse]:
    with opened(tmp_path / "clickhouse") as database:
        yield database


def _log(partition: int, *, begins_ms: int = NOW_MS, batches: int = _BATCHES) -> RatedLog:
    """One of two logs: a batch each second."""
    log = RatedLog(partition=partition, partitions=2, seed=partition + 1)
    log._made = 1_000 * partition
    log.clock_ms = begins_ms
    for _ in range(batches):
        log.batch(log.rich_events(3), after_ms=_SECOND_MS)
    return log


async def _carry(clickhouse: ClickHouse, log: RatedLog, first: int = 0, after: int | None = None) -> None:
    sink = new_sink(clickhouse)
    await sink.cursor(log.partition)
    await sink.write(log.partition, log.genesis, log.records[first:after])


def _sign(clickhouse: ClickHouse, log: RatedLog, number: int = -1, *, late_ms: int = 300) -> int:
    """Put what `usage.checkpoints` says after a record into its table, and return when the broker took it."""
    at_ms = log.records[number][1].header.append_ms + late_ms
    value = encode_checkpoint_record(checkpoint_record(log, number))
    row = checkpoint_row(0, Record(0, at_ms, append_time=True, key=b"", value=value))
    clickhouse.insert("usage_checkpoints", (), orjson.dumps(row) + b"\n", "JSONEachRow", 1)
    return at_ms


def _taken_ms(log: RatedLog, number: int = -1) -> int:
    """When the broker took what a record of a log is of."""
    return log.records[number][1].header.append_ms


def _complete_ms(clickhouse: ClickHouse) -> int | None:
    found: int | None = one(clickhouse, "SELECT toUnixTimestamp64Milli(append_time) FROM complete_up_to")
    return found


def _of_log(clickhouse: ClickHouse, log: RatedLog) -> tuple[Any, ...]:
    (row,) = clickhouse.rows(
        "SELECT events, toUnixTimestamp64Milli(append_time), signed_events, events_behind, lags FROM up_to "
        "WHERE log = {log:String}",
        {"log": log.origin},
    )
    return row


def _panel(clickhouse: ClickHouse, title: str) -> list[tuple[Any, ...]]:
    """The rows of a panel of the integrity dashboard."""
    (panel,) = (one for one in orjson.loads(INTEGRITY.read_bytes())["panels"] if one["title"] == title)
    return [
        tuple(orjson.loads(row).values())
        for row in clickhouse.raw(panel["targets"][0]["rawSql"], "JSONEachRow").splitlines()
    ]


def _shown(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def test_every_total_says_it_in_the_same_way() -> None:
    for file in QUERIES.glob("*.sql"):
        said = file.read_text("utf-8").count("(SELECT append_time FROM complete_up_to) AS up_to")
        assert said == (file.stem not in _NOT_OF_ALL_LOGS), file.stem


async def test_a_log_that_lags_holds_all_totals_back(clickhouse: ClickHouse) -> None:
    whole, lagging = _log(0), _log(1, begins_ms=NOW_MS - 500)
    await _carry(clickhouse, whole)
    await _carry(clickhouse, lagging, after=3)
    for log in (whole, lagging):
        _sign(clickhouse, log)
    Rollups(clickhouse).refresh()
    assert _taken_ms(lagging, 2) < _taken_ms(whole)
    assert _of_log(clickhouse, whole) == (18, _taken_ms(whole), 18, 0, 0)
    assert _of_log(clickhouse, lagging) == (6, _taken_ms(lagging, 2), 18, 12, 1)
    carried_to, newest = _shown(_taken_ms(lagging, 2)), _shown(_taken_ms(whole))
    assert _panel(clickhouse, "Complete up to") == [(carried_to, newest, 2, 1, 12)]
    assert _panel(clickhouse, "Lag") == [(lagging.origin, 6, carried_to, 12, 1), (whole.origin, 18, newest, 0, 0)]

    def told() -> dict[str, set[str]]:
        answers = {}
        for file in QUERIES.glob("*.sql"):
            if file.stem not in _NOT_OF_ALL_LOGS:
                rows = clickhouse.raw(file.read_text("utf-8"), "JSONEachRow").splitlines()
                answers[file.stem] = {orjson.loads(row)["up_to"] for row in rows}
        return {name: times for name, times in answers.items() if times}

    assert len(told()) > 9, "most have rows of these events"
    assert set(map(frozenset, told().values())) == {frozenset({carried_to})}
    await _carry(clickhouse, lagging, first=3)
    Rollups(clickhouse).refresh()
    assert set(map(frozenset, told().values())) == {frozenset({newest})}
    assert _of_log(clickhouse, lagging) == (18, _taken_ms(lagging), 18, 0, 0)
    assert _panel(clickhouse, "Complete up to") == [(newest, newest, 2, 0, 0)]


async def test_an_idle_log_holds_nothing_back(clickhouse: ClickHouse) -> None:
    busy, idle = _log(0), _log(1, begins_ms=NOW_MS - 7 * 86_400_000, batches=1)
    for log in (busy, idle):
        await _carry(clickhouse, log)
        _sign(clickhouse, log)
    assert _of_log(clickhouse, idle) == (3, _taken_ms(idle), 3, 0, 0)
    assert _complete_ms(clickhouse) == _taken_ms(busy)


async def test_of_an_idle_log_nothing_is_known_behind_the_newest_checkpoint(clickhouse: ClickHouse) -> None:
    """Whether the signer stands still, or what it signs has not been carried yet."""
    busy, idle = _log(0), _log(1, begins_ms=NOW_MS - 86_400_000, batches=1)
    for log in (busy, idle):
        await _carry(clickhouse, log)
    _sign(clickhouse, idle)
    signed_ms = _sign(clickhouse, busy, 3)
    assert _taken_ms(busy, 3) < signed_ms < _taken_ms(busy)
    assert _complete_ms(clickhouse) == signed_ms
    _sign(clickhouse, busy)
    assert _complete_ms(clickhouse) == _taken_ms(busy)
    _sign(clickhouse, busy, 2)
    assert _complete_ms(clickhouse) == _taken_ms(busy), "an older one that is read again says nothing new"


async def test_one_log_is_complete_up_to_its_newest_record_whatever_is_signed(clickhouse: ClickHouse) -> None:
    log = _log(0)
    assert _complete_ms(clickhouse) is None, "nothing is known of any log"
    await _carry(clickhouse, log, after=4)
    assert _complete_ms(clickhouse) == _taken_ms(log, 3)
    for number in (1, 3, -1):
        _sign(clickhouse, log, number)
        assert _complete_ms(clickhouse) == _taken_ms(log, 3)
    await _carry(clickhouse, log, first=4)
    assert _complete_ms(clickhouse) == _taken_ms(log)


async def test_while_nothing_is_in_of_a_log_that_is_signed_totals_are_not_complete_at_all(
    clickhouse: ClickHouse,
) -> None:
    here, missing = _log(0), _log(1)
    await _carry(clickhouse, here)
    _sign(clickhouse, here)
    assert _complete_ms(clickhouse) == _taken_ms(here)
    _sign(clickhouse, missing, 0)
    assert _complete_ms(clickhouse) is None, "its first record would do"
    assert _of_log(clickhouse, missing) == (0, None, 0, 0, 1)
    _sign(clickhouse, missing)
    assert _of_log(clickhouse, missing) == (0, None, 18, 18, 1)
    (row,) = clickhouse.raw((QUERIES / "usage_summary.sql").read_text("utf-8"), "JSONEachRow").splitlines()
    assert orjson.loads(row)["up_to"] is None
    assert orjson.loads(row)["total_records"] == 18
    await _carry(clickhouse, missing, after=2)
    assert _complete_ms(clickhouse) == _taken_ms(missing, 1)
    await _carry(clickhouse, missing, first=2)
    assert _complete_ms(clickhouse) == _taken_ms(here)


async def test_without_checkpoints_nothing_is_known_to_lag(clickhouse: ClickHouse) -> None:
    logs = [_log(0), _log(1, batches=2)]
    for log in logs:
        await _carry(clickhouse, log)
    assert _complete_ms(clickhouse) == _taken_ms(logs[0])
    signed_ms = _sign(clickhouse, logs[0], 3)
    assert _complete_ms(clickhouse) == signed_ms, "of the log that has none, up to the newest of all"


async def test_what_is_refused_counts_as_missing_too(clickhouse: ClickHouse) -> None:
    """A record without an event makes the log no larger, and stands in what is asked of refusals."""
    other, log = _log(0), _log(1)
    log.clock_ms += _SECOND_MS
    log.source(b"nobody vouches for this\n")
    await _carry(clickhouse, other)
    await _carry(clickhouse, log, after=-1)
    for one_of_both in (other, log):
        _sign(clickhouse, one_of_both)
    assert _of_log(clickhouse, log) == (18, _taken_ms(log, -2), 18, 0, 1)
    assert _complete_ms(clickhouse) == _taken_ms(log, -2) < _taken_ms(log)


async def test_rows_above_progress_do_not_count(clickhouse: ClickHouse) -> None:
    log = _log(0)
    await _carry(clickhouse, log, after=3)
    written = log.records[3:]
    rows = record_rows(log.origin, written, [sent_of(record) for _, record in written], frozenset())
    clickhouse.insert("usage_records", (), b"\n".join([*rows, b""]), "JSONEachRow", len(rows))
    assert _complete_ms(clickhouse) == _taken_ms(log, 2)
    assert _of_log(clickhouse, log)[:2] == (6, _taken_ms(log, 2))


async def test_a_record_in_quarantine_leaves_the_time_of_the_one_before(clickhouse: ClickHouse) -> None:
    log = _log(0)
    last, _ = log.records[-1]
    clickhouse.command(f"ALTER TABLE usage_records ADD CONSTRAINT known CHECK log_offset != {last}")
    await _carry(clickhouse, log)
    assert one(clickhouse, "SELECT position FROM quarantine FINAL") == last
    assert _complete_ms(clickhouse) == _taken_ms(log, -2)


async def test_what_was_erased_or_given_up_is_not_missing(clickhouse: ClickHouse) -> None:
    logs = rated_logs(31)
    for log in logs:
        log.tick(2 * 86_400_000)
        await _carry(clickhouse, log)
        _sign(clickhouse, log)
    Rollups(clickhouse).refresh()
    before = _complete_ms(clickhouse), [_of_log(clickhouse, log) for log in logs]
    assert before[0] == max(map(_taken_ms, logs))
    erase_rows(
        clickhouse,
        new_erasure("customer", "acme", requested_by="a", reason="b", now_ms=NOW_MS, random_bytes=os.urandom),
    )
    retired = retire(clickhouse, date(2026, 4, 15), raw_days=90, minute_days=None)
    assert retired.events > 0
    assert one(clickhouse, "SELECT count() FROM usage_erased") > 0
    assert (_complete_ms(clickhouse), [_of_log(clickhouse, log) for log in logs]) == before


async def test_what_is_rebuilt_is_complete_as_far_as_its_folder(clickhouse: ClickHouse, tmp_path: Path) -> None:
    logs = rated_logs(37)
    await rebuild(clickhouse, write_audit_folder(tmp_path, logs), given_books(BOOKS))
    newest_ms = max(map(_taken_ms, logs))
    assert _complete_ms(clickhouse) == newest_ms
    for log in logs:
        _sign(clickhouse, log)
    assert _complete_ms(clickhouse) == newest_ms
    behind = logs[0]
    carried_ms = _taken_ms(behind)
    behind.batch(behind.rich_events(2), after_ms=90_000_000)
    _sign(clickhouse, behind)
    assert _complete_ms(clickhouse) == carried_ms, "Kafka has more than the folder had"


async def test_checkpoints_from_before_the_migration_are_known(tmp_path: Path) -> None:
    log, idle = _log(0), _log(1, batches=1)
    clickhouse = ClickHouse.open_folder(tmp_path / "older")
    try:
        migrate(clickhouse, list(takewhile(lambda migration: migration.name != "complete_up_to", all_migrations())))
        for carried in (log, idle):
            _sign(clickhouse, carried)
        migrate(clickhouse)
        await _carry(clickhouse, log, after=2)
        await _carry(clickhouse, idle)
        assert _complete_ms(clickhouse) == _taken_ms(log, 1)
    finally:
        clickhouse.close()


async def test_it_costs_no_more_with_many_checkpoints_and_records(clickhouse: ClickHouse) -> None:
    log = _log(0)
    await _carry(clickhouse, log)
    _sign(clickhouse, log)
    clickhouse.command(
        "INSERT INTO usage_checkpoints (log, size, root) SELECT log, number % 7, toString(number) "
        "FROM (SELECT log FROM up_to) AS one CROSS JOIN numbers(300000) AS many"
    )
    clickhouse.command(
        "INSERT INTO usage_records (log, log_offset, size) SELECT log, number + 1000, 0 "
        "FROM (SELECT log FROM up_to) AS one CROSS JOIN numbers(300000) AS many"
    )
    bounded = "SELECT * FROM {} SETTINGS max_rows_to_read = 50000, read_overflow_mode = 'throw'"
    assert clickhouse.rows(bounded.format("complete_up_to"))
    assert clickhouse.rows(bounded.format("up_to"))
    with pytest.raises(ClickHouseError, match="TOO_MANY_ROWS"):
        clickhouse.rows(bounded.format("checkpoints"))
