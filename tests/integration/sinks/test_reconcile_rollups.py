"""`reconcile` compares every column of every roll-up: whatever is changed in one is found, and repaired."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.group_reconciliation import compare_groups
from meterproof_sinks.reconciliation import reconcile
from meterproof_sinks.reconciliation_report import Reconciliation
from meterproof_sinks.rollup_reconciliation import compare_rollup
from meterproof_sinks.rollup_rows import GRAINS
from meterproof_sinks.rollups import Rollups
from tests.integration.sinks.clickhouse_folder import new_sink, opened
from tests.integration.sinks.rated_folder import write_audit_folder
from tests.integration.sinks.test_shipped_queries import _trace
from tests.meterproof_command import run_meterproof
from tests.rated_log import RatedLog

pytestmark = pytest.mark.clickhouse

_KINDS = {"", "session", "run", "peak", "calls", "traces", "waste"}


@pytest.fixture(scope="module")
def log() -> RatedLog:
    """Two days of events of all kinds."""
    made = RatedLog(seed=13)
    made.clock_ms += 6 * 3_600_000  # so that midnight lies between the events
    made.batch(_trace(made)[:300])
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def clickhouse(data: Path) -> Iterator[ClickHouse]:
    with opened(data / "clickhouse") as database:
        yield database


@pytest.fixture
async def audit(clickhouse: ClickHouse, data: Path, log: RatedLog) -> Path:
    """The audit folder of the log, whose rows and roll-ups are there, too."""
    sink = new_sink(clickhouse)
    await sink.cursor(log.partition)
    await sink.write(log.partition, log.genesis, log.records)
    Rollups(clickhouse).refresh()
    return write_audit_folder(data, [log])


def _details(found: Reconciliation) -> list[str]:
    assert set(found.counts) <= {"rollups"}
    return [difference.detail for difference in found.differences]


def _groups(clickhouse: ClickHouse) -> Reconciliation:
    found = Reconciliation()
    compare_groups(clickhouse, found, set())
    return found


def _rollup(clickhouse: ClickHouse, grain: str) -> Reconciliation:
    found = Reconciliation()
    compare_rollup(clickhouse, grain, found, defaultdict(set))
    return found


def _columns(clickhouse: ClickHouse, table: str) -> dict[str, str]:
    """Every column with its type, those that the engine makes of others included."""
    return dict(
        clickhouse.rows(
            "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {t:String}",
            {"t": table},
        )
    )


def _changed(name: str, of_type: str) -> str:
    """The least change of a column, as an expression; of a type that is not known here, a KeyError."""
    changes = {
        "String": "concat({0}, 'z')",
        "LowCardinality(String)": "concat(toString({0}), 'z')",
        "UInt8": "{0} + 1",
        "UInt64": "{0} + 1",
        "UInt128": "{0} + 1",
        "Decimal(38, 12)": "{0} + toDecimal128('0.000000000001', 12)",
        "DateTime('UTC')": "addSeconds({0}, 1)",
        "DateTime64(3, 'UTC')": "addMilliseconds({0}, 1)",
        "DateTime64(6, 'UTC')": "addMicroseconds({0}, 1)",
        "Array(UInt64)": "if(empty({0}), [1], arrayMap(one -> one + 1, {0}))",
        "Array(LowCardinality(String))": "arrayPushBack({0}, 'z')",
        "Map(LowCardinality(String), String)": "mapUpdate({0}, map('z', 'z'))",
        "Map(LowCardinality(String), Decimal(38, 12))": "mapUpdate({0}, map('z', toDecimal128(1, 12)))",
    }
    return changes[of_type].format(name)


class _Replaceable:
    """A roll-up in whose place a table without an engine of its own stands, each column of which can be changed."""

    def __init__(self, clickhouse: ClickHouse, table: str) -> None:
        self.columns = _columns(clickhouse, table)
        self._clickhouse, self._table = clickhouse, table
        names = ", ".join(self.columns)
        clickhouse.command(f"CREATE TABLE {table}_plain ENGINE = Memory AS SELECT {names} FROM {table}")
        clickhouse.command(f"RENAME TABLE {table} TO {table}_whole, {table}_plain TO {table}")
        assert _columns(clickhouse, table) == self.columns

    def change(self, name: str | None, where: str) -> None:
        """Put the rows back, but for a column of those that are named."""
        columns = ", ".join(
            f"if({where}, {_changed(name, of_type)}, {column})::{of_type}" if column == name else column
            for column, of_type in self.columns.items()
        )
        self._clickhouse.command(f"TRUNCATE TABLE {self._table}")
        self._clickhouse.command(f"INSERT INTO {self._table} SELECT {columns} FROM {self._table}_whole")


@pytest.mark.usefixtures("audit")
async def test_each_column_of_each_kind_of_groups_is_compared(clickhouse: ClickHouse) -> None:
    kinds = dict(clickhouse.rows("SELECT kind, count() FROM usage_groups GROUP BY kind"))
    assert kinds.keys() == _KINDS
    groups = _Replaceable(clickhouse, "usage_groups")
    groups.change(None, "")
    assert _details(_groups(clickhouse)) == []
    unseen = []
    for column in groups.columns:
        # What marker rows say of their own concerns all kinds, so the others are not changed along with it.
        for where in ("kind = ''", "kind != ''") if column in {"kind", "log", "built_to", "form"} else ("1",):
            groups.change(column, where)
            found = _groups(clickhouse)
            told = {detail.split()[3] for detail in _details(found) if "kind" in detail}
            told |= {"" for detail in _details(found) if detail.startswith(("marker rows of groups", "groups:"))}
            if where == "kind = ''":
                seen = bool(found.differences or found.notes)
            else:
                seen = told >= _KINDS - ({""} if where == "kind != ''" else set())
            if not seen:
                unseen.append((column, where, told))
    assert unseen == []


@pytest.mark.usefixtures("audit")
@pytest.mark.parametrize("grain", GRAINS)
async def test_each_column_of_a_rollup_is_compared(clickhouse: ClickHouse, grain: str) -> None:
    rollup = _Replaceable(clickhouse, f"usage_{grain}s")
    rollup.change(None, "")
    assert _details(_rollup(clickhouse, grain)) == []
    unseen = []
    for column in rollup.columns:
        for rows in ("built_to = 0", "built_to > 0"):
            rollup.change(column, rows)
            if not _details(_rollup(clickhouse, grain)):
                unseen.append((column, rows))
    assert unseen == []


async def test_what_is_no_sum_over_events_is_found_out_anew_and_repaired(clickhouse: ClickHouse, audit: Path) -> None:
    """In turns, since only the first that differs of a kind is told."""
    rollups = Rollups(clickhouse)
    assert (await reconcile(clickhouse, audit, None)).holds
    (days,) = clickhouse.rows("SELECT uniqExact(start), min(toDate(start)) FROM usage_groups")
    assert days[0] == 2
    turns: list[dict[tuple[str, str], str]] = [
        {
            ("session", "first and last moments"): "began = addMicroseconds(began, 1)",
            ("run", "parents"): "parent_id = 'run-99'",
            ("peak", "busiest minutes"): "busiest = addMinutes(busiest, 1)",
            ("calls", "operations"): "operations = ['chat', 'search', 'translate']",
            ("traces", "traces"): "traces_high = arrayPopBack(traces_high), traces_low = arrayPopBack(traces_low)",
            ("waste", "repeated calls"): "repeated = repeated + 1",
        },
        {
            ("session", "first and last moments"): "ended = addMicroseconds(ended, -1)",
            ("run", "parents"): "parent_id = ''",
            ("peak", "busiest minutes"): "tokens = tokens - 1",
            ("waste", "repeated calls"): "repeated_cost = repeated_cost + 1",
        },
        {("peak", "busiest minutes"): "requests = requests + 1"},
        {("peak", "busiest minutes"): "heaviest = addMinutes(heaviest, -1)"},
    ]
    for turn in turns:
        for (kind, _), change in turn.items():
            clickhouse.command(
                f"ALTER TABLE usage_groups UPDATE {change} WHERE kind = '{kind}' AND toDate(start) = {{day:Date}} "
                "SETTINGS mutations_sync = 2",
                {"day": days[1]},
            )
        found = await reconcile(clickhouse, audit, None)
        due = {f"groups of kind {kind} on {days[1]}: not the {what} that the rows tell of" for kind, what in turn}
        assert due <= set(_details(found)), turn
        assert {detail.partition(" on ")[0] for detail in _details(found)} == {
            f"groups of kind {kind}" for kind, _ in turn
        }
        rollups.rebuild()
        assert _details(await reconcile(clickhouse, audit, None)) == []


async def test_days_are_compared_a_few_at_a_time(
    clickhouse: ClickHouse, audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterproof_sinks.group_reconciliation._EVENTS_AT_ONCE", 1)
    assert (await reconcile(clickhouse, audit, None)).holds
    clickhouse.command("ALTER TABLE usage_groups UPDATE ended = began WHERE kind = 'session' SETTINGS mutations_sync=2")
    details = _details(await reconcile(clickhouse, audit, None))
    assert [detail.partition(":")[2] for detail in details] == [
        " not the first and last moments that the rows tell of"
    ] * 2


async def test_marker_rows_are_compared_with_how_far_the_rows_go(clickhouse: ClickHouse, audit: Path) -> None:
    clickhouse.command("INSERT INTO usage_groups SELECT * REPLACE ('another' AS log) FROM usage_groups WHERE kind = ''")
    clickhouse.command(
        "INSERT INTO usage_days SELECT * REPLACE (built_to + 1 AS built_to) FROM usage_days "
        "WHERE usage_days.built_to > 0"
    )
    details = _details(await reconcile(clickhouse, audit, None))
    assert len(details) == 4
    assert all("is said to go to position" in detail for detail in details)
    assert {detail.partition(":")[0] for detail in details} == {"groups", "by day"}
    Rollups(clickhouse).rebuild()
    clickhouse.command("ALTER TABLE usage_groups DELETE WHERE kind = '' SETTINGS mutations_sync = 2")
    kinds = _KINDS - {""}
    details = _details(await reconcile(clickhouse, audit, None))
    assert sorted(detail.split()[3] for detail in details) == sorted([*kinds, *kinds]), "nothing says that they count"
    Rollups(clickhouse).rebuild()
    assert (await reconcile(clickhouse, audit, None)).holds


async def test_days_of_another_form_are_told_and_no_difference(clickhouse: ClickHouse, audit: Path) -> None:
    clickhouse.command("ALTER TABLE usage_groups UPDATE form = 0 WHERE kind = '' SETTINGS mutations_sync = 2")
    clickhouse.command("ALTER TABLE usage_groups DELETE WHERE kind = 'traces' SETTINGS mutations_sync = 2")
    found = await reconcile(clickhouse, audit, None)
    assert (found.holds, len(found.notes)) == (True, 2)
    assert "are of another version" in found.notes[0]
    Rollups(clickhouse).refresh()
    found = await reconcile(clickhouse, audit, None)
    assert (found.holds, found.notes) == (True, [])


async def test_damage_is_exported_and_repaired_by_the_command(data: Path, audit: Path, clickhouse: ClickHouse) -> None:
    clickhouse.command(
        "ALTER TABLE usage_groups UPDATE parent_id = 'run-99' WHERE kind = 'run' SETTINGS mutations_sync = 2"
    )
    clickhouse.close()
    prometheus = data / "reconcile.prom"
    found = run_meterproof("reconcile", "--no-kafka", "--json", "--textfile", str(prometheus), data=data)
    assert (found.returncode, json.loads(found.stdout)["by_kind"]) == (1, {"rollups": 2}), found.stderr
    assert 'meterproof_reconcile_differences{kind="rollups"} 2.0' in prometheus.read_text()
    found = run_meterproof("reconcile", "--no-kafka", "--repair", "--textfile", str(prometheus), data=data)
    assert (found.returncode, "0 differences." in found.stdout) == (0, True), found.stdout + found.stderr
    assert 'meterproof_reconcile_differences{kind="rollups"} 0.0' in prometheus.read_text()
