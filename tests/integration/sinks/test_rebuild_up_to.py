"""While a database is made again, and wherever that is cut off, no total claims more than is in."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meterproof_sinks.audit_folder import log_folder_name, segments_of
from meterproof_sinks.batch_bounds import BatchBounds
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.clickhouse_sink import ClickHouseSink
from meterproof_sinks.rebuilding import NotTheSame, given_books, rebuild
from meterproof_sinks.reconciliation import reconcile
from tests.integration.sinks.clickhouse_folder import new_sink, one, opened
from tests.integration.sinks.rated_folder import PARTITIONS, rated_logs, write_audit_folder
from tests.rated_log import BOOKS, RatedLog

pytestmark = pytest.mark.clickhouse


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[ClickHouse]:
    with opened(tmp_path / "clickhouse") as database:
        yield database


@pytest.fixture(autouse=True)
def small_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterproof_sinks.rebuilding.CLICKHOUSE_BOUNDS", BatchBounds(records_max=4))


def _complete_ms(clickhouse: ClickHouse) -> int | None:
    found: int | None = one(clickhouse, "SELECT toUnixTimestamp64Milli(append_time) FROM complete_up_to")
    return found


def _newest_ms(logs: list[RatedLog]) -> int:
    return max(log.records[-1][1].header.append_ms for log in logs)


async def _claimed_ms(clickhouse: ClickHouse, logs: list[RatedLog]) -> int | None:
    """Up to when it says that all is in; nothing that came before that is missing."""
    complete_ms = _complete_ms(clickhouse)
    for log in logs:
        cursor = await new_sink(clickhouse).cursor(log.partition)
        missing = [
            record.header.append_ms
            for log_offset, record in log.records
            if cursor is None or log_offset > cursor.log_offset
        ]
        assert complete_ms is None or not missing or complete_ms <= min(missing)
        (lags,) = clickhouse.rows(
            "SELECT lags, events_behind, signed_events FROM up_to WHERE log = {log:String}", {"log": log.origin}
        )
        there = 0 if cursor is None else cursor.position
        assert lags == (bool(missing), log.state.position - there, 0)
    return complete_ms


async def test_a_rebuild_says_up_to_when_it_has_come(
    clickhouse: ClickHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = rated_logs(60)
    audit = write_audit_folder(tmp_path, logs)
    write, in_turn = ClickHouseSink.write, asyncio.Lock()
    claimed: list[int | None] = []

    async def looked_at(sink: ClickHouseSink, *of: Any) -> None:
        async with in_turn:  # so that nothing comes in while it is looked at
            if not claimed:
                claimed.append(await _claimed_ms(clickhouse, logs))
            await write(sink, *of)
            claimed.append(await _claimed_ms(clickhouse, logs))

    with monkeypatch.context() as patched:
        patched.setattr(ClickHouseSink, "write", looked_at)
        await rebuild(clickhouse, audit, given_books(BOOKS))
    assert claimed[:2] == [None, None], "at first there is nothing of any log, then still nothing of one"
    told = [time_ms for time_ms in claimed if time_ms is not None]
    assert len(set(told)) > 2, "it goes on as the rebuild does"
    assert told == sorted(told)
    assert told[-1] == _newest_ms(logs)
    assert (await reconcile(clickhouse, audit, None)).holds


async def test_one_that_was_cut_off_claims_no_more_and_the_sink_makes_it_good(
    clickhouse: ClickHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = rated_logs(60)
    audit = write_audit_folder(tmp_path, logs)
    write = ClickHouseSink.write

    async def one_is_cut_off(sink: ClickHouseSink, partition: int, *of: Any) -> None:
        if partition == 0 and await new_sink(clickhouse).cursor(0) is not None:
            raise ClickHouseError("cut off")
        await write(sink, partition, *of)

    with monkeypatch.context() as patched:
        patched.setattr(ClickHouseSink, "write", one_is_cut_off)
        with pytest.raises(ClickHouseError, match="cut off"):
            await rebuild(clickhouse, audit, given_books(BOOKS))
    first_ms = await _claimed_ms(clickhouse, logs)
    assert first_ms is None or first_ms <= logs[0].records[3][1].header.append_ms
    for log in logs:
        sink = new_sink(clickhouse)
        cursor = await sink.cursor(log.partition)
        there = -1 if cursor is None else cursor.log_offset
        await sink.write(log.partition, log.genesis, [item for item in log.records if item[0] > there])
    assert await _claimed_ms(clickhouse, logs) == _newest_ms(logs)


async def test_a_torn_tail_is_not_waited_for(clickhouse: ClickHouse, tmp_path: Path) -> None:
    logs = rated_logs(60)
    audit = write_audit_folder(tmp_path, logs)
    torn = segments_of(audit / log_folder_name(logs[0].origin))[-1]
    whole = torn.events.read_bytes()
    torn.events.write_bytes(whole[:-7])
    rebuilt = await rebuild(clickhouse, audit, given_books(BOOKS))
    assert rebuilt.unfinished == [logs[0].origin]
    assert one(clickhouse, "SELECT count() FROM up_to WHERE lags") == 0
    in_ms = max(log.records[-1 - number][1].header.append_ms for number, log in zip((1, 0), logs, strict=True))
    assert _complete_ms(clickhouse) == in_ms


async def test_a_log_that_cannot_be_made_again_holds_nothing_back(clickhouse: ClickHouse, tmp_path: Path) -> None:
    """Two of one partition: the database has one of them, and will never have the other."""
    log = rated_logs(60)[0]
    other = RatedLog(partition=0, partitions=PARTITIONS, seed=99, epoch="0e" * 16)
    other.grow(12)
    for carried, refused in ((log, other), (other, log)):
        clickhouse.command("TRUNCATE TABLE folder_ends")
        for table in ("usage_rows", "usage_records", "sink_progress"):
            clickhouse.command(f"TRUNCATE TABLE {table}")
        sink = new_sink(clickhouse)
        await sink.cursor(0)
        await sink.write(0, carried.genesis, carried.records)
        audit = write_audit_folder(tmp_path / carried.epoch, [carried, refused])
        with pytest.raises(NotTheSame, match="--replace"):
            await rebuild(clickhouse, audit, given_books(BOOKS))
        assert clickhouse.rows("SELECT log, lags FROM up_to") == [(carried.origin, 0)]
        assert _complete_ms(clickhouse) == _newest_ms([carried])
