-- Sessions, runs, who calls whom, the busiest minutes, and calls in vain: added up by day as the roll-ups are, for as long as
-- the month's rows are kept. So these queries, too, read few rows, and what a day lacks from the events themselves.

-- One table for all kinds, so that a day's are swapped in together. A kind leaves the columns that it does not use empty.
CREATE TABLE IF NOT EXISTS usage_groups (
  kind LowCardinality(String) COMMENT 'session, run, calls, peak or waste; empty in marker rows',
  start DateTime64(3, 'UTC') COMMENT 'Of the day' CODEC(Delta, ZSTD),
  session String COMMENT 'Of kind session; empty for the events of none' CODEC(ZSTD),
  run_id String COMMENT 'Of kind run; empty for the events of none' CODEC(ZSTD),
  parent_id String COMMENT 'Of a run, as its events name it' CODEC(ZSTD),
  agent LowCardinality(String) COMMENT 'Of kinds calls and waste',
  source LowCardinality(String) COMMENT 'Of kind calls',
  operation LowCardinality(String) COMMENT 'Of kind waste',
  provider LowCardinality(String) COMMENT 'Of kind peak',
  model LowCardinality(String) COMMENT 'Of kind peak',
  currency LowCardinality(String),
  events UInt64 CODEC(ZSTD),
  cost Decimal(38, 12) CODEC(ZSTD),
  began DateTime64(6, 'UTC') COMMENT 'Of kind session' CODEC(Delta, ZSTD),
  ended DateTime64(6, 'UTC') COMMENT 'Of kind session' CODEC(Delta, ZSTD),
  requests UInt64 COMMENT 'Of kind peak: of the minute with most' CODEC(ZSTD),
  busiest DateTime('UTC') COMMENT 'That minute, the first of several' CODEC(ZSTD),
  tokens Decimal(38, 12) COMMENT 'Of kind peak: of the minute with most' CODEC(ZSTD),
  heaviest DateTime('UTC') COMMENT 'That minute, the first of several' CODEC(ZSTD),
  failed UInt64 COMMENT 'Of kinds calls and waste' CODEC(ZSTD),
  failed_cost Decimal(38, 12) COMMENT 'Of kind waste' CODEC(ZSTD),
  repeated UInt64 COMMENT 'Of kind waste: exact repeats within a minute, but for the first of each' CODEC(ZSTD),
  repeated_cost Decimal(38, 12) CODEC(ZSTD),
  operations Array(LowCardinality(String)) COMMENT 'Of kind calls',
  traces AggregateFunction(uniqExact, String) COMMENT 'Of kind calls: the set of traces, so one over midnight is one'
    CODEC(NONE),
  log LowCardinality(String) COMMENT 'Only in marker rows: groups are of all logs together',
  built_to UInt64 COMMENT 'Only in marker rows: the day holds every event of the log below this position' CODEC(ZSTD)
)
ENGINE = MergeTree
PARTITION BY toDate(start)
ORDER BY (kind, session, run_id, agent, source, operation, provider, model)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- The position of the last correction of something of each day and log.
CREATE OR REPLACE VIEW last_corrections AS
SELECT log, toDate(fromUnixTimestamp64Micro(event_us, 'UTC')) AS day, max(position) AS last
FROM usage_corrections WHERE effect = 'applied' GROUP BY log, day;

-- How far each day of the groups goes.
CREATE OR REPLACE VIEW groups_built AS
SELECT log, toDate(start) AS day, max(built_to) AS next
FROM usage_groups WHERE kind = '' GROUP BY log, day;

-- Of each day and log: whether the day goes beyond the progress row as this query sees it, or holds something that was corrected
-- since, which has it read from the rows; from which position on it is read from them; and whether there are any.
CREATE OR REPLACE VIEW groups_state AS
WITH (
  SELECT mapFromArrays(groupArray(log), groupArray(next))
  FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
) AS promised
SELECT
  log, day, max(built > promised[log] OR (built > 0 AND corrected > built)) OVER (PARTITION BY day) AS ahead,
  if(ahead, 0, built) AS next, there > next AS behind
FROM (
  SELECT log, day, max(built) AS built, max(there) AS there, max(corrected) AS corrected
  FROM (
    SELECT log, day, next AS built, toUInt64(0) AS there, toUInt64(0) AS corrected FROM groups_built
    UNION ALL
    SELECT log, day, 0, last + 1, 0 FROM last_positions
    UNION ALL
    SELECT log, day, 0, 0, last + 1 FROM last_corrections
  )
  GROUP BY log, day
);

CREATE OR REPLACE VIEW groups_ahead AS
SELECT DISTINCT day FROM groups_state WHERE ahead;

-- What of each day and log is not there yet: its positions at and above `next`.
CREATE OR REPLACE VIEW groups_behind AS
SELECT log, day, next FROM groups_state WHERE behind;

-- The same in one row, which a query asks for once, however often it is named in the same words.
CREATE OR REPLACE VIEW groups_read AS
SELECT
  groupUniqArrayIf(day, ahead) AS without,
  mapFromArrays(groupArrayIf(concat(toString(day), log), behind), groupArrayIf(next, behind)) AS rows_from,
  if(countIf(behind) = 0, bitNot(toUInt64(0)), minIf(next, behind)) AS lowest,
  groupUniqArrayIf(day, behind) AS open_days
FROM groups_state;

-- Every event up to the progress row, exactly once for each kind of sums: in its group where that is built, by itself, as kind
-- event, where not yet. A query sees one state of each table, as for `usage_sums`. A month whose rows were given up is in
-- neither.
CREATE OR REPLACE VIEW usage_pieces AS
SELECT
  kind, session, run_id, parent_id, agent, source, '' AS traceparent, currency, events, cost, began, ended, failed, operations,
  traces
FROM usage_groups
WHERE getSettingOrDefault('enable_shared_storage_snapshot_in_query', false)
  AND (SELECT count() FROM sink_progress) > 0
  AND NOT has((SELECT (without, rows_from, lowest, open_days) FROM groups_read).1, toDate(start))
  AND toYYYYMM(start) NOT IN (SELECT month FROM usage_retired) AND kind != ''
UNION ALL
SELECT
  'event', session, run_id, parent_id, agent, source, traceparent, currency, 1, cost, event_time, event_time,
  status NOT IN ('', 'ok'), [operation], initializeAggregation('uniqExactState', substring(traceparent, 4, 32))
FROM usage
WHERE position >= if(
    getSettingOrDefault('enable_shared_storage_snapshot_in_query', false),
    (SELECT (without, rows_from, lowest, open_days) FROM groups_read).3,
    0
  )
  AND (
    NOT getSettingOrDefault('enable_shared_storage_snapshot_in_query', false)
    OR (
      mapContains((SELECT (without, rows_from, lowest, open_days) FROM groups_read).2, concat(toString(toDate(event_time)), log))
      AND position >= (SELECT (without, rows_from, lowest, open_days) FROM groups_read).2[concat(toString(toDate(event_time)), log)]
    )
  );

CREATE OR REPLACE VIEW session_sums AS
SELECT session, currency, events, cost, began, ended FROM usage_pieces WHERE kind IN ('session', 'event');

CREATE OR REPLACE VIEW run_sums AS
SELECT run_id, parent_id, currency, events, cost FROM usage_pieces WHERE kind IN ('run', 'event');

CREATE OR REPLACE VIEW call_sums AS
SELECT agent AS caller, source AS callee, events, failed, operations, traces
FROM usage_pieces WHERE kind = 'calls' OR (kind = 'event' AND traceparent != '');

-- A minute, and calls that repeat one another within one, can lie across positions and logs. So a day that the groups do not
-- have whole is read from its events, all of it.
CREATE OR REPLACE VIEW model_peaks AS
SELECT provider, model, requests, busiest, tokens, heaviest
FROM usage_groups
WHERE getSettingOrDefault('enable_shared_storage_snapshot_in_query', false)
  AND (SELECT count() FROM sink_progress) > 0
  AND NOT has((SELECT (without, rows_from, lowest, open_days) FROM groups_read).1, toDate(start))
  AND toYYYYMM(start) NOT IN (SELECT month FROM usage_retired)
  AND kind = 'peak' AND NOT has((SELECT (without, rows_from, lowest, open_days) FROM groups_read).4, toDate(start))
UNION ALL
SELECT
  provider, model, max(calls), argMax(minute, (calls, -toUnixTimestamp(minute))),
  max(used), argMax(minute, (used, -toUnixTimestamp(minute)))
FROM (
  SELECT provider, model, toStartOfMinute(event_time) AS minute, count() AS calls, sum(usage.tokens) AS used
  FROM usage
  WHERE position >= if(getSettingOrDefault('enable_shared_storage_snapshot_in_query', false) AND empty((SELECT (without, rows_from, lowest, open_days) FROM groups_read).4), bitNot(toUInt64(0)), 0)
    AND (NOT getSettingOrDefault('enable_shared_storage_snapshot_in_query', false) OR has((SELECT (without, rows_from, lowest, open_days) FROM groups_read).4, toDate(event_time)))
  GROUP BY provider, model, minute
)
GROUP BY provider, model;

-- Which calls could be alike is found by a hash of a few columns, which costs little; only these are compared.
CREATE OR REPLACE VIEW waste_sums AS
SELECT agent, operation, currency, failed, failed_cost, repeated, repeated_cost
FROM usage_groups
WHERE getSettingOrDefault('enable_shared_storage_snapshot_in_query', false)
  AND (SELECT count() FROM sink_progress) > 0
  AND NOT has((SELECT (without, rows_from, lowest, open_days) FROM groups_read).1, toDate(start))
  AND toYYYYMM(start) NOT IN (SELECT month FROM usage_retired)
  AND kind = 'waste' AND NOT has((SELECT (without, rows_from, lowest, open_days) FROM groups_read).4, toDate(start))
UNION ALL
SELECT agent, operation, currency, count(), sum(cost), 0, toDecimal128(0, 12)
FROM usage
WHERE position >= if(getSettingOrDefault('enable_shared_storage_snapshot_in_query', false) AND empty((SELECT (without, rows_from, lowest, open_days) FROM groups_read).4), bitNot(toUInt64(0)), 0)
  AND (NOT getSettingOrDefault('enable_shared_storage_snapshot_in_query', false) OR has((SELECT (without, rows_from, lowest, open_days) FROM groups_read).4, toDate(event_time)))
  AND status NOT IN ('', 'ok')
GROUP BY agent, operation, currency
UNION ALL
SELECT agent, operation, currency, 0, toDecimal128(0, 12), toUInt64(count() - 1), sum(cost) - argMin(cost, (log, position))
FROM usage
WHERE position >= if(getSettingOrDefault('enable_shared_storage_snapshot_in_query', false) AND empty((SELECT (without, rows_from, lowest, open_days) FROM groups_read).4), bitNot(toUInt64(0)), 0)
  AND (NOT getSettingOrDefault('enable_shared_storage_snapshot_in_query', false) OR has((SELECT (without, rows_from, lowest, open_days) FROM groups_read).4, toDate(event_time)))
  AND status IN ('', 'ok')
  AND cityHash64(agent, model, session, units, toStartOfMinute(event_time)) IN (
    SELECT likeness
    FROM (
      SELECT cityHash64(agent, model, session, units, toStartOfMinute(event_time)) AS likeness
      FROM usage
      WHERE position >= if(getSettingOrDefault('enable_shared_storage_snapshot_in_query', false) AND empty((SELECT (without, rows_from, lowest, open_days) FROM groups_read).4), bitNot(toUInt64(0)), 0)
        AND (NOT getSettingOrDefault('enable_shared_storage_snapshot_in_query', false) OR has((SELECT (without, rows_from, lowest, open_days) FROM groups_read).4, toDate(event_time)))
        AND status IN ('', 'ok')
    )
    GROUP BY likeness HAVING count() > 1
  )
GROUP BY agent, source, operation, provider, model, session, mapSort(usage), currency, toStartOfMinute(event_time)
HAVING count() > 1;

-- How far each day of each roll-up goes: it holds every event of that day and log below `next`.
CREATE OR REPLACE VIEW rollup_progress AS
SELECT 'minute' AS rollup, toDate(start) AS day, log, max(built_to) AS next
FROM usage_minutes WHERE built_to > 0 GROUP BY day, log
UNION ALL
SELECT 'hour' AS rollup, toDate(start) AS day, log, max(built_to) AS next
FROM usage_hours WHERE built_to > 0 GROUP BY day, log
UNION ALL
SELECT 'day' AS rollup, toDate(start) AS day, log, max(built_to) AS next
FROM usage_days WHERE built_to > 0 GROUP BY day, log
UNION ALL
SELECT 'group' AS rollup, toDate(start) AS day, log, max(built_to) AS next
FROM usage_groups WHERE kind = '' GROUP BY day, log;

-- The roll-up by day is read in the same way: how far it goes is found out once per query, where it was three times.

-- Of each day and log: whether the day goes beyond the progress row as this query sees it, or holds something that was corrected
-- since, which has it read from the rows; from which position on it is read from them; and whether there are any.
CREATE OR REPLACE VIEW days_state AS
WITH (
  SELECT mapFromArrays(groupArray(log), groupArray(next))
  FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
) AS promised
SELECT
  log, day, max(built > promised[log] OR (built > 0 AND corrected > built)) OVER (PARTITION BY day) AS ahead,
  if(ahead, 0, built) AS next, there > next AS behind
FROM (
  SELECT log, day, max(built) AS built, max(there) AS there, max(corrected) AS corrected
  FROM (
    SELECT log, day, next AS built, toUInt64(0) AS there, toUInt64(0) AS corrected FROM days_built
    UNION ALL
    SELECT log, day, 0, last + 1, 0 FROM last_positions
    UNION ALL
    SELECT log, day, 0, 0, last + 1 FROM last_corrections
  )
  GROUP BY log, day
);

CREATE OR REPLACE VIEW days_ahead AS
SELECT DISTINCT day FROM days_state WHERE ahead;

-- What of each day and log is not there yet: its positions at and above `next`.
CREATE OR REPLACE VIEW days_behind AS
SELECT log, day, next FROM days_state WHERE behind;

-- The same in one row, which a query asks for once, however often it is named in the same words.
CREATE OR REPLACE VIEW days_read AS
SELECT
  groupUniqArrayIf(day, ahead) AS without,
  mapFromArrays(groupArrayIf(concat(toString(day), log), behind), groupArrayIf(next, behind)) AS rows_from,
  if(countIf(behind) = 0, bitNot(toUInt64(0)), minIf(next, behind)) AS lowest
FROM days_state;

CREATE OR REPLACE VIEW usage_sums AS
SELECT
  toDate(start) AS day, log, customer, agent, source, operation, surface, provider, model, status, tags, currency,
  events, cost, usage, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
  units, latency_us, latency_events
FROM usage_days
WHERE getSettingOrDefault('enable_shared_storage_snapshot_in_query', false)
  AND (SELECT count() FROM sink_progress) > 0
  AND NOT has((SELECT (without, rows_from, lowest) FROM days_read).1, toDate(start))
  AND built_to = 0
UNION ALL
SELECT
  toDate(event_time) AS day, log, customer, agent, source, operation, surface, provider, model, status, tags, currency,
  1 AS events, cost, usage,
  usage['input_tokens'], usage['cache_read_tokens'], usage['cache_write_tokens'],
  usage['output_tokens'], usage['reasoning_tokens'],
  units, ifNull(usage.latency_us, 0), toUInt64(usage.latency_us IS NOT NULL)
FROM usage
WHERE position >= if(
    getSettingOrDefault('enable_shared_storage_snapshot_in_query', false),
    (SELECT (without, rows_from, lowest) FROM days_read).3,
    0
  )
  AND (
    NOT getSettingOrDefault('enable_shared_storage_snapshot_in_query', false)
    OR (
      mapContains((SELECT (without, rows_from, lowest) FROM days_read).2, concat(toString(toDate(event_time)), log))
      AND position >= (SELECT (without, rows_from, lowest) FROM days_read).2[concat(toString(toDate(event_time)), log)]
    )
  );
