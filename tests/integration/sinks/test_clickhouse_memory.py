"""What the engine takes of memory has bounds, whatever a folder holds and whatever is asked of it."""

from contextlib import closing
from pathlib import Path

import pytest

from meterproof_sinks.clickhouse import ENGINE_MEMORY_MIB, ClickHouse, ClickHouseUnavailable
from meterproof_sinks.rollups import _SETTINGS as ROLLUP_SETTINGS
from tests.integration.sinks.clickhouse_folder import opened

pytestmark = pytest.mark.clickhouse

_BOUND = "SELECT getSetting('max_bytes_before_external_group_by')"
_SPILLED = "SELECT sum(value) FROM system.events WHERE event = 'ExternalAggregationWritePart'"
_GROUPS = "SELECT number AS n, count() FROM numbers(300000) GROUP BY n"
_ENGINE = "SELECT name, toUInt64(value) FROM system.server_settings WHERE name IN ({names:Array(String)})"
_MIB = 1024**2


def test_what_builds_roll_ups_groups_in_a_quarter_of_a_gibibyte_and_on_the_disk(tmp_path: Path) -> None:
    # As `keep_rollups` does: over a connection of its own.
    with opened(tmp_path / "clickhouse") as clickhouse, closing(clickhouse.another()) as connection:
        assert connection.rows(_BOUND) == [(1024 * _MIB,)]
        assert connection.rows(f"{_BOUND} {ROLLUP_SETTINGS}") == [(256 * _MIB,)]
        ((before,),) = connection.rows(_SPILLED)
        settings = "SETTINGS max_threads = 1, max_bytes_before_external_group_by = 1000000"
        assert connection.rows(f"SELECT count() FROM ({_GROUPS}) {settings}") == [(300_000,)]
        assert connection.rows(_SPILLED)[0][0] > before


def test_caches_and_the_engine_as_a_whole_have_bounds(tmp_path: Path) -> None:
    bounds = {
        "max_server_memory_usage": ENGINE_MEMORY_MIB * _MIB,
        "mark_cache_size": 128 * _MIB,
        "index_mark_cache_size": 32 * _MIB,
        "query_condition_cache_size": 16 * _MIB,
        "uncompressed_cache_size": 0,
    }
    with opened(tmp_path / "clickhouse") as clickhouse:
        found = dict(clickhouse.rows(_ENGINE, {"names": list(bounds)}))
    assert 0 < found.pop("max_server_memory_usage") <= bounds.pop("max_server_memory_usage")
    assert found == bounds


def test_what_needs_more_than_the_engine_may_hold_is_refused_and_nothing_else_is(tmp_path: Path) -> None:
    with closing(ClickHouse.open_folder(tmp_path / "clickhouse", memory_mib=256)) as clickhouse:
        with pytest.raises(ClickHouseUnavailable, match="memory limit exceeded"):
            clickhouse.rows(
                "SELECT length(groupArray(repeat('x', 100000))) FROM numbers(4000) SETTINGS max_threads = 1"
            )
        assert clickhouse.rows("SELECT count() FROM numbers(1000)") == [(1000,)]
