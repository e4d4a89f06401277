"""Grafana's dashboards: each panel's SQL runs, on the tables as they are, and shows what is there."""

import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof.kafka.reader import Record
from meterproof_schemas.budget import encode
from meterproof_sinks.followed_rows import alert_row
from meterproof_sinks.rollups import Rollups
from tests.alerts import alert
from tests.builders import NOW_MS
from tests.integration.sinks.clickhouse_folder import new_sink, opened
from tests.rated_log import RatedLog

pytestmark = pytest.mark.clickhouse

DASHBOARDS = Path(__file__).parents[3] / "sinks" / "dashboards"
_TIME_FILTER = re.compile(r"\$__timeFilter\((\w+)\)")
_EMPTY_IS_RIGHT = {"Quarantine", "Erasures", "Failures by status"}


def _panels() -> list[tuple[str, dict[str, Any]]]:
    return [
        (file.stem, panel)
        for file in sorted(DASHBOARDS.glob("*.json"))
        for panel in json.loads(file.read_text("utf-8"))["panels"]
    ]


async def test_every_panel_shows_what_is_there(tmp_path: Path) -> None:
    log = RatedLog(seed=15)
    log.grow(20)
    with opened(tmp_path / "clickhouse") as clickhouse:
        await new_sink(clickhouse).write(0, log.genesis, log.records)
        raised = Record(0, NOW_MS, append_time=True, key=b"", value=encode(alert("agent-1")))
        clickhouse.insert("usage_alerts", (), orjson.dumps(alert_row(0, raised)) + b"\n", "JSONEachRow", 1)
        Rollups(clickhouse).refresh()
        for dashboard, panel in _panels():
            (target,) = panel["targets"]
            # As the data source's macro does, over a time that holds everything.
            sql = _TIME_FILTER.sub(r"\1 >= toDateTime(0) AND \1 <= toDateTime(4102444800)", target["rawSql"])
            assert "$__" not in sql
            rows = [orjson.loads(line) for line in clickhouse.raw(sql, "JSONEachRow").splitlines()]
            assert rows or panel["title"] in _EMPTY_IS_RIGHT, (dashboard, panel["title"])
            if panel["type"] == "timeseries" and rows:
                assert {"time", "series"} < rows[0].keys(), (dashboard, panel["title"])
            if "spend" in (rows[0] if rows else {}):
                assert all(isinstance(row["spend"], str) for row in rows), "money is never a float"


def test_they_are_whole() -> None:
    files = sorted(DASHBOARDS.glob("*.json"))
    assert {file.stem for file in files} == {"spend", "calls", "integrity"}
    loaded = [json.loads(file.read_text("utf-8")) for file in files]
    assert len({dashboard["uid"] for dashboard in loaded}) == len(files)
    for dashboard, panel in _panels():
        assert panel["description"], (dashboard, panel["title"])
        assert panel["datasource"]["uid"] == "${datasource}"
    for one in loaded:
        assert len({panel["id"] for panel in one["panels"]}) == len(one["panels"])
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in one["panels"]]
        assert len(set(places)) == len(places), "no panel lies on another"
