"""How long the shipped queries take, and what the tables weigh, over millions of rows.

    python -m tests.bench.clickhouse_queries [ROWS] [FOLDER]

Makes ROWS (10 million by default) events over 30 days inside the engine, as several parts, builds the roll-ups, and
prints one JSON object: milliseconds (median of 3) by query, bytes per row by table and by column. Needs about 150 bytes
of disk per row.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.migrate import migrate
from meterproof_sinks.rollups import Rollups

QUERIES = Path(__file__).parents[2] / "sinks" / "queries"
_PARTS = 10
_LOG = "localhost/bench/" + "0f" * 16 + "/p0"
_EVENTS = """
INSERT INTO usage_events (
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


def _timed_ms(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return round(1000 * (time.perf_counter() - began_s), 1)


def measure(folder: Path, rows: int) -> dict[str, object]:
    """Make the rows and measure."""
    clickhouse = ClickHouse.open_folder(folder)
    try:
        migrate(clickhouse)
        step = rows // _PARTS
        for part in range(_PARTS):
            values = {"log": _LOG, "rows": rows, "first": part * step, "count": step}
            clickhouse.command(_EVENTS, values)
        clickhouse.command(_RECORD, {"log": _LOG, "n": step * _PARTS})
        clickhouse.command(_PROGRESS, {"log": _LOG, "n": step * _PARTS})
        rollups_ms = _timed_ms(Rollups(clickhouse).refresh)
        queries = {}
        for file in sorted(QUERIES.glob("*.sql")):
            sql = file.read_text("utf-8")
            times = [_timed_ms(lambda sql=sql: clickhouse.raw(sql, "Null")) for _ in range(3)]  # type: ignore[misc]
            queries[file.stem] = statistics.median(times)
        sizes = clickhouse.rows(
            "SELECT table, sum(rows), round(sum(data_compressed_bytes) / sum(rows), 1) FROM system.parts "
            "WHERE active AND database = currentDatabase() GROUP BY table HAVING sum(rows) > 1000 ORDER BY table"
        )
        columns = clickhouse.rows(
            "SELECT name, round(data_compressed_bytes / {n:UInt64}, 2) AS bytes FROM system.columns "
            "WHERE database = currentDatabase() AND table = 'usage_events' AND bytes >= 0.1 ORDER BY bytes DESC",
            {"n": step * _PARTS},
        )
    finally:
        clickhouse.close()
    return {
        "rows": step * _PARTS,
        "rollups_of_30_days_ms": rollups_ms,
        "queries_ms": queries,
        "tables": {table: {"rows": count, "bytes_per_row": size} for table, count, size in sizes},
        "usage_events_bytes_per_row": dict(columns),
    }


def main(rows: str = "10000000", folder: str = "") -> int:
    """Print the measurement."""
    with tempfile.TemporaryDirectory() as temporary:
        print(json.dumps(measure(Path(folder or temporary) / "clickhouse", int(rows)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
