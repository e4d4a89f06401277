"""With corrections every shipped query answers what it does of the events that stand, whatever was rolled up when."""

import os
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof_schemas.correction import correction_line
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.erasure import new_erasure
from meterproof_sinks.rollups import Rollups
from meterproof_sinks.row_erasure import erase_rows
from tests.builders import NOW_MS, make_genesis_record, make_limits
from tests.integration.sinks.clickhouse_folder import RECONCILIATION, new_sink, opened
from tests.integration.sinks.test_shipped_queries import _answer, _assert_counted, _counted, _trace
from tests.rated_log import RatedLog

pytestmark = pytest.mark.clickhouse

_BATCH = 50


def _corrected(lines: list[bytes], draw: random.Random) -> tuple[list[list[bytes]], list[bytes]]:
    """Batches of events and of their corrections, and the lines that stand in the end."""
    batches: list[list[bytes]] = []
    standing: list[bytes] = []
    late: list[bytes] = []
    for first in range(0, len(lines), _BATCH):
        batch: list[bytes] = []
        for line in lines[first : first + _BATCH]:
            batch.append(line)
            fate = draw.random()
            if fate > 0.3:
                standing.append(line)
                continue
            name, void = f"c{len(batches)}.{len(batch)}", fate < 0.15
            usage = orjson.loads(line)["data"]["usage"]
            usage = usage if void else usage | {"output_tokens": draw.randrange(10**6)}
            kind = "void" if void else "replace"
            correction = correction_line(line, correction_id=name, kind=kind, salt="0" * 32, usage=usage)
            again = correction_line(line, correction_id=f"{name}.again", kind="void", salt="0" * 32)
            (late if draw.random() < 0.7 else batch).extend([correction, again])
            if not void:
                standing.append(correction)
        batches.append(batch)
    unknown = correction_line(
        orjson.dumps(orjson.loads(lines[0]) | {"id": "never"}), correction_id="u", kind="void", salt="0" * 32
    )
    draw.shuffle(late)
    # What is corrected twice is so by the first of the two, wherever they stand.
    late.sort(key=lambda line: orjson.loads(line)["id"].endswith(".again"))
    batches += [[*late[first : first + _BATCH], unknown] for first in range(0, len(late), _BATCH)]
    return batches, standing


def _without_text(line: bytes) -> bytes:
    """The line as the script that knows of no corrections reads it."""
    document = orjson.loads(line)
    document["data"].pop("corrects", None)
    return orjson.dumps(document)


async def test_every_shipped_query_tells_of_what_stands(tmp_path: Path) -> None:
    log = RatedLog(seed=13, genesis_value=make_genesis_record(limits=make_limits(corrections=True)))
    batches, standing = _corrected(_trace(log), random.Random(5))
    for batch in batches:
        log.batch(batch)
    effects = [effect for _, record in log.records for effect in record.header.effects.values()]
    assert set(effects) == {"applied", "already_corrected", "unknown_target"}
    expected = _counted([_without_text(line) for line in standing], tmp_path)
    with opened(tmp_path / "clickhouse") as clickhouse:
        sink, rollups = new_sink(clickhouse), Rollups(clickhouse)
        await sink.cursor(0)
        await sink.write(0, log.genesis, log.records[:9])
        rollups.refresh()
        await sink.write(0, log.genesis, log.records[9:])
        _assert_counted(clickhouse, log, expected, behind=True)  # corrections of what was rolled up, not yet rolled up
        rollups.refresh()
        _assert_counted(clickhouse, log, expected)
        assert clickhouse.rows(RECONCILIATION) == []
        _assert_erased(clickhouse, log, standing, tmp_path)


def _assert_erased(clickhouse: ClickHouse, log: RatedLog, standing: list[bytes], folder: Path) -> None:
    """Whoever is erased is so with all corrections."""
    request = new_erasure("customer", "globex", requested_by="a", reason="b", now_ms=NOW_MS, random_bytes=os.urandom)
    erase_rows(clickhouse, request)
    kept = [line for line in standing if orjson.loads(line)["data"]["customer"] != "globex"]
    _assert_counted(clickhouse, log, _counted([_without_text(line) for line in kept], folder))
    left: list[dict[str, Any]] = _answer(clickhouse, "corrections")
    assert left
