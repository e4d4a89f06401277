"""`rebuild` of several logs: exact wherever it ends, and never two logs of one partition."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_folder import log_folder_name, segments_of
from meterproof_sinks.batch_bounds import BatchBounds
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.clickhouse_sink import ClickHouseSink
from meterproof_sinks.rebuilding import NotTheSame, given_books, rebuild
from meterproof_sinks.reconciliation import reconcile
from tests.integration.sinks.clickhouse_folder import assert_holds_exactly, new_sink, opened
from tests.integration.sinks.rated_folder import PARTITIONS, rated_logs, write_audit_folder
from tests.rated_log import BOOKS, RatedLog

pytestmark = pytest.mark.clickhouse


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[ClickHouse]:
    with opened(tmp_path / "clickhouse") as database:
        yield database


async def test_two_logs_are_carried_at_once(
    clickhouse: ClickHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = rated_logs(60)
    audit = write_audit_folder(tmp_path, logs)
    both = asyncio.Barrier(len(logs))
    write = ClickHouseSink.write

    async def together(sink: ClickHouseSink, partition: int, *of: Any) -> None:
        await asyncio.wait_for(both.wait(), timeout=120)  # for ever, if one were begun after the other
        await write(sink, partition, *of)

    monkeypatch.setattr(ClickHouseSink, "write", together)
    told: list[int] = []
    rebuilt = await rebuild(clickhouse, audit, given_books(BOOKS), told.append)
    assert rebuilt.events == {log.origin: log.state.position for log in logs}
    assert sum(told) == sum(log.state.position for log in logs)
    assert (await reconcile(clickhouse, audit, None)).holds


async def test_what_fails_for_one_log_is_told_after_the_write_that_the_other_is_in(
    clickhouse: ClickHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterproof_sinks.rebuilding.CLICKHOUSE_BOUNDS", BatchBounds(records_max=4))
    logs = rated_logs(60)
    audit = write_audit_folder(tmp_path, logs)
    failed, begun = asyncio.Event(), asyncio.Event()
    write = ClickHouseSink.write

    async def one_fails(sink: ClickHouseSink, partition: int, *of: Any) -> None:
        if partition == 0:
            await begun.wait()
            failed.set()
            raise ClickHouseError("cut off")
        begun.set()
        await failed.wait()
        await asyncio.sleep(0.1)  # so long at least, the other has nothing to wait for but this write
        await write(sink, partition, *of)

    with monkeypatch.context() as patched:
        patched.setattr(ClickHouseSink, "write", one_fails)
        with pytest.raises(ClickHouseError, match="cut off"):
            await rebuild(clickhouse, audit, given_books(BOOKS))
    cursor = await new_sink(clickhouse).cursor(1)
    assert cursor is not None
    assert cursor.position == logs[1].records[3][1].header.size, "one write of four records"
    await rebuild(clickhouse, audit, given_books(BOOKS))
    assert (await reconcile(clickhouse, audit, None)).holds


async def test_damage_leaves_what_is_exact_and_can_be_mended(
    clickhouse: ClickHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterproof_sinks.rebuilding.CLICKHOUSE_BOUNDS", BatchBounds(records_max=4))
    logs = rated_logs(60)
    audit = write_audit_folder(tmp_path, logs)
    damaged = segments_of(audit / log_folder_name(logs[0].origin))[-2]
    assert damaged.first > logs[0].records[3][1].header.size, "a batch stands before the damage"
    whole = damaged.events.read_bytes()
    damaged.events.write_bytes(whole.replace(b'"specversion"', b'"specVersion"', 1))
    with pytest.raises(DamagedAudit):
        await rebuild(clickhouse, audit, given_books(BOOKS))
    before = [await new_sink(clickhouse).cursor(log.partition) for log in logs]
    assert before[0] is not None
    assert 0 < before[0].position < logs[0].state.position
    for log, cursor in zip(logs, before, strict=True):
        if cursor is not None:
            assert_holds_exactly(clickhouse, log)
    damaged.events.write_bytes(whole)
    rebuilt = await rebuild(clickhouse, audit, given_books(BOOKS))
    for log, cursor in zip(logs, before, strict=True):
        there = 0 if cursor is None else cursor.position
        assert (rebuilt.there[log.origin], rebuilt.events[log.origin]) == (there, log.state.position - there)
        assert assert_holds_exactly(clickhouse, log) == log.state.position
    assert (await reconcile(clickhouse, audit, None)).holds


async def test_cut_off_at_any_insert_it_goes_on(
    clickhouse: ClickHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterproof_sinks.rebuilding.CLICKHOUSE_BOUNDS", BatchBounds(records_max=4))
    logs = rated_logs(60)
    audit = write_audit_folder(tmp_path, logs)
    insert = ClickHouse.insert
    left = 0

    def until_cut_off(database: ClickHouse, *of: Any) -> None:
        nonlocal left
        if not left:  # and no later one gets through
            raise ClickHouseError("cut off")
        left -= 1
        insert(database, *of)

    cut_off = 0
    with monkeypatch.context() as patched:
        patched.setattr(ClickHouse, "insert", until_cut_off)
        while True:
            left = cut_off
            try:
                await rebuild(clickhouse, audit, given_books(BOOKS))
            except ClickHouseError:
                cut_off += 1
            else:
                break
            for log in logs:
                if await new_sink(clickhouse).cursor(log.partition) is not None:
                    assert_holds_exactly(clickhouse, log)
    assert cut_off > 4, "more often than one write has inserts"
    for log in logs:
        assert assert_holds_exactly(clickhouse, log) == log.state.position
    assert (await reconcile(clickhouse, audit, None)).holds


async def test_two_logs_of_one_partition_are_never_mixed(clickhouse: ClickHouse, tmp_path: Path) -> None:
    log = rated_logs(60)[0]
    other = RatedLog(partition=0, partitions=PARTITIONS, seed=99, epoch="0e" * 16)
    other.grow(12)
    audit = write_audit_folder(tmp_path, [log, other])
    first = min(log, other, key=lambda one_: log_folder_name(one_.origin))
    with pytest.raises(NotTheSame, match="--replace"):
        await rebuild(clickhouse, audit, given_books(BOOKS))
    assert clickhouse.rows("SELECT DISTINCT log FROM usage") == [(first.origin,)]
    assert assert_holds_exactly(clickhouse, first) == first.state.position
