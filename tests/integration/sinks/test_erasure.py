"""Erased events are gone from files and rows, and everything that was ever proved goes on holding."""

import asyncio
import json
import os
import shutil
from datetime import date
from decimal import Decimal
from pathlib import Path

import orjson
import pytest

from meterproof_proofs.key_files import read_verifiers
from meterproof_proofs.note import Signer
from meterproof_schemas.event import entry_of, parse_event
from meterproof_sinks.audit_folder import log_folder_name, segments_of
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseUnavailable
from meterproof_sinks.erasure import new_erasure
from meterproof_sinks.log_total import LogTotal, log_total
from meterproof_sinks.rebuilding import given_books, rebuild
from meterproof_sinks.reconciliation import reconcile
from meterproof_sinks.retention import retire
from meterproof_sinks.rollups import Rollups
from meterproof_sinks.row_erasure import erase_rows
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.verification import verify_folder
from meterproof_sinks.verification_inputs import load_producers
from tests.builders import make_registry_file
from tests.integration.sinks.clickhouse_folder import RECONCILIATION, assert_holds_exactly, new_sink, one, opened
from tests.log_builder import signed_pair
from tests.meterproof_command import run_meterproof
from tests.rated_log import BOOKS, RatedLog, costs

pytestmark = pytest.mark.clickhouse

_SEED = b"\7" * 32


def _deployed(data: Path) -> RatedLog:
    """An audit folder with signed checkpoints and published tiles, and its keys."""
    log = RatedLog(seed=91)
    log.grow(15)
    folder = data / "audit" / log_folder_name(log.origin)
    writer = AuditLog(folder, log.origin, 0, limits=SegmentLimits(bytes_max=20_000))
    writer.append(log.records)
    writer.take_checkpoints(signed_pair(log, -2, seed=_SEED))
    writer.close()
    (data / "keys").mkdir()
    (data / "keys" / "log.vkey").write_text(Signer(log.origin, _SEED).verifier.vkey + "\n")
    (data / "keys" / "registry.json").write_bytes(make_registry_file(log.key))
    return log


def _verify(data: Path) -> dict[str, object]:
    verifiers, producers = read_verifiers(data / "keys" / "log.vkey"), load_producers(data / "keys" / "registry.json")
    report = verify_folder(data, verifiers, producers)
    assert report.holds, report.all_faults
    (log,) = report.logs
    return log.as_json()


def _kept_by_the_engine(clickhouse: ClickHouse, name: bytes) -> list[Path]:
    """Files with a name in them, of those that the engine reads or keeps for good: parts and the text of deletions.

    Parts that were replaced go some minutes later.
    """
    parts = clickhouse.rows("SELECT path FROM system.parts WHERE active AND database = currentDatabase()")
    files = [file for (part,) in parts for file in _files_under(Path(part))]
    deletions = [file for file in _files_under(clickhouse.folder) if file.match("mutation_*.txt")]
    return [file for file in (*files, *deletions) if _has(file, name)]


def _files_under(folder: Path) -> list[Path]:
    """List files of a folder whose folders the engine may take away at any moment, which `Path.rglob` does not take."""
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def _has(file: Path, name: bytes) -> bool:
    """Say whether a file has a name in it; the engine may take the file away at any moment, and then it has none."""
    try:
        return name in file.read_bytes()
    except FileNotFoundError:
        return False


async def test_lines_and_rows_are_gone_and_every_proof_holds(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    log = _deployed(data)
    lines = [line for _, record in log.records for line in record.lines]
    events = [parse_event(line) for line in lines]
    gone = [position for position, event in enumerate(events) if event.data.customer == "globex"]
    kept = sorted(set(range(len(lines))) - set(gone))
    assert gone
    assert kept
    before = _verify(data)
    published = {path: path.read_bytes() for path in sorted((data / "audit").rglob("tlog*/**/*")) if path.is_file()}
    with opened(data / "clickhouse") as clickhouse:
        sink = new_sink(clickhouse)
        await sink.cursor(0)
        await sink.write(0, log.genesis, log.records)
        Rollups(clickhouse).refresh()
        assert _kept_by_the_engine(clickhouse, b"globex"), "so it can be seen in files"
    (folder,) = [path for path in (data / "audit").iterdir() if path.is_dir()]
    torn = folder / f"{0:020}.jsonl.1.torn"
    torn.write_bytes(lines[gone[0]][:50])

    asked = ["--customer", "globex", "--by", "privacy@example.com", "--reason", "request 17", "--json"]
    refused = run_meterproof("erase", *asked, data=data)
    assert refused.returncode == 1, "nobody is there to be asked, so nothing is done"
    assert "Nothing was done, since nobody said yes" in refused.stderr
    assert not (data / "erasures.jsonl").exists()
    done = run_meterproof("erase", *asked, "--yes", data=data)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["audit"], said["clickhouse"]) == ({log.origin: len(gone)}, len(gone))

    # The files
    found = [line for segment in segments_of(folder) for line in segment.events.read_bytes().splitlines()]
    assert [found[position] for position in kept] == [lines[position] for position in kept]
    assert [orjson.loads(found[position]) for position in gone] == [
        {"erased": entry_of(lines[position]).hex()} for position in gone
    ]
    assert not torn.exists()
    assert not any(b"globex" in path.read_bytes() for path in data.joinpath("audit").rglob("*") if path.is_file())
    # Every proof
    after = _verify(data)
    assert after["erased"] == len(gone)
    for what in ("records", "events", "covered", "signatures", "batch_roots", "tlog", "checkpoint"):
        assert after[what] == before[what], what
    assert {path: path.read_bytes() for path in published} == published
    # Who asked, and not whom it was about
    asked_for, noted = [json.loads(line) for line in (data / "erasures.jsonl").read_text().splitlines()]
    assert (asked_for["state"], noted["state"], noted["requested_by"]) == ("asked", "done", "privacy@example.com")
    assert "globex" not in (data / "erasures.jsonl").read_text()
    # The rows
    with opened(data / "clickhouse") as clickhouse:
        assert [row[0] for row in clickhouse.rows("SELECT position FROM usage ORDER BY position")] == kept
        spend = sum((cost for position, cost in enumerate(costs(log.records)) if position in set(kept)), Decimal(0))
        for table in ("usage", "usage_by_minute", "usage_by_hour", "usage_by_day"):
            assert one(clickhouse, f"SELECT sum(cost) FROM {table}") == spend
            assert one(clickhouse, f"SELECT countIf(customer = 'globex') FROM {table}") == 0
        assert not _kept_by_the_engine(clickhouse, b"globex")
        assert one(clickhouse, "SELECT dense FROM density") == 1
        total = log_total(clickhouse, log.origin)
        assert total == LogTotal(log.state.position, log.state.position - 1, dense=True)
        assert clickhouse.rows("SELECT requested_by, reason, kind, events FROM erasures") == [
            ("privacy@example.com", "request 17", "customer", len(gone))
        ]
        assert clickhouse.rows(RECONCILIATION) == []
        assert (await reconcile(clickhouse, data / "audit", None, given_books=BOOKS)).holds
    # The writer goes on behind it, and a database that is made again knows nothing of it
    log.grow(3)
    writer = AuditLog(folder, log.origin, 0, limits=SegmentLimits(bytes_max=20_000))
    assert writer.cursor is not None
    writer.append([item for item in log.records if item[0] > writer.cursor.log_offset])
    writer.take_checkpoints(signed_pair(log, seed=_SEED))
    writer.close()
    assert _verify(data)["covered"] == log.state.position
    shutil.rmtree(data / "clickhouse")
    with opened(data / "clickhouse") as clickhouse:
        await rebuild(clickhouse, data / "audit", given_books(BOOKS))
        assert one(clickhouse, "SELECT count() FROM usage_erased") == len(gone)
        assert clickhouse.rows("SELECT requested_by, reason, kind, events FROM erasures") == [
            ("privacy@example.com", "request 17", "customer", len(gone))
        ]
        assert (await reconcile(clickhouse, data / "audit", None, given_books=BOOKS)).holds


async def test_roll_ups_lose_the_name_after_a_crash_and_in_months_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the rows went, before the days were built again: the next run knows the days by the roll-ups.

    Nor does it stay in what a builder left there that was killed before.
    """
    log = RatedLog(seed=92)
    log.grow(6)
    log.clock_ms += 20 * 86_400_000
    log.grow(6)
    with opened(tmp_path / "clickhouse") as clickhouse:
        sink = new_sink(clickhouse)
        await sink.cursor(0)
        await sink.write(0, log.genesis, log.records)
        Rollups(clickhouse).refresh()
        assert retire(clickhouse, date(2026, 3, 15), raw_days=62, minute_days=None).months == [202512]
        others = (
            "SELECT toYYYYMM(start) AS month, sum(cost) FROM usage_by_day WHERE customer != 'globex' GROUP BY month"
        )
        kept = sorted(clickhouse.rows(others))
        assert len(kept) == 2
        clickhouse.command("CREATE TABLE staging_left_behind AS usage_days")
        clickhouse.command("INSERT INTO staging_left_behind SELECT * FROM usage_days WHERE customer = 'globex'")

        def killed(*_: object) -> None:
            raise ClickHouseUnavailable("killed")

        monkeypatch.setattr(Rollups, "rebuild", killed)
        for attempt in range(2):
            asked = new_erasure("customer", "globex", requested_by="a", reason="b", now_ms=1, random_bytes=os.urandom)
            if attempt == 0:
                with pytest.raises(ClickHouseUnavailable):
                    erase_rows(clickhouse, asked)
                monkeypatch.undo()
                assert one(clickhouse, "SELECT countIf(customer = 'globex') FROM usage") == 0
            else:
                erase_rows(clickhouse, asked)
        for table in ("usage_minutes", "usage_hours", "usage_days"):
            assert one(clickhouse, f"SELECT countIf(customer = 'globex') FROM {table}") == 0, table
        assert sorted(clickhouse.rows(others)) == kept
        assert clickhouse.rows("EXISTS TABLE staging_left_behind") == [(0,)]
        assert one(clickhouse, "SELECT dense FROM density") == 1


def test_what_was_set_aside_and_is_no_event_goes_where_it_has_the_name(tmp_path: Path) -> None:
    rows = {
        0: ("usage_alerts", '{"scope":"customer","subject":"globex","of":"nobody\\u0027s"}'),
        1: ("usage_alerts", '{"scope":"customer","subject":"globex2"} globex'),
        2: ("usage_alerts", 'no JSON: "globex"'),
        3: ("record", '{"source":null}'),
        4: ("event", '{"data":{"customer":"globex"}}'),
        5: ("event", '{"subject":"globex","data":{"customer":"initech"}}'),
    }
    asked = new_erasure("customer", "globex", requested_by="a", reason="b", now_ms=1, random_bytes=os.urandom)
    with opened(tmp_path / "clickhouse") as clickhouse:
        for position, (kind, row) in rows.items():
            clickhouse.command(
                "INSERT INTO quarantine (log, kind, position, row) "
                "VALUES ('x', {kind:String}, {position:UInt64}, {row:String})",
                {"kind": kind, "position": position, "row": row},
            )
        erase_rows(clickhouse, asked)
        assert clickhouse.rows("SELECT position FROM quarantine ORDER BY position") == [(1,), (3,), (5,)]
        assert clickhouse.rows("SELECT position FROM usage_erased") == [(4,)]


async def test_names_in_deletions_of_earlier_builds_are_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path / "clickhouse") as clickhouse:
        for table in ("usage_rows", "usage_days"):  # the engine tidies up each second, in place of each half minute
            clickhouse.command(
                f"ALTER TABLE {table} MODIFY SETTING cleanup_delay_period = 1, cleanup_delay_period_random_add = 0, "
                "max_cleanup_delay_period = 1"
            )
            clickhouse.command(f"DETACH TABLE {table}")  # it reads that when it begins with a table
            clickhouse.command(f"ATTACH TABLE {table}")
        log = RatedLog(seed=92)
        log.grow(5)
        await new_sink(clickhouse).write(0, log.genesis, log.records)
        Rollups(clickhouse).refresh()
        for table in ("usage_rows", "usage_days"):
            for least in (0, 1):
                clickhouse.command(
                    f"ALTER TABLE {table} DELETE WHERE customer = 'nobody' AND {least} = 1 SETTINGS mutations_sync = 2"
                )
        assert len(_kept_by_the_engine(clickhouse, b"nobody")) == 4
        asked = new_erasure("customer", "nobody", requested_by="a", reason="b", now_ms=1, random_bytes=os.urandom)
        assert erase_rows(clickhouse, asked) == (0, 0)
        async with asyncio.timeout(240):
            while _kept_by_the_engine(clickhouse, b"nobody"):  # noqa: ASYNC110 - the engine's own time
                await asyncio.sleep(0.1)
        assert assert_holds_exactly(clickhouse, log) == log.state.position


async def test_a_changed_line_is_no_erased_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    log = _deployed(data)
    (folder,) = [path for path in (data / "audit").iterdir() if path.is_dir()]
    first = segments_of(folder)[0].events
    lines = first.read_bytes().split(b"\n")
    verifiers = read_verifiers(data / "keys" / "log.vkey")
    for forged in (b'{"erased":"%s"}' % (b"ab" * 32), b'{"erased":"%s" }' % entry_of(lines[2]).hex().encode()):
        first.write_bytes(b"\n".join([*lines[:2], forged, *lines[3:]]))
        assert not verify_folder(data, verifiers).holds, forged
    # Beside a line that was erased rightly, no other may change
    right = b'{"erased":"%s"}' % entry_of(lines[2]).hex().encode()
    first.write_bytes(b"\n".join([*lines[:2], right, *lines[3:]]))
    assert verify_folder(data, verifiers).holds
    other = lines[4][:-2] + b" }}"
    assert orjson.loads(other) == orjson.loads(lines[4])
    first.write_bytes(b"\n".join([*lines[:2], right, lines[3], other, *lines[5:]]))
    assert not verify_folder(data, verifiers).holds
    assert log.records


async def test_wrong_usage_is_told_as_such(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    assert run_meterproof("erase", "--by", "me", "--reason", "why", data=data).returncode == 2
