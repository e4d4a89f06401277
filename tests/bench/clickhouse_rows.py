"""Millions of events over 30 days in ClickHouse, made inside the engine: as in use, or the worst that sums can get.

As in use, by what is public:

- tokens: twentieths of the Azure LLM inference trace of 2023 (code; 8,819 requests; Patel et al., ISCA 2024)
- calls of a run: 10 to 60; the median trajectory of four models in SWE-Bench Pro has 29 to 78 steps (2,920 runs)
- runs of a session: 2.5, as the turns of a conversation in WildChat (1 million conversations, 2.5 million turns)
- sessions of a user: 5, as in LMSYS-Chat-1M (1 million conversations of 210,000 users with 25 models)

No public trace names callers. So these are assumptions: 200 agents, some busier than others, each of one customer, team
and project; each calls 1 to 3 models of 12 and the tools of its trade; 5 spans to a trace; 64 runs at a time, so that
rows that belong together do not stand together; ids are random. A run after the first of its session is its child.

The worst: every dimension is drawn by itself, so hardly two events of an hour agree in all of them.
"""

import time
from typing import Final, Literal

from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.migrate import migrate
from meterproof_sinks.rollups import Rollups

LOG: Final = "localhost/bench/" + "0f" * 16 + "/p0"
Load = Literal["lifelike", "worst"]
_PARTS: Final = 10
_COLUMNS: Final = """
INSERT INTO usage_rows (
  log, position, entry, event_time, append_time, id, source, agent, customer, operation, surface, status, provider,
  model,
  latency_us, session, user_id, run_id, parent_id, traceparent, usage, cost, currency, price_book, tags, salt, producer,
  instance, sequence, key_ids
)
"""
_LIFELIKE: Final = """
WITH
  [3, 75, 147, 232, 385, 578, 770, 938, 1075, 1261, 1469, 1690, 1909, 2164, 2433, 2745, 3193, 3923, 5194, 7315, 7437]
    AS context,
  [6, 6, 7, 7, 8, 9, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 29, 39, 55, 90, 1899] AS generated,
  number % 64 AS lane,
  intDiv(number, 64) AS step,
  10 * (1 + lane % 6) AS calls,
  intDiv(step, calls) AS turn,
  intDiv(turn * 2, 5) AS talk,
  intDiv(talk * 5 + 1, 2) AS first_turn,
  toUInt64(floor(200 * pow((cityHash64(lane, talk, 1) % 1000000) / 1000000, 2))) AS who,
  [
    ['chat', 'search', 'search', 'browse', 'chat'],
    ['plan', 'chat', 'run code', 'run code', 'chat'],
    ['embed', 'embed', 'search', 'chat', 'chat'],
    ['chat', 'chat', 'chat', 'moderate', 'chat']
  ][1 + who % 4] AS trade,
  trade[1 + step % 5] AS operation,
  operation NOT IN ('search', 'browse', 'run code') AS calls_a_model,
  1 + (who * 7 + cityHash64(number, 3) % (1 + who % 3)) % 12 AS which,
  1 + cityHash64(number, 5) % 20 AS twentieth,
  context[twentieth] + cityHash64(number, 51) % (context[twentieth + 1] - context[twentieth]) AS input,
  1 + cityHash64(number, 6) % 20 AS other,
  generated[other] + cityHash64(number, 61) % (1 + generated[other + 1] - generated[other]) AS output,
  toDateTime64('2026-01-01 00:00:00', 6, 'UTC')
    + toIntervalMillisecond(intDiv(number * 2592000000, {rows:UInt64})) AS at
SELECT
  {log:String},
  number AS position,
  SHA256(toString(number)),
  at,
  at,
  lower(hex(cityHash64(number, 0))),
  if(calls_a_model, concat('gateway/', operation), concat('tools/', operation)),
  concat('agent-', toString(who)),
  concat('customer-', toString(who % 20)),
  operation,
  if(calls_a_model, 'llm', 'tool'),
  if(cityHash64(number, 2) % 50 = 0, 'error', if(cityHash64(number, 2) % 50 = 1, 'rate_limited', 'ok')),
  if(calls_a_model, ['openai', 'anthropic', 'google'][1 + which % 3], ''),
  if(calls_a_model, concat('model-', toString(which)), ''),
  cityHash64(number, 4) % 5000000,
  lower(hex(sipHash128(lane, talk))),
  concat('user-', toString(cityHash64(lane, talk) % greatest(1, intDiv({rows:UInt64}, 300)))),
  lower(hex(sipHash128(lane, turn, 1))),
  if(turn = first_turn, '', lower(hex(sipHash128(lane, first_turn, 1)))),
  concat('00-', lower(hex(MD5(toString((lane, intDiv(step, 5)))))), '-', lower(hex(cityHash64(number, 7))), '-01'),
  if(
    calls_a_model,
    CAST((
      ['requests', 'input_tokens', 'cache_read_tokens', 'output_tokens'],
      [1, input - intDiv(input, 3), intDiv(input, 3), output]), 'Map(LowCardinality(String), Decimal(38, 12))'),
    CAST((
      ['requests', 'seconds'],
      [toDecimal128(1, 12), toDecimal128(cityHash64(number, 8) % 30000, 12) / 1000]),
      'Map(LowCardinality(String), Decimal(38, 12))')
  ),
  if(
    calls_a_model,
    toDecimal128(which * (input * 25 + output * 100), 12) / 10000000,
    toDecimal128(cityHash64(number, 8) % 30000, 12) / 1000000000),
  'USD',
  1,
  map('team', ['a', 'b', 'c', 'd'][1 + who % 20 % 4], 'project', concat('project-', toString(intDiv(who, 4)))),
  reinterpretAsString(cityHash64(number, 10)),
  'gateway',
  'bench',
  intDiv(number, 100),
  ['key']
FROM numbers({first:UInt64}, {count:UInt64})
"""
_WORST: Final = """
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
  '',
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
_PROGRESS: Final = """
INSERT INTO sink_progress (log, partition, epoch, log_offset, digest, next)
VALUES ({log:String}, 0, '', 1, '', {n:UInt64})
"""
_RECORD: Final = """
INSERT INTO usage_records (log, log_offset, kind, append_time, clock_time, first, size, accepted)
VALUES ({log:String}, 1, 'batch', '2026-01-31 00:00:00', '2026-01-31 00:00:00', 0, {n:UInt64}, {n:UInt64})
"""


def make(clickhouse: ClickHouse, rows: int, load: Load) -> float:
    """Make the tables, the rows of one month in several parts, and the roll-ups; how many seconds these took."""
    insert_rows(clickhouse, rows, load, _PARTS)
    clickhouse.command(_RECORD, {"log": LOG, "n": rows})
    clickhouse.command(_PROGRESS, {"log": LOG, "n": rows})
    began_s = time.perf_counter()
    Rollups(clickhouse).refresh()
    return time.perf_counter() - began_s


def insert_rows(clickhouse: ClickHouse, rows: int, load: Load, parts: int) -> None:
    """Make the tables and nothing but the rows, in so many inserts."""
    migrate(clickhouse)
    count = -(-rows // parts)
    for first in range(0, rows, count):
        clickhouse.command(
            _COLUMNS + (_LIFELIKE if load == "lifelike" else _WORST),
            {"log": LOG, "rows": rows, "first": first, "count": min(count, rows - first)},
        )
