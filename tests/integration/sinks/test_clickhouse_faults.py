"""The way to a ClickHouse server over HTTP, with everything that a network, an operator and a disk do to it."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError, ClickHouseUnavailable
from meterproof_sinks.clickhouse_sink import ClickHouseSink
from meterproof_sinks.migrate import migrate, pending
from meterproof_sinks.rollups import Rollups
from meterproof_sinks.sink import SinkUnavailable
from tests.integration.sinks.clickhouse_folder import assert_adds_up, assert_holds_exactly, migrated, new_sink, one
from tests.integration.sinks.clickhouse_server import PASSWORD, ClickHouseServer, Fault, served
from tests.rated_log import RatedLog

pytestmark = pytest.mark.clickhouse

_ANSWER_TIMEOUT_S = 20.0
_NO_SPACE = "Cannot reserve 1.00 MiB, not enough space"
_READ_ONLY = "Table is in readonly mode since table metadata was not found in zookeeper"
_AWAY: dict[str, list[Fault]] = {
    "a gateway without a server behind it": [Fault("status", times=3)],
    "cut before the events": [Fault("cut before", "record_lines", times=2)],
    "cut after the events": [Fault("cut after", "record_lines", times=2)],
    "cut in the middle of the events": [Fault("half", "record_lines", times=2)],
    "cut after the records": [Fault("cut after", "usage_records")],
    "cut before the progress row": [Fault("cut before", "sink_progress")],
    "cut after the progress row": [Fault("cut after", "sink_progress (")],
    "disk full": [Fault("exception", "record_lines", times=3, code=243, text=_NO_SPACE)],
    "disk full at the progress row": [Fault("exception", "sink_progress (", code=243, text=_NO_SPACE)],
    "read-only table": [Fault("exception", "usage_records", times=2, code=242, text=_READ_ONLY)],
    "too many parts": [Fault("exception", "record_lines", code=252, text="Too many parts (3000)")],
    "memory": [Fault("exception", "record_lines", code=241, text="(total) memory limit exceeded")],
    "shutting down": [Fault("exception", "", times=2, code=236, text="Server is shutting down")],
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClickHouseServer]:
    """With all tables there."""
    migrated(tmp_path / "clickhouse")
    with served(tmp_path / "clickhouse") as running:
        yield running


@contextlib.contextmanager
def _connected(server: ClickHouseServer, **options: Any) -> Iterator[ClickHouse]:
    clickhouse = ClickHouse.connect(server.url, create=True, **{"answer_timeout_s": _ANSWER_TIMEOUT_S, **options})
    try:
        migrate(clickhouse)
        yield clickhouse
    finally:
        clickhouse.close()


def _log(batches: int = 20) -> RatedLog:
    log = RatedLog(seed=41)
    log.grow(batches)
    return log


async def _write(sink: ClickHouseSink, log: RatedLog, first: int, last: int) -> int:
    """Write as the worker does: the same call again while the destination is away; how often it was."""
    away = 0
    while True:
        try:
            await sink.write(log.partition, log.genesis, log.records[first:last])
        except SinkUnavailable:
            away += 1
            assert away < 20
        else:
            return away


async def test_a_server_gets_the_same_rows_as_a_folder(server: ClickHouseServer) -> None:
    log = _log()
    with _connected(server) as clickhouse:
        assert pending(clickhouse) == []
        sink = new_sink(clickhouse)
        assert await sink.cursor(0) is None
        for first in range(0, len(log.records), 4):
            assert await _write(sink, log, first, first + 4) == 0
        assert_adds_up(clickhouse, log)
        cursor = await new_sink(clickhouse).cursor(0)
    assert cursor is not None
    assert (cursor.log_offset, cursor.position) == (log.records[-1][0], log.state.position)
    assert_adds_up(server.engine, log)
    assert one(server.engine, "SELECT dense FROM density") == 1


async def test_what_passes_is_waited_for_and_loses_and_doubles_nothing(server: ClickHouseServer) -> None:
    with _connected(server) as clickhouse:
        server.engine.command("SYSTEM STOP MERGES usage_rows")
        for partition, (name, faults) in enumerate(_AWAY.items()):
            log = RatedLog(partition=partition, partitions=len(_AWAY), seed=60 + partition)
            log.grow(12)
            sink = new_sink(clickhouse)
            await sink.cursor(partition)
            await _write(sink, log, 0, 3)
            server.faults, server.met = [Fault(**vars(fault)) for fault in faults], 0
            away = await _write(sink, log, 3, 8)
            assert (server.met >= 1, away >= 1) == (True, True), name
            assert_holds_exactly(server.engine, log)
            server.faults = []
            assert await _write(sink, log, 8, len(log.records)) == 0, name
            assert assert_holds_exactly(server.engine, log) == log.state.position, name
        rows = server.engine.rows("SELECT count(), min(dense) FROM density")
        assert rows == [(len(_AWAY), 1)], "not even a physical repeat is left"
        assert one(server.engine, "SELECT count() FROM quarantine") == 0


async def test_a_server_that_answers_too_late_counts_as_away(server: ClickHouseServer) -> None:
    log = _log(6)
    with _connected(server):
        """Lets the migrations take what they take."""
    with _connected(server, answer_timeout_s=4.0) as clickhouse:
        sink = new_sink(clickhouse)
        await sink.cursor(0)
        server.faults = [Fault("slow", "record_lines", seconds=3600.0)]
        assert await _write(sink, log, 0, len(log.records)) >= 1
        assert_adds_up(server.engine, log)


async def test_a_server_that_is_gone_and_comes_back(server: ClickHouseServer) -> None:
    log = _log()
    with _connected(server) as clickhouse:
        sink = new_sink(clickhouse)
        await sink.cursor(0)
        await _write(sink, log, 0, 5)
        server.down()
        for _ in range(3):
            with pytest.raises(ClickHouseUnavailable):
                await sink.write(0, log.genesis, log.records[5:])
        server.up()
        assert await _write(sink, log, 5, len(log.records)) == 0
        assert_adds_up(server.engine, log)


async def test_a_password_that_was_changed_under_a_running_sink_is_waited_for(server: ClickHouseServer) -> None:
    log = _log(6)
    server.password = PASSWORD
    with _connected(server, password=PASSWORD) as clickhouse:
        sink = new_sink(clickhouse)
        await sink.cursor(0)
        server.password = "another"
        with pytest.raises(ClickHouseUnavailable, match="password is incorrect") as refused:
            await sink.write(0, log.genesis, log.records)
        assert refused.value.code == 516
        server.password = PASSWORD
        assert await _write(sink, log, 0, len(log.records)) == 0
        assert_adds_up(server.engine, log)


def test_a_wrong_password_is_told_with_the_servers_words(server: ClickHouseServer) -> None:
    server.password = PASSWORD
    with pytest.raises(ClickHouseError, match="Authentication failed"):
        ClickHouse.connect(server.url, password="wrong", create=True)


async def test_rows_that_cannot_go_in_are_set_aside_after_all_others_went_in(server: ClickHouseServer) -> None:
    log = _log(10)
    with _connected(server) as clickhouse:
        sink = new_sink(clickhouse)
        await sink.cursor(0)
        # A real refusal by the real engine, of rows that the contract accepts.
        server.engine.command("ALTER TABLE usage_rows ADD CONSTRAINT whole CHECK position NOT IN (7, 8, 40)")
        server.engine.command("ALTER TABLE usage_records ADD CONSTRAINT known CHECK log_offset != 3")
        assert await _write(sink, log, 0, len(log.records)) == 0
    engine = server.engine
    size = log.state.position
    assert engine.rows("SELECT position FROM usage ORDER BY position") == [
        (position,) for position in range(size) if position not in {7, 8, 40}
    ]
    rows = engine.rows("SELECT kind, position, row, position(error, 'VIOLATED_CONSTRAINT') > 0 FROM quarantine FINAL")
    lines = [line for _, record in log.records for line in record.lines]
    assert {(kind, position) for kind, position, _, _ in rows} == {
        ("event", 7),
        ("event", 8),
        ("event", 40),
        ("record", 3),
    }
    assert all(told for _, _, _, told in rows)
    assert {row for kind, _, row, _ in rows if kind == "event"} == {lines[at].decode() for at in (7, 8, 40)}
    cursor = await new_sink(engine).cursor(0)
    assert cursor is not None
    assert cursor.position == size, "it goes on behind them"


async def test_an_error_of_the_tables_is_no_error_of_the_rows(server: ClickHouseServer) -> None:
    log = _log(3)
    with _connected(server) as clickhouse:
        sink = new_sink(clickhouse)
        await sink.cursor(0)
        server.engine.command("DROP TABLE record_lines_apart")
        server.engine.command("DROP TABLE record_lines")
        with pytest.raises(ClickHouseError, match="UNKNOWN_TABLE") as missing:
            await sink.write(0, log.genesis, log.records)
        assert not isinstance(missing.value, SinkUnavailable)
        assert one(server.engine, "SELECT count() FROM quarantine") == 0
        assert await new_sink(clickhouse).cursor(0) is None


async def test_several_logs_at_once_over_a_bad_network(server: ClickHouseServer) -> None:
    logs = [RatedLog(partition=number, partitions=2, seed=50 + number) for number in range(2)]
    for log in logs:
        log.grow(15)
    with _connected(server) as clickhouse:
        sink = new_sink(clickhouse)
        server.faults = [
            Fault("cut after", "record_lines", times=3),
            Fault("half", "record_lines", times=3),
            Fault("status", times=4),
        ]

        async def carry(log: RatedLog) -> None:
            while True:
                try:
                    await sink.cursor(log.partition)
                    break
                except SinkUnavailable:
                    continue
            for first in range(0, len(log.records), 5):
                records = log.records[first : first + 5]
                while True:
                    try:
                        await sink.write(log.partition, log.genesis, records)
                        break
                    except SinkUnavailable:
                        continue

        await asyncio.gather(*map(carry, logs))
    assert server.met >= 4
    for log in logs:
        assert assert_holds_exactly(server.engine, log) == log.state.position


@pytest.mark.containers
@pytest.mark.usefixtures("docker")
async def test_a_server_in_a_container_gets_the_same_rows() -> None:
    from testcontainers.community.clickhouse import ClickHouseContainer

    log = _log()
    with ClickHouseContainer("clickhouse/clickhouse-server:25.8", username="meter", password=PASSWORD) as container:
        url = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(8123)}"
        clickhouse = ClickHouse.connect(url, username="meter", password=PASSWORD, create=True)
        try:
            migrate(clickhouse)
            sink = new_sink(clickhouse)
            await sink.cursor(0)
            for first in range(0, len(log.records), 4):
                await _write(sink, log, first, first + 4)
            assert_adds_up(clickhouse, log)
            Rollups(clickhouse).refresh()
            assert one(clickhouse, "SELECT sum(events) FROM usage_by_day") == log.state.position
        finally:
            clickhouse.close()
        with pytest.raises(ClickHouseError):
            ClickHouse.connect(url, username="meter", password="wrong", create=True)
