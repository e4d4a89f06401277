"""Drawn histories of sinks that crash, stand still and come back leave every answer exact; see `drawn_history`."""

import random
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from meterproof_sinks.clickhouse import ClickHouse, ClickHouseUnavailable
from meterproof_sinks.retention import RAW_DAYS_MIN, NotRolledUp, retire
from tests.integration.sinks.clickhouse_folder import migrated, one, opened
from tests.integration.sinks.clickhouse_server import served
from tests.integration.sinks.drawn_history import EVERYTHING, History, drawn_steps, refused, run_history

pytestmark = pytest.mark.clickhouse

_SEEDS = (1013, 1007)
_SERVER_SEED = 82
_STEPS = 12


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[ClickHouse]:
    with opened(tmp_path / "clickhouse") as database:
        yield database


@pytest.mark.slow
def test_drawn_histories_are_exact_at_every_step(clickhouse: ClickHouse, tmp_path: Path) -> None:
    erased = set()
    for seed in _SEEDS:
        erased |= run_history(clickhouse, drawn_steps(seed, _STEPS), tmp_path / "history").names_erased
    assert len(erased) > 1


@pytest.mark.slow
def test_drawn_histories_of_a_server_are_exact_too(tmp_path: Path) -> None:
    """Where inserts and builders of others are waited for, and replicas could be."""
    migrated(tmp_path / "clickhouse")
    with served(tmp_path / "clickhouse") as server, closing(ClickHouse.connect(server.url)) as clickhouse:
        run_history(clickhouse, drawn_steps(_SERVER_SEED, _STEPS), tmp_path / "history")


def test_what_a_late_sink_brings_back_is_seen(clickhouse: ClickHouse, tmp_path: Path) -> None:
    """As it was before there was a guard: rows of an erased name, from a sink that had stood still meanwhile."""
    ((query,),) = clickhouse.rows(
        "SELECT as_select FROM system.tables WHERE database = currentDatabase() AND name = 'event_lines_rows'"
    )
    guarded, _, _ = query.rpartition(" WHERE ")
    assert "logs_with_gone" not in guarded
    history = History(clickhouse, tmp_path)
    try:
        for seed in range(3):
            history.do_grow(random.Random(seed))
        in_time, late, *_ = history.writers
        history.carry(late, dict.fromkeys(EVERYTHING, 1))
        history.carry(in_time, EVERYTHING)
        history.do_erase(random.Random(1))
        assert history.oracle.erased
        history.check()
        clickhouse.command(f"ALTER TABLE event_lines_rows MODIFY QUERY {guarded}")
        history.carry(late, EVERYTHING)
        with pytest.raises(AssertionError, match="usage"):
            history.check()
    finally:
        history.close()


def test_a_rebuild_brings_back_nothing_erased_that_a_torn_write_left(
    clickhouse: ClickHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sink was cut off behind its events and never came back; a name was erased; the audit folder has the rest."""
    monkeypatch.setattr("meterproof_sinks.row_deletion.POSITIONS_MAX", 2)
    history = History(clickhouse, tmp_path)
    try:
        for seed in range(3):
            history.do_grow(random.Random(seed))
        torn, *_ = history.writers
        history.carry(torn, dict.fromkeys(EVERYTHING, 3))
        torn.database.appoint(2, refused)
        with pytest.raises(ClickHouseUnavailable):
            history.carry(torn, EVERYTHING)
        history.check()
        history.erase(clickhouse, "customer", "c-ash")
        assert one(clickhouse, "SELECT countIf(customer = 'c-ash') FROM usage") == 0
        assert one(clickhouse, "SELECT countIf(customer = 'c-ash') FROM usage_rows") > 2, "above the progress row"
        history.add_from_audit()
        history.check()
        history.finish()
    finally:
        history.close()


def test_events_that_come_while_their_month_is_given_up_are_not_lost(
    clickhouse: ClickHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a log that lags behind and was said to be complete: after the roll-ups were looked at, and before the drop."""
    history = History(clickhouse, tmp_path)
    try:
        history.do_grow(random.Random(0))
        in_time, lagging, *_ = history.writers
        history.carry(in_time, {0: 10_000})
        held = one(clickhouse, "SELECT count() FROM usage")
        months = [one(clickhouse, "SELECT DISTINCT toUInt32(toYYYYMM(event_time)) FROM usage")]
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(
                "meterproof_sinks.retention.wait_for_builders", lambda _: history.carry(lagging, EVERYTHING)
            )
            with pytest.raises(NotRolledUp, match="meanwhile"):
                _retire(history)
        assert one(clickhouse, "SELECT count() FROM usage") > held > 0
        history.check()
        assert _retire(history) == months
        history.oracle.given_up.update(months)
        history.check()
    finally:
        history.close()


def _retire(history: History) -> list[int]:
    logs = [log.origin for log in history.logs]
    today = date(2026, 4, 15)
    return retire(history.clickhouse, today, raw_days=RAW_DAYS_MIN, minute_days=None, complete=logs).months
