"""Deleting rows ends: when they are gone, or with a word why they are not."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meterproof_sinks.clickhouse import ClickHouse, ClickHouseUnavailable
from meterproof_sinks.row_deletion import delete_rows
from tests.integration.sinks.clickhouse_folder import migrated, one, opened
from tests.integration.sinks.clickhouse_server import served

pytestmark = pytest.mark.clickhouse

_SMALL = "events < 500"


@pytest.fixture(params=["folder", "server"])
def clickhouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClickHouse]:
    folder = tmp_path / "clickhouse"
    if request.param == "folder":
        with opened(folder) as database:
            yield database
    else:
        migrated(folder)
        with served(folder) as server, contextlib.closing(ClickHouse.connect(server.url)) as database:
            yield database


@pytest.fixture
def rows(clickhouse: ClickHouse) -> None:
    clickhouse.command(
        "INSERT INTO usage_retired (log, month, events) SELECT toString(number), 202601, number FROM numbers(1000)"
    )


@pytest.mark.usefixtures("rows")
def test_the_rows_are_gone_when_it_returns(clickhouse: ClickHouse) -> None:
    delete_rows(clickhouse, "usage_retired", _SMALL, {})
    assert clickhouse.rows("SELECT count(), min(events) FROM usage_retired") == [(500, 500)]
    delete_rows(clickhouse, "usage_retired", "month = {month:UInt32}", {"month": 202601})
    assert one(clickhouse, "SELECT count() FROM usage_retired") == 0
    delete_rows(clickhouse, "usage_retired", "1", {})


@pytest.mark.usefixtures("rows")
def test_where_merges_are_stopped_it_says_so_and_another_try_ends_it(clickhouse: ClickHouse) -> None:
    clickhouse.command("SYSTEM STOP MERGES usage_retired")
    with pytest.raises(ClickHouseUnavailable, match=r"`SYSTEM START MERGES usage_retired`.* run it again"):
        delete_rows(clickhouse, "usage_retired", _SMALL, {}, patience_s=0.5)
    assert one(clickhouse, "SELECT count() FROM usage_retired") == 1000
    clickhouse.command("SYSTEM START MERGES usage_retired")
    delete_rows(clickhouse, "usage_retired", _SMALL, {})
    assert one(clickhouse, "SELECT count() FROM usage_retired") == 500


@pytest.mark.usefixtures("rows")
def test_a_file_that_fails_again_and_again_is_told_with_the_engines_word(clickhouse: ClickHouse) -> None:
    with pytest.raises(ClickHouseUnavailable, match=r"for 1 s the engine wrote none .*\(Code: .*FUNCTION_THROW_IF"):
        delete_rows(clickhouse, "usage_retired", "throwIf(events = 7)", {}, patience_s=1)
    clickhouse.command("KILL MUTATION WHERE database = currentDatabase() AND table = 'usage_retired'")
    delete_rows(clickhouse, "usage_retired", _SMALL, {})
    assert one(clickhouse, "SELECT count() FROM usage_retired") == 500


@pytest.mark.usefixtures("rows")
def test_a_deletion_that_somebody_took_back_is_not_taken_for_done(clickhouse: ClickHouse) -> None:
    clickhouse.command("SYSTEM STOP MERGES usage_retired")
    failed: list[str] = []

    def delete() -> None:
        with pytest.raises(ClickHouseUnavailable) as raised:
            delete_rows(clickhouse, "usage_retired", _SMALL, {})
        failed.append(str(raised.value))

    deletion = threading.Thread(target=delete)
    deletion.start()
    while not one(clickhouse, "SELECT count() FROM system.mutations WHERE table = 'usage_retired'"):
        time.sleep(0.01)
    time.sleep(1)
    clickhouse.command("KILL MUTATION WHERE database = currentDatabase() AND table = 'usage_retired'")
    deletion.join()
    clickhouse.command("SYSTEM START MERGES usage_retired")
    assert failed == ["rows of usage_retired are not deleted: somebody took that back; run it again"]
    assert one(clickhouse, "SELECT count() FROM usage_retired") == 1000
