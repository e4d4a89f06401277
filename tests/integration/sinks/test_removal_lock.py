"""Those who take rows away from one server do so one at a time."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.erasure import new_erasure
from meterproof_sinks.removal_lock import removal_lock
from meterproof_sinks.retention import RAW_DAYS_MIN, retire
from meterproof_sinks.retired_notes import still_true
from meterproof_sinks.row_erasure import erase_rows
from tests.builders import NOW_MS
from tests.integration.sinks.clickhouse_folder import RECONCILIATION, migrated, new_sink, one
from tests.integration.sinks.clickhouse_server import ClickHouseServer, served
from tests.rated_log import RatedLog

pytestmark = pytest.mark.clickhouse

_TABLES = "SELECT name FROM system.tables WHERE database = currentDatabase() AND startsWith(name, 'removal_lock_')"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClickHouseServer]:
    migrated(tmp_path / "clickhouse")
    with served(tmp_path / "clickhouse") as running:
        yield running


async def test_an_erasure_that_begins_when_a_month_is_about_to_be_dropped_waits(
    server: ClickHouseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RatedLog(seed=61)
    log.grow(25)
    log.tick(2 * 86_400_000)
    erasure = new_erasure("customer", "globex", requested_by="a", reason="b", now_ms=NOW_MS, random_bytes=os.urandom)
    with closing(ClickHouse.connect(server.url)) as clickhouse, closing(ClickHouse.connect(server.url)) as another:
        await new_sink(clickhouse).write(0, log.genesis, log.records)
        assert one(clickhouse, "SELECT count() FROM usage WHERE toYYYYMM(event_time) = 202512 AND customer = 'globex'")
        eraser = threading.Thread(target=erase_rows, args=(another, erasure))

        def looked(*args: Any) -> bool:
            last_look = still_true(*args)
            eraser.start()
            eraser.join(3)  # as long as it likes, if it does not wait
            return last_look

        monkeypatch.setattr("meterproof_sinks.retention.still_true", looked)
        retired = retire(clickhouse, date(2026, 4, 15), raw_days=RAW_DAYS_MIN, minute_days=None)
        eraser.join()
        assert 202512 in retired.months
        assert clickhouse.rows("SELECT dense, positions FROM density") == [(1, log.state.position)]
        assert one(clickhouse, "SELECT sum(events) FROM usage_retired FINAL") == retired.events
        assert one(clickhouse, "SELECT countIf(customer = 'globex') FROM usage_by_day") == 0
        assert clickhouse.rows(RECONCILIATION) == []
        assert clickhouse.rows(_TABLES) == []


def test_whoever_is_there_is_waited_for_and_told_if_he_stays(server: ClickHouseServer) -> None:
    with closing(ClickHouse.connect(server.url)) as clickhouse:
        with removal_lock(clickhouse):
            ((name,),) = clickhouse.rows(_TABLES)
            told = r"left its table `removal_lock_…` .*; run it again"
            with pytest.raises(ClickHouseError, match=told), removal_lock(clickhouse, patience_s=0.5):
                pytest.fail("two at once")
            assert clickhouse.rows(_TABLES) == [(name,)]
        assert clickhouse.rows(_TABLES) == []


def test_what_a_crash_left_goes_after_its_time(server: ClickHouseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(ClickHouse.connect(server.url)) as clickhouse:
        clickhouse.command("CREATE TABLE removal_lock_left (nothing UInt8) ENGINE = Null")
        monkeypatch.setattr("meterproof_sinks.removal_lock._AGE_S", 0)
        with removal_lock(clickhouse):
            assert "removal_lock_left" not in {name for (name,) in clickhouse.rows(_TABLES)}
