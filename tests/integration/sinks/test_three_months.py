"""Three months of events, one kept, a customer under a hold: what goes is gone, and everything else still checks."""

import asyncio
import json
from datetime import date
from pathlib import Path

import pytest

from meterproof_proofs.commands.check import main as check
from meterproof_schemas.event import parse_event
from meterproof_schemas.price_book import encode_price_book
from meterproof_sinks.audit_copy import copy_audit
from meterproof_sinks.audit_fetch import fetch_audit
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.commands.audit import main as audit
from meterproof_sinks.commands.prove import main as prove
from meterproof_sinks.commands.rebuild import main as rebuild
from meterproof_sinks.commands.statement import main as statement
from meterproof_sinks.commands.verify import main as verify
from meterproof_sinks.disk import Disk
from meterproof_sinks.legal_holds import HOLDS_FILE, LegalHolds
from meterproof_sinks.object_store import ObjectStore
from meterproof_sinks.price_book_folder import keep_price_book
from meterproof_sinks.reconciliation import reconcile
from meterproof_sinks.retention import Retired, retire
from tests.builders import make_event
from tests.integration.sinks.clickhouse_folder import new_sink, one, opened
from tests.rated_log import BOOKS, RatedLog
from tests.sealed_folder import write_sealed_folder

pytestmark = pytest.mark.clickhouse

_DAY_MS = 86_400_000
_TODAY = date(2026, 5, 20)
"""When March is the month that is kept."""
_WHO = ["--by", "ops@example.com", "--reason", "policy 7"]


def _log() -> tuple[RatedLog, dict[str, range]]:
    """The log, and which positions came in in which month; `initech` has one event, late in February."""
    log = RatedLog(seed=17)
    months: dict[str, range] = {}
    for month, days in (("2026-01", 31), ("2026-02", 28), ("2026-03", 31)):
        first, begin_ms = log.state.position, log.clock_ms
        log.clock_ms += _DAY_MS
        log.grow(2)
        if month == "2026-02":
            log.clock_ms += 18 * _DAY_MS
            log.batch([make_event("held", subject=log.names[0], customer="initech", time_ms=log.clock_ms)])
            log.grow(1)
        months[month] = range(first, log.state.position)
        log.clock_ms = begin_ms + days * _DAY_MS
    log.clock_ms += _DAY_MS
    log.grow(2)  # April, so that March is sealed
    return log, months


def _retired(clickhouse: ClickHouse, data: Path) -> Retired:
    holds = LegalHolds(data / HOLDS_FILE).in_force
    return retire(clickhouse, _TODAY, raw_days=62, minute_days=None, holds=holds)


def _check(clickhouse: ClickHouse, data: Path, log: RatedLog, capsys: pytest.CaptureFixture[str]) -> int:
    """Assert that the folder verifies and both stores agree; the first position that the folder keeps."""
    assert verify([str(data), "--vkey", str(data / "log.vkey"), "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)["logs"]
    assert said["covered"] == log.state.position
    found = asyncio.run(reconcile(clickhouse, data / "audit", None))
    assert found.differences == []
    assert one(clickhouse, "SELECT dense FROM density") == 1
    assert one(clickhouse, "SELECT sum(events) FROM usage_by_day") == log.state.position
    return int(said["kept_from"])


def _proved(data: Path, event_id: str) -> int:
    """Exit code of making and checking a proof of an event."""
    out = data / "event.proof"
    made = prove([event_id, "--data", str(data), "--out", str(out)])
    return made or check([str(out), "--vkey", str(data / "log.vkey")])


def test_what_goes_is_gone_and_everything_else_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, months = _log()
    lines = [line for _, record in log.records for line in record.lines]
    of_march = parse_event(lines[months["2026-03"][-1]])
    data = tmp_path / "data"
    write_sealed_folder(data / "audit", log, bytes_max=10_000)
    (data / "log.vkey").write_text(log.signer.verifier.vkey + "\n")
    for book in BOOKS.values():
        keep_price_book(data / "audit", encode_price_book(book), Disk())
    copy_audit(data / "audit", ObjectStore(str(tmp_path / "copy")))
    where = ["--data", str(data)]
    assert audit(["hold", "add", "--customer", "initech", "--json", *_WHO, *where]) == 0
    hold = json.loads(capsys.readouterr().out)["hold"]
    give_up = ["retain", "--before", "2026-03-01", "--yes", "--json", *_WHO, *where]
    in_month = "SELECT count() FROM usage WHERE toYYYYMM(event_time) = {month:UInt32}"

    # Both stores keep what is held, and give up January
    assert audit(give_up) == 1
    (given_up,) = json.loads(capsys.readouterr().out)["logs"].values()
    assert hold in given_up["stopped_by"]
    held = next(number for number, line in enumerate(lines) if b'"initech"' in line)
    with opened(data / "clickhouse") as clickhouse:
        asyncio.run(new_sink(clickhouse).write(0, log.genesis, log.records))
        retired = _retired(clickhouse, data)
        assert 202601 in retired.months
        assert hold in retired.held["202602"]
        assert 0 < _check(clickhouse, data, log, capsys) <= held
        assert one(clickhouse, "SELECT count() FROM usage WHERE customer = 'initech'") == 1
        assert one(clickhouse, in_month, {"month": 202601}) == 0
    assert (_proved(data, "held"), _proved(data, of_march.id), _proved(data, "r1")) == (0, 0, 1)
    out = str(data / "a.statement")
    for month, code in (("2026-03", 0), ("2026-01", 1)):
        assert statement([of_march.data.customer, "--period", month, *where, "--out", out]) == code

    # ClickHouse can't be made again from the folder now, so it is let be; from the copy, which was kept, it can
    assert rebuild([*where, "--replace"]) == 1
    back = tmp_path / "back"
    fetch_audit(ObjectStore(str(tmp_path / "copy")), back / "audit")
    assert rebuild(["--data", str(back)]) == 0
    with opened(back / "clickhouse") as clickhouse:
        assert asyncio.run(reconcile(clickhouse, back / "audit", None)).holds

    # A hold that is lifted lets go
    assert audit(["hold", "remove", hold, *_WHO, *where]) == 0
    assert audit(give_up) == 0
    capsys.readouterr()
    with opened(data / "clickhouse") as clickhouse:
        assert _retired(clickhouse, data).months == [202602]
        assert held < _check(clickhouse, data, log, capsys) <= months["2026-03"][0]
        assert [one(clickhouse, in_month, {"month": month}) > 0 for month in (202602, 202603)] == [False, True]
