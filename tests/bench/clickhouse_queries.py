"""How long the shipped queries take, and what an event weighs, over millions of rows: made inside the engine.

`python -m tests.bench.clickhouse_queries JOB` makes events over 30 days, as several parts, builds the roll-ups, runs
every query several times and prints what it found as JSON. Needs about 150 bytes of disk per row.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import orjson

from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.migrate import migrate
from meterproof_sinks.rollups import Rollups
from tests.bench.figure import Figure
from tests.bench.rig import Rig

ROWS: Final = 10_000_000
ROWS_QUICK: Final = 20_000
_TIMES: Final = 10
_TIMES_QUICK: Final = 2
_PATIENCE_MS: Final = 5_000
"""A query that took so long altogether is not asked again."""
_ROLLED_UP_TARGET_MS: Final = 200
_RAW_TARGET_MS: Final = 700
_DENSITY_TARGET_MS: Final = 10
QUERIES: Final = Path(__file__).parents[2] / "sinks" / "queries"
_DENSITY: Final = "SELECT positions, dense FROM density WHERE log = {log:String}"
_PARTS = 10
_LOG = "localhost/bench/" + "0f" * 16 + "/p0"
_EVENTS = """
INSERT INTO usage_rows (
  log, position, entry, event_time, append_time, id, source, agent, customer, operation, surface, status, provider,
  model,
  latency_us, session, run_id, parent_id, traceparent, usage, cost, currency, price_book, tags, salt, producer,
  instance, sequence, key_ids
)
SELECT
  {log:String},
  number AS position,
  SHA256(toString(number)),
  toDateTime64('2026-01-01 00:00:00', 6, 'UTC')
  + toIntervalMillisecond(intDiv(number * 2592000000, {rows:UInt64})),
  toDateTime64('2026-01-01 00:00:00', 3, 'UTC')
  + toIntervalMillisecond(intDiv(number * 2592000000, {rows:UInt64})),
  concat('event-', toString(number)),
  concat('gateway/', toString(number % 5)),
  concat('agent-', toString(cityHash64(number) % 200)),
  concat('customer-', toString(cityHash64(number) % 200 % 20)),
  ['chat', 'search', 'embed', 'plan'][1 + cityHash64(number, 1) % 4],
  'llm',
  if(cityHash64(number, 2) % 50 = 0, 'error', 'ok'),
  'openai',
  ['gpt-5', 'gpt-5-mini', 'gpt-4o'][1 + cityHash64(number, 3) % 3],
  cityHash64(number, 4) % 5000000,
  concat('session-', toString(intDiv(number, 40))),
  concat('run-', toString(intDiv(number, 200) % 5000)),
  if(intDiv(number, 200) % 5000 = 0, '', concat('run-', toString(intDiv(intDiv(number, 200) % 5000, 4)))),
  concat('00-', lower(hex(MD5(toString(intDiv(number, 8))))), '-00f067aa0ba902b7-01'),
  map('requests', 1, 'input_tokens', cityHash64(number, 5) % 8000, 'output_tokens', cityHash64(number, 6) % 2000),
  toDecimal128(cityHash64(number, 7) % 100000000, 12) / 1000000000,
  'USD',
  1,
  map('team', ['a', 'b', 'c'][1 + cityHash64(number, 8) % 3], 'project', ['x', 'y'][1 + cityHash64(number, 9) % 2]),
  reinterpretAsString(cityHash64(number, 10)),
  'gateway',
  'bench',
  intDiv(number, 100),
  ['key']
FROM numbers({first:UInt64}, {count:UInt64})
"""
_PROGRESS = """
INSERT INTO sink_progress (log, partition, epoch, log_offset, digest, next)
VALUES ({log:String}, 0, '', 1, '', {n:UInt64})
"""
_RECORD = """
INSERT INTO usage_records (log, log_offset, kind, append_time, clock_time, first, size, accepted)
VALUES ({log:String}, 1, 'batch', '2026-01-31 00:00:00', '2026-01-31 00:00:00', 0, {n:UInt64}, {n:UInt64})
"""


async def measure_queries(rig: Rig) -> list[Figure]:
    """The 95th percentile of every query in milliseconds, and bytes per row on disk."""
    rig.say(f"making {ROWS_QUICK if rig.quick else ROWS:,} rows and asking them")
    job = {
        "folder": str(rig.folder / "queries"),
        "rows": ROWS_QUICK if rig.quick else ROWS,
        "times": _TIMES_QUICK if rig.quick else _TIMES,
    }
    command = [sys.executable, "-m", "tests.bench.clickhouse_queries", orjson.dumps(job).decode()]
    with rig.started(command, everywhere=True) as process:
        found: dict[str, Any] = orjson.loads((await process.end()).splitlines()[-1])
    figures = [
        Figure(
            "queries",
            f"{name}, p95, from {'roll-ups' if rolled_up else 'raw rows'}",
            "ms",
            ("≤", _ROLLED_UP_TARGET_MS if rolled_up else _RAW_TARGET_MS),
            [p95_ms],
        )
        for name, (p95_ms, rolled_up) in found["queries"].items()
    ]
    figures.append(
        Figure("queries", "exact total of one log, p95", "ms", ("≤", _DENSITY_TARGET_MS), [found["density_ms"]])
    )
    figures.append(Figure("queries", "an event in ClickHouse", "bytes", None, [found["bytes_per_row"]]))
    figures.append(Figure("queries", "building the roll-ups of 30 days", "ms", None, [found["rollups_ms"]]))
    return figures


def _timed_ms(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return round(1000 * (time.perf_counter() - began_s), 1)


def _p95_ms(call: Callable[[], object], times: int) -> float:
    """Of so many calls, or of at least two where they take long; a first one, which finds nothing cached, left out."""
    found: list[float] = []
    call()
    while len(found) < 2 or (len(found) < times and sum(found) < _PATIENCE_MS):
        found.append(_timed_ms(call))
    return quantiles(found, n=20, method="inclusive")[18]


def make(clickhouse: ClickHouse, rows: int) -> float:
    """Make the tables and the rows; how many milliseconds the roll-ups took."""
    migrate(clickhouse)
    for part in range(_PARTS):
        values = {"log": _LOG, "rows": rows, "first": part * (rows // _PARTS), "count": rows // _PARTS}
        clickhouse.command(_EVENTS, values)
    clickhouse.command(_RECORD, {"log": _LOG, "n": rows})
    clickhouse.command(_PROGRESS, {"log": _LOG, "n": rows})
    return _timed_ms(Rollups(clickhouse).refresh)


def ask(clickhouse: ClickHouse, rows: int, times: int) -> dict[str, Any]:
    """Ask every query so often; (95th percentile in milliseconds, whether it reads roll-ups) by name, and sizes."""
    queries = {}
    for file in sorted(QUERIES.glob("*.sql")):
        sql = file.read_text("utf-8")
        p95_ms = _p95_ms(lambda sql=sql: clickhouse.raw(sql, "Null"), times)  # type: ignore[misc]
        queries[file.stem] = (p95_ms, "FROM usage_by_" in sql or "FROM usage_sums" in sql)
    density_ms = _p95_ms(lambda: clickhouse.rows(_DENSITY, {"log": _LOG}), times)
    found = clickhouse.rows(_DENSITY, {"log": _LOG})
    if found != [(rows, 1)]:
        raise SystemExit(f"the density check found (positions, dense) = {found}")
    ((size,),) = clickhouse.rows(
        "SELECT sum(data_compressed_bytes) / sum(rows) FROM system.parts "
        "WHERE active AND database = currentDatabase() AND table = 'usage_rows'"
    )
    return {"queries": queries, "density_ms": density_ms, "bytes_per_row": size}


def main(folder: str, rows: int, times: int) -> dict[str, Any]:
    """Make the rows and ask."""
    clickhouse = ClickHouse.open_folder(Path(folder))
    try:
        return {"rollups_ms": make(clickhouse, rows), **ask(clickhouse, rows, times)}
    finally:
        clickhouse.close()


if __name__ == "__main__":
    sys.stdout.write(orjson.dumps(main(**orjson.loads(sys.argv[1]))).decode() + "\n")
