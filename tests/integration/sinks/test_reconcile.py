"""`reconcile` finds every difference that is planted and none else; `rebuild` makes ClickHouse from files alone."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.correction import correction_line
from meterproof_schemas.event import parse_event
from meterproof_schemas.price_book import encode_price_book
from meterproof_sinks.audit_folder import log_folders, segments_of
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.disk import Disk
from meterproof_sinks.price_book_folder import keep_price_book
from meterproof_sinks.rebuilding import NotTheSame, given_books, rebuild
from meterproof_sinks.reconciliation import reconcile
from meterproof_sinks.reconciliation_report import Reconciliation
from meterproof_sinks.rollups import Rollups
from meterproof_sinks.row_texts import EVENT_COLUMNS, RECORD_COLUMNS, text_sql
from tests.builders import make_genesis_record, make_limits
from tests.integration.sinks.clickhouse_folder import assert_holds_exactly, new_sink, one, opened
from tests.integration.sinks.rated_folder import PARTITIONS, rated_logs, write_audit_folder
from tests.integration.sinks.test_shipped_queries import _trace
from tests.meterproof_command import run_meterproof
from tests.rated_log import BOOKS, RatedLog

pytestmark = pytest.mark.clickhouse


async def _carry(clickhouse: ClickHouse, log: RatedLog, last: int | None = None) -> None:
    sink = new_sink(clickhouse)
    await sink.cursor(log.partition)
    await sink.write(log.partition, log.genesis, log.records[:last])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def clickhouse(data: Path) -> Iterator[ClickHouse]:
    with opened(data / "clickhouse") as database:
        yield database


def _kinds(found: Reconciliation) -> dict[str, int]:
    return dict(found.counts)


async def test_nothing_differs_until_something_is_planted(clickhouse: ClickHouse, data: Path) -> None:
    logs = rated_logs(80)
    audit = write_audit_folder(data, logs)
    for log in logs:
        await _carry(clickhouse, log)
    rollups = Rollups(clickhouse)
    rollups.refresh()
    size = sum(log.state.position for log in logs)
    found = await reconcile(clickhouse, audit, None)
    assert (found.holds, found.differences) == (True, [])
    assert found.compared == {"audit": size, "rows": size, "minute": size, "hour": size, "day": size}
    assert found.behind == {"minute": 0, "hour": 0, "day": 0}
    assert found.skipped == ["Kafka's log: not asked for"]

    clickhouse.command(
        "INSERT INTO usage_checkpoints (log, size, root, log_offset) "
        "SELECT log, size, repeat('0', 64), log_offset FROM usage_records ORDER BY log_offset DESC LIMIT 1"
    )
    assert _kinds(await reconcile(clickhouse, audit, None)) == {"checkpoints": 1}, "a signed root that is not the log's"
    clickhouse.command("TRUNCATE TABLE usage_checkpoints")

    clickhouse.command("INSERT INTO usage_hours SELECT * FROM usage_hours WHERE built_to = 0 LIMIT 1")
    assert _kinds(await reconcile(clickhouse, audit, None)) == {"rollups": 1}
    clickhouse.command("INSERT INTO usage_groups SELECT * FROM usage_groups WHERE kind = 'run' LIMIT 1")
    assert _kinds(await reconcile(clickhouse, audit, None)) == {"rollups": 2}
    rollups.rebuild()
    assert (await reconcile(clickhouse, audit, None)).holds

    clickhouse.command(
        "ALTER TABLE usage_rows UPDATE cost = cost + 1 WHERE position = 5 AND log = {l:String} "
        "SETTINGS mutations_sync = 2",
        {"l": logs[0].origin},
    )
    found = await reconcile(clickhouse, audit, None)
    assert _kinds(found) == {"rollups": 5, "audit": 2}, "roll-ups and groups still know what it cost"
    rollups.rebuild()
    found = await reconcile(clickhouse, audit, None)
    assert _kinds(found) == {"audit": 2}, "and so does the log, when they do not any more"
    assert "spend: " in found.differences[0].detail
    assert "position 5: cost should be" in found.differences[1].detail

    clickhouse.command(
        "ALTER TABLE usage_rows UPDATE usage = mapUpdate(usage, map('requests', toDecimal128(2, 12))) "
        "WHERE position = 7 AND log = {l:String} SETTINGS mutations_sync = 2",
        {"l": logs[0].origin},
    )
    rollups.rebuild()
    found = await reconcile(clickhouse, audit, None)
    assert {difference.log for difference in found.differences} == {logs[0].origin}
    assert any("quantities" in difference.detail for difference in found.differences)

    clickhouse.command(
        "ALTER TABLE usage_rows DELETE WHERE position = 9 AND log = {l:String} SETTINGS mutations_sync = 2",
        {"l": logs[1].origin},
    )
    rollups.rebuild()
    found = await reconcile(clickhouse, audit, None)
    assert set(_kinds(found)) == {"audit", "rows"}
    assert {difference.log for difference in found.differences if difference.kind == "rows"} == {logs[1].origin}


def _changed(column: str, of_type: str) -> str:
    """The least change of a column's value, as an expression."""
    for begin, changed in (
        ("Nullable(Decimal", "ifNull({0}, 0) + toDecimal128('0.000000000001', 12)"),
        ("Decimal", "{0} + toDecimal128('0.000000000001', 12)"),
        ("Nullable(UInt", "if(isNull({0}), 0, assumeNotNull({0}) + 1)"),
        ("UInt", "{0} + 1"),
        ("Int", "{0} + 1"),
        ("DateTime64(6", "addMicroseconds({0}, 1)"),
        ("DateTime64(3", "addMilliseconds({0}, 1)"),
        ("Array", "arrayPushBack({0}, 'z')"),
        ("Map(LowCardinality(String), Decimal", "mapUpdate({0}, map('z', toDecimal128(0, 12)))"),
        ("Map(LowCardinality(String), UInt", "mapUpdate({0}, map('z', toUInt32(1)))"),
        ("Map(LowCardinality(String), String", "mapUpdate({0}, map('z', ''))"),
    ):
        if of_type.startswith(begin):
            return changed.format(column)
    return f"concat(toString({column}), 'z')"


@pytest.mark.parametrize(("table", "texts"), [("usage_final", EVENT_COLUMNS), ("records_final", RECORD_COLUMNS)])
async def test_the_text_of_a_row_changes_with_each_of_its_columns(
    clickhouse: ClickHouse, table: str, texts: Mapping[str, str]
) -> None:
    log = rated_logs(80)[0]
    await _carry(clickhouse, log)
    columns = dict(
        clickhouse.rows(
            "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {t:String}",
            {"t": table},
        )
    )
    assert columns.keys() - texts.keys() <= {"log", "entry"}, "what is not in the text is compared for itself"
    place, text = next(iter(texts)), text_sql(texts)
    rows, *unseen = clickhouse.rows(
        f"SELECT count(), {', '.join(f'countIf(text = of_{name})' for name in texts)} FROM "
        f"(SELECT {place}, {text} AS text FROM {table}) AS held "
        + " ".join(
            f"INNER JOIN (SELECT {place}, {text} AS of_{name} FROM "
            f"(SELECT * REPLACE ({_changed(name, columns[name])} AS {name}) FROM {table})) AS {name}_changed "
            f"ON {name}_changed.{place} = held.{place}"
            for name in texts
        ),
        {"unknown": []},
    )[0]
    assert rows > 0
    assert dict(zip(texts, unseen, strict=True)) == dict.fromkeys(texts, 0)


async def test_a_change_that_the_rollups_took_over_is_found(clickhouse: ClickHouse, data: Path) -> None:
    log = rated_logs(80)[0]
    audit = write_audit_folder(data, [log])
    await _carry(clickhouse, log)
    clickhouse.command(
        "ALTER TABLE usage_rows UPDATE customer = 'globex', tags = map('team', 'b') WHERE position IN (3, 7) "
        "SETTINGS mutations_sync = 2"
    )
    clickhouse.command(
        "ALTER TABLE usage_records UPDATE duplicates = 77 WHERE log_offset = 2 SETTINGS mutations_sync = 2"
    )
    Rollups(clickhouse).rebuild()
    found = await reconcile(clickhouse, audit, None)
    assert set(_kinds(found)) == {"audit", "records"}
    details = " ".join(difference.detail for difference in found.differences)
    assert "position 3: " in details
    assert "position 7: " in details
    assert "tags should be" in details
    assert "log offset 2: duplicates should be" in details
    assert "is '77'" in details


async def test_rows_are_asked_for_in_pieces(
    clickhouse: ClickHouse, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tally", "reconciliation", "row_reconciliation"):
        monkeypatch.setattr(f"meterproof_sinks.{module}.STRETCH", 4)
    monkeypatch.setattr("meterproof_sinks.tally._PIECE", 64)
    log = rated_logs(80)[0]
    audit = write_audit_folder(data, [log])
    await _carry(clickhouse, log)
    assert log.state.position > 128
    found = await reconcile(clickhouse, audit, None)
    assert (found.holds, found.compared["rows"]) == (True, log.state.position)
    clickhouse.command(
        "ALTER TABLE usage_rows UPDATE status = 'z' WHERE position IN (63, 64) SETTINGS mutations_sync = 2"
    )
    details = [difference.detail for difference in (await reconcile(clickhouse, audit, None)).differences]
    assert [detail.count("position 63: status") + detail.count("position 64: status") for detail in details] == [1, 1]


async def test_a_rollup_that_gives_sums_to_another_name_is_found(clickhouse: ClickHouse, data: Path) -> None:
    log = rated_logs(80)[0]
    audit = write_audit_folder(data, [log])
    await _carry(clickhouse, log)
    rollups = Rollups(clickhouse)
    rollups.refresh()
    for changed in ("source = concat(source, 'z')", "tags = map('team', 'z')", "latency_us = latency_us + 1"):
        clickhouse.command(f"ALTER TABLE usage_days UPDATE {changed} WHERE built_to = 0 SETTINGS mutations_sync = 2")
        found = await reconcile(clickhouse, audit, None)
        assert set(_kinds(found)) == {"rollups"}, changed
        assert "by day" in found.differences[0].detail
        rollups.rebuild()
        assert (await reconcile(clickhouse, audit, None)).holds


async def test_price_books_are_compared_and_missed(clickhouse: ClickHouse, data: Path) -> None:
    log = rated_logs(80)[0]
    audit = write_audit_folder(data, [log])
    await _carry(clickhouse, log)
    shutil.rmtree(audit / "prices")
    found = await reconcile(clickhouse, audit, None)
    assert (found.holds, found.differences) == (False, [])
    assert found.not_compared[0].startswith("spend by price book 1, 2: ")
    assert (await reconcile(clickhouse, audit, None, given_books=BOOKS)).holds
    other = BOOKS[1].model_copy(update={"prices": BOOKS[2].prices})
    keep_price_book(audit, encode_price_book(other), Disk())
    found = await reconcile(clickhouse, audit, None, given_books=BOOKS)
    assert set(_kinds(found)) == {"audit", "prices"}, "what the folder has counts, and ClickHouse has another one"
    assert found.differences[0].detail.startswith("version 1 is another price book in ClickHouse")
    assert "cost should be" in found.differences[-1].detail


@pytest.mark.parametrize(
    ("kind", "name"), [("session", "session"), ("run", "run_id"), ("calls", "source"), ("waste", "operation")]
)
async def test_groups_that_add_up_under_other_names_are_found(
    clickhouse: ClickHouse, data: Path, kind: str, name: str
) -> None:
    log = RatedLog(seed=13)
    log.batch(_trace(log)[:100])
    audit = write_audit_folder(data, [log])
    await _carry(clickhouse, log)
    Rollups(clickhouse).refresh()
    assert (await reconcile(clickhouse, audit, None)).differences == []
    of_kind = f"kind = '{kind}' AND usage_groups.{name} NOT IN ('', 'another')"
    clickhouse.command(
        f"INSERT INTO usage_groups SELECT * REPLACE ('another' AS {name}) FROM usage_groups WHERE {of_kind}"
    )
    clickhouse.command(f"ALTER TABLE usage_groups DELETE WHERE {of_kind} SETTINGS mutations_sync = 2")
    details = [difference.detail for difference in (await reconcile(clickhouse, audit, None)).differences]
    assert [detail for detail in details if not detail.startswith(f"groups of kind {kind} on ")] == []
    assert sum("not the same names" in detail for detail in details) == 1


async def test_what_could_not_be_compared_is_no_success(clickhouse: ClickHouse, data: Path) -> None:
    log = rated_logs(80)[0]
    audit = write_audit_folder(data, [log])
    nobody = KafkaSettings(bootstrap="127.0.0.1:1", request_timeout_s=1)
    empty = await reconcile(clickhouse, data / "none", nobody)
    assert (empty.holds, empty.differences) == (False, [])
    assert [told.partition(":")[0] for told in empty.not_compared] == ["ClickHouse's rows", "Kafka's log"]
    assert "nothing of this log yet" in (await reconcile(clickhouse, audit, None)).not_compared[1]
    await _carry(clickhouse, log)
    assert (await reconcile(clickhouse, audit, None)).holds
    assert (await reconcile(clickhouse, None, None)).holds, "what is left out on purpose is named, and no fault"
    away = await reconcile(clickhouse, audit, nobody)
    assert (away.holds, away.differences, away.compared["audit"]) == (False, [], log.state.position)
    assert (away.as_json()["holds"], away.as_json()["not_compared"]) == (False, away.not_compared)
    gone = await reconcile(clickhouse, data / "none", None)
    assert [told.partition(":")[0] for told in gone.not_compared] == [
        f"audit folder of {log.origin}",
        f"rows of {log.origin}",
    ]


async def test_what_is_said_of_corrections_is_compared_one_by_one(clickhouse: ClickHouse, data: Path) -> None:
    log = RatedLog(seed=80, genesis_value=make_genesis_record(limits=make_limits(corrections=True)))
    events = log.rich_events(6)
    log.batch(events)
    log.batch(
        [correction_line(line, correction_id=f"c{n}", kind="void", salt="0" * 32) for n, line in enumerate(events[:4])]
    )
    audit = write_audit_folder(data, [log])
    await _carry(clickhouse, log)
    found = await reconcile(clickhouse, audit, None)
    assert (found.holds, found.differences) == (True, [])
    for change in (
        "ALTER TABLE usage_corrections DELETE WHERE position = 6",
        "ALTER TABLE usage_corrections UPDATE effect = 'unknown_target' WHERE position = 7",
        "ALTER TABLE usage_corrections UPDATE target = repeat('0', 64) WHERE position = 8",
    ):
        clickhouse.command(f"{change} SETTINGS mutations_sync = 2")
    clickhouse.command("INSERT INTO usage_corrections SELECT * REPLACE (3 AS position) FROM usage_corrections LIMIT 1")
    clickhouse.command(
        "INSERT INTO usage_corrections SELECT * REPLACE ('replace' AS kind) FROM usage_corrections WHERE position = 9"
    )
    found = await reconcile(clickhouse, audit, None)
    assert _kinds(found) == {"corrections": 5}
    assert [difference.detail.split()[2] for difference in found.differences] == ["3", "6", "7", "8", "9"]
    assert "rebuild --replace" in found.differences[0].detail


async def test_an_event_that_was_replaced_is_seen_by_its_digest(clickhouse: ClickHouse, data: Path) -> None:
    logs = rated_logs(80)[:1]
    audit = write_audit_folder(data, logs)
    await _carry(clickhouse, logs[0])
    clickhouse.command(
        "ALTER TABLE usage_rows UPDATE entry = unhex(repeat('ab', 32)) WHERE position = 3 SETTINGS mutations_sync = 2"
    )
    (difference,) = (await reconcile(clickhouse, audit, None)).differences
    assert difference.kind == "audit"
    assert "not the same ones" in difference.detail


async def test_an_identity_under_two_agents_or_counted_twice_is_found(clickhouse: ClickHouse, data: Path) -> None:
    logs = rated_logs(80)
    first = parse_event(logs[0].records[1][1].lines[0])
    logs[1].batch([logs[1].rich_event(event_id=first.id, source=first.source)])
    audit = write_audit_folder(data, logs)
    for log in logs:
        await _carry(clickhouse, log)
    found = await reconcile(clickhouse, audit, None)
    (difference,) = found.differences
    assert difference.kind == "identities"
    assert difference.detail.startswith(f"event {first.id!r} of {first.source!r} is under 2 agents: ")


async def test_stages_that_are_not_equally_far_are_compared_up_to_the_last_common_position(
    clickhouse: ClickHouse, data: Path
) -> None:
    log = rated_logs(80)[0]
    audit = write_audit_folder(data, [log])
    await _carry(clickhouse, log, last=8)
    Rollups(clickhouse).refresh()
    found = await reconcile(clickhouse, audit, None)
    assert found.holds
    assert found.up_to == {log.origin: log.records[7][1].header.size}
    # The audit folder behind the rows
    log.grow(3)
    await _carry(clickhouse, log)
    found = await reconcile(clickhouse, audit, None)
    assert (found.holds, found.differences) == (True, [])
    assert found.up_to[log.origin] < log.state.position
    assert found.behind["day"] > 0, "roll-ups say themselves how far they go"
    # A writer at work
    last = segments_of(log_folders(audit)[0])[-1]
    last.events.write_bytes(last.events.read_bytes()[:-5])
    found = await reconcile(clickhouse, audit, None)
    assert found.holds
    assert "not whole" in found.notes[0]


async def test_damage_in_the_audit_folder_is_a_difference(clickhouse: ClickHouse, data: Path) -> None:
    log = rated_logs(80)[0]
    audit = write_audit_folder(data, [log])
    await _carry(clickhouse, log)
    first = segments_of(log_folders(audit)[0])[0]
    first.events.write_bytes(first.events.read_bytes().replace(b'"acme"', b'"acmf"', 1))
    found = await reconcile(clickhouse, audit, None)
    assert _kinds(found)["audit"] == 1
    assert "meterproof verify" in found.differences[0].detail


async def test_clickhouse_is_made_again_from_files_alone(data: Path) -> None:
    logs = rated_logs(80)
    write_audit_folder(data, logs)
    size = sum(log.state.position for log in logs)
    books = [part for version in BOOKS for part in ("--price-book", str(data / f"book-{version}.json"))]
    done = run_meterproof("rebuild", "--json", *books, data=data)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["events"] == {log.origin: log.state.position for log in logs}
    with opened(data / "clickhouse") as clickhouse:
        for log in logs:
            assert assert_holds_exactly(clickhouse, log) == log.state.position
        assert one(clickhouse, "SELECT sum(events) FROM usage_by_day") == size
        cursor = await new_sink(clickhouse).cursor(1)
        assert cursor is not None
        assert cursor.log_offset == logs[1].records[-1][0], "the sink goes on where the folder ended"
        clickhouse.command("ALTER TABLE usage_rows DELETE WHERE position < 5 SETTINGS mutations_sync = 2")
    prometheus = data / "reconcile.prom"
    found = run_meterproof("reconcile", "--no-kafka", "--json", "--textfile", str(prometheus), data=data)
    assert found.returncode == 1, found.stderr
    assert set(json.loads(found.stdout)["by_kind"]) == {"audit", "rows", "rollups"}
    assert f'meterproof_reconcile_differences{{kind="rows"}} {PARTITIONS}.0' in prometheus.read_text()
    again = run_meterproof("rebuild", "--replace", *books, data=data)
    assert again.returncode == 0, again.stderr
    assert "events written" in again.stdout
    found = run_meterproof("reconcile", "--no-kafka", "--repair", "--json", data=data)
    assert (found.returncode, json.loads(found.stdout)["differences"]) == (0, 0)
    found = run_meterproof("reconcile", "--no-kafka", "--audit", str(data / "none"), data=data)
    assert (found.returncode, "0 differences. 4 could not be compared" in found.stdout) == (1, True)
    shutil.rmtree(data / "clickhouse")
    shutil.rmtree(data / "audit" / "prices")
    for wrong, said in ((["--audit", str(data / "none")], "holds no log"), ([], "price book")):
        told = run_meterproof("rebuild", *wrong, data=data)
        assert (told.returncode, told.stdout) == (1, ""), wrong
        assert said in told.stderr
        assert "Traceback" not in told.stderr


async def test_a_rebuild_that_was_cut_off_goes_on(clickhouse: ClickHouse, data: Path) -> None:
    log = rated_logs(80)[0]
    audit = write_audit_folder(data, [log])
    await _carry(clickhouse, log, last=7)
    rebuilt = await rebuild(clickhouse, audit, given_books(BOOKS))
    there = log.records[6][1].header.size
    assert (rebuilt.there, rebuilt.events) == ({log.origin: there}, {log.origin: log.state.position - there})
    assert (await reconcile(clickhouse, audit, None)).holds
    other = RatedLog(partition=0, partitions=PARTITIONS, seed=99)
    other.grow(12)
    shutil.rmtree(audit)
    write_audit_folder(data, [other])
    with pytest.raises(NotTheSame, match="--replace"):
        await rebuild(clickhouse, audit, given_books(BOOKS))
