"""Migrations bring any database to the same tables, however often they run and wherever they were cut off."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

import pytest

from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError, FolderInUse
from meterproof_sinks.clickhouse_sink import ClickHouseSink
from meterproof_sinks.migrate import Migration, MigrationChanged, all_migrations, migrate, pending
from meterproof_sinks.usage_rows import RecordLines
from tests.integration.sinks.clickhouse_child import make_log
from tests.integration.sinks.clickhouse_folder import assert_holds_exactly, new_sink, opened, read_books
from tests.integration.sinks.clickhouse_server import Fault, served
from tests.meterproof_command import run_meterproof
from tests.rated_log import RatedLog

pytestmark = pytest.mark.clickhouse

_TABLES = "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase() ORDER BY name"
_EXTRA = Migration(
    9001, "extra", "-- a comment; with a semicolon\nCREATE TABLE IF NOT EXISTS extra (a Int8) ENGINE = Null;\n"
)


def test_they_run_once_and_keep_what_is_there(tmp_path: Path) -> None:
    clickhouse = ClickHouse.open_folder(tmp_path / "clickhouse")
    try:
        assert pending(clickhouse) == all_migrations() != []
        assert migrate(clickhouse) == all_migrations()
        tables = clickhouse.rows(_TABLES)
        assert pending(clickhouse) == []
        assert migrate(clickhouse) == []
        assert clickhouse.rows(_TABLES) == tables
        assert migrate(clickhouse, [*all_migrations(), _EXTRA]) == [_EXTRA]
        assert clickhouse.rows("EXISTS TABLE extra") == [(1,)]
    finally:
        clickhouse.close()


async def test_one_that_was_cut_off_is_run_again_to_its_end(tmp_path: Path) -> None:
    clickhouse = ClickHouse.open_folder(tmp_path / "clickhouse")
    try:
        (first, *_) = all_migrations()
        statements = first.statements()
        for cut in range(1, len(statements)):
            half = Migration(first.number, first.name, ";\n".join(statements[:cut]) + ";\nCREATE NO SUCH THING;\n")
            with pytest.raises(ClickHouseError, match="SYNTAX_ERROR"):
                migrate(clickhouse, [half])
            assert pending(clickhouse) == all_migrations()
        migrate(clickhouse)
        log = RatedLog()
        log.grow(3)
        await new_sink(clickhouse).write(0, log.genesis, log.records)
        assert assert_holds_exactly(clickhouse, log) == log.state.position
    finally:
        clickhouse.close()


class _OlderSink(ClickHouseSink):
    """Writes where sinks wrote before migration 9, everything that it is given."""

    async def write(self, partition: int, genesis: Genesis, records: list[tuple[int, LogRecord]]) -> None:
        self._present[genesis.origin] = (frozenset(), frozenset())
        await super().write(partition, genesis, records)

    def _insert_events(self, rows: list[RecordLines]) -> list[tuple[RecordLines, str]]:
        events = [row for record in rows for row in record.apart()]
        body = b"".join(
            b"%s\t%d\t%d\t%s\t%s\n"
            % (
                row.log.encode(),
                row.positions[0],
                int.from_bytes(row.priced.times, "little"),
                f"{Decimal(int.from_bytes(row.priced.costs, 'little')).scaleb(-12):f}".encode(),
                row.lines,
            )
            for row in events
        )
        columns = ("log", "position", "event_us", "cost", "line")
        self._clickhouse.insert("usage_in", columns, body, "TSVRaw", len(events))
        return []


class _Overtaken(ClickHouse):
    """While the first command that contains `where` is on its way, somebody else applies all that is due."""

    where = ""

    def command(self, sql: str, parameters: Mapping[str, object] = MappingProxyType({})) -> None:
        if self.where and self.where in sql:
            self.where = ""
            with closing(self.another()) as other:
                migrate(other)
        super().command(sql, parameters)


def test_a_statement_that_arrives_when_another_has_applied_all_undoes_nothing(tmp_path: Path) -> None:
    with served(tmp_path / "clickhouse") as server:
        migrate(server.engine)
        tables = server.engine.rows(_TABLES)
        for where in ("_usage_in TO usage_in", "EXCHANGE TABLES", "ALTER TABLE usage_events"):
            server.engine.command("DROP DATABASE meterproof SYNC")
            with closing(_Overtaken.connect(server.url, create=True)) as slow:
                slow.where = where
                done = migrate(slow)
                assert not slow.where
                assert [*done, *all_migrations()[len(done) :]] == all_migrations() != done
                assert pending(slow) == []
                assert slow.rows(_TABLES) == tables
        server.engine.command("DROP DATABASE meterproof SYNC")
        server.faults.append(Fault("exception", "EXCHANGE", times=1_000, code=48, text="renameat2 is not supported"))
        with closing(ClickHouse.connect(server.url, create=True)) as plain:
            migrate(plain)
            assert plain.rows(_TABLES) == tables
        assert server.met > 0


async def test_rows_are_carried_into_the_order_of_their_logs_wherever_that_is_cut_off(tmp_path: Path) -> None:
    clickhouse = ClickHouse.open_folder(tmp_path / "clickhouse")
    try:
        older, moving = all_migrations()[:8], all_migrations()[8]
        migrate(clickhouse, older)
        log = make_log(seed=4, batches=30)
        for _ in range(2):
            await _OlderSink(clickhouse, read_books).write(0, log.genesis, log.records)
        assert clickhouse.rows(
            "SELECT uniqExact(_partition_id) > 1, count() > max(position) + 1 FROM usage_events"
        ) == [(1, 1)]
        statements = moving.statements()
        for cut in range(1, len(statements) + 1):
            half = replace(moving, text=";\n".join(statements[:cut]) + ";\nCREATE NO SUCH THING;\n")
            with pytest.raises(ClickHouseError, match="SYNTAX_ERROR"):
                migrate(clickhouse, [half])
            assert assert_holds_exactly(clickhouse, log) == log.state.position
        with pytest.raises(ClickHouseError, match="usage_in"):
            await _OlderSink(clickhouse, read_books).write(0, log.genesis, log.records)
        assert [migration.number for migration in migrate(clickhouse)] == [
            migration.number for migration in all_migrations()[8:]
        ]
        assert assert_holds_exactly(clickhouse, log) == log.state.position
        clickhouse.command("OPTIMIZE TABLE usage_rows FINAL")
        assert clickhouse.rows("SELECT dense FROM density") == [(1,)]
        log.grow(3)
        await new_sink(clickhouse).write(0, log.genesis, log.records)
        assert assert_holds_exactly(clickhouse, log) == log.state.position
    finally:
        clickhouse.close()


def test_a_released_migration_cannot_change(tmp_path: Path) -> None:
    with opened(tmp_path / "clickhouse") as clickhouse:
        edited = [replace(migration, text=f"{migration.text}\n") for migration in all_migrations()]
        with pytest.raises(MigrationChanged, match="applied with another text"):
            migrate(clickhouse, edited)


def test_they_are_numbered_without_a_gap_and_need_nothing_that_only_a_server_has() -> None:
    assert [migration.number for migration in all_migrations()] == list(range(1, len(all_migrations()) + 1))
    for migration in all_migrations():
        for word in ("Replicated", "ON CLUSTER", "KeeperMap", "CREATE USER", "GRANT", "ENGINE = Kafka"):
            assert word not in migration.text


def test_one_text_serves_a_replicated_database_too(tmp_path: Path) -> None:
    with opened(tmp_path / "clickhouse") as clickhouse:
        for migration in all_migrations():
            for plain, replicated in zip(migration.statements(), migration.statements(replicated=True), strict=True):
                clickhouse.rows(f"EXPLAIN AST {replicated}", {"value": ""})
                assert replicated.replace("Replicated", "") == plain
                assert ("MergeTree" in plain) == ("ENGINE = Replicated" in replicated)
        with pytest.raises(ClickHouseError, match="NO_ZOOKEEPER"):
            clickhouse.command("CREATE TABLE r (a Int8) ENGINE = ReplicatedMergeTree('/x', 'y') ORDER BY a")


def test_the_tables_sync_every_insert_to_disk(tmp_path: Path) -> None:
    with opened(tmp_path / "clickhouse") as clickhouse:
        tables = clickhouse.rows(
            "SELECT name, create_table_query FROM system.tables "
            "WHERE database = currentDatabase() AND engine LIKE '%Tree'"
        )
    assert {name for name, _ in tables} == {
        "usage_rows",
        "usage_records",
        "sink_progress",
        "quarantine",
        "usage_minutes",
        "usage_hours",
        "usage_days",
        "usage_groups",
        "usage_erased",
        "usage_corrections",
        "erasures",
        "price_books",
        "budgets",
        "provider_quotas",
        "usage_retired",
        "usage_alerts",
        "usage_checkpoints",
        "topic_progress",
        "folder_ends",
        "log_limits",
        "migrations",
    }
    for name, definition in tables:
        assert "fsync_after_insert = 1, fsync_part_directory = 1" in definition, name


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_meterproof("migrate", *arguments, data=tmp_path)

    names = [f"{migration.number:04}_{migration.name}" for migration in all_migrations()]
    missing = run("--check", "--json")
    assert (missing.returncode, json.loads(missing.stdout)["missing"]) == (1, names)
    applied = run("--json")
    assert (applied.returncode, json.loads(applied.stdout)["applied"]) == (0, names)
    assert (run("--check").returncode, run().stdout) == (0, "nothing was missing\n")
    with opened(tmp_path / "clickhouse"):
        refused = run()
    assert refused.returncode == 1
    assert refused.stderr.startswith("meterproof migrate: "), "one line, and nothing of the engine's before it"
    assert "is open in another process" in refused.stderr


def test_a_folder_has_one_owner_and_the_error_names_it(tmp_path: Path) -> None:
    """Also where both have one process id, as in two containers; the engine, which cannot have it, says nothing."""
    probe = (
        "import os, sys; from pathlib import Path; from meterproof_sinks.clickhouse import *\n"
        "folder = Path(sys.argv[1]); (folder / 'status').write_text(f'PID: {os.getpid()}')\n"
        "try: ClickHouse.open_folder(folder)\n"
        "except FolderInUse as error: print(error)"
    )
    with opened(tmp_path / "clickhouse"):
        told = subprocess.run(
            [sys.executable, "-c", probe, str(tmp_path / "clickhouse")], check=True, capture_output=True, text=True
        )
    assert "is open in another process (process " in told.stdout
    assert told.stderr == ""
    assert issubclass(FolderInUse, ClickHouseError)


def test_a_folder_of_another_user_is_told_as_such(capfd: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "clickhouse"
        (folder / "metadata").mkdir(parents=True)
        folder.chmod(0o555)
        child = os.fork()
        if child == 0:
            signal.alarm(300)
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)  # nobody: root may write everywhere
                folder.stat()
            except OSError:
                os._exit(3)
            try:
                ClickHouse.read_folder(folder)
            except ClickHouseError as error:
                os._exit(0 if "this user may not write there" in str(error) else 1)
            finally:
                os._exit(2)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        folder.chmod(0o755)
        if code == 3:
            pytest.skip("nobody else can look into this folder here")
        assert code == 0
        assert capfd.readouterr().err == "", "nothing of the engine's"


async def test_inserts_touch_the_disk_inside_the_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "clickhouse"
    (folder / "inserts").mkdir(parents=True)
    (folder / "inserts" / "left-by-a-crash.raw").write_bytes(b"event lines")
    with opened(folder) as clickhouse:
        assert list((folder / "inserts").iterdir()) == []
        ClickHouse.read_folder(folder).close()
        assert tempfile.gettempdir() == str(folder / "inserts"), "also after a reader beside it is closed"
        log = RatedLog()
        log.grow(2)
        await new_sink(clickhouse).write(0, log.genesis, log.records)
        assert list((folder / "inserts").iterdir()) == []
    assert tempfile.gettempdir() != str(folder / "inserts")


def test_a_failed_query_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    with opened(tmp_path / "clickhouse") as clickhouse:
        for _ in range(3):
            with pytest.raises(ClickHouseError, match="Code: 395"):
                clickhouse.rows("SELECT number, throwIf(number = 1000000) FROM numbers(2000000)")
            assert clickhouse.rows("SELECT 'clean'") == [("clean",)]
            with pytest.raises(ClickHouseError, match="Code: 395"):
                clickhouse.raw("SELECT number, throwIf(number = 1000000) FROM numbers(2000000)", "TSV")
            assert clickhouse.raw("SELECT 'clean'", "TSV") == b"clean\n"
