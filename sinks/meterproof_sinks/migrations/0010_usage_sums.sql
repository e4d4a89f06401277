-- Sums of everything up to now, from the roll-up by day and the rows that it lacks.

-- The classes of tokens beside their map, and all quantities added up: reading a column is cheaper.
ALTER TABLE usage_days
  ADD COLUMN IF NOT EXISTS input_tokens Decimal(38, 12) MATERIALIZED usage['input_tokens'] CODEC(LZ4),
  ADD COLUMN IF NOT EXISTS cache_read_tokens Decimal(38, 12) MATERIALIZED usage['cache_read_tokens'] CODEC(LZ4),
  ADD COLUMN IF NOT EXISTS cache_write_tokens Decimal(38, 12) MATERIALIZED usage['cache_write_tokens'] CODEC(LZ4),
  ADD COLUMN IF NOT EXISTS output_tokens Decimal(38, 12) MATERIALIZED usage['output_tokens'] CODEC(LZ4),
  ADD COLUMN IF NOT EXISTS reasoning_tokens Decimal(38, 12) MATERIALIZED usage['reasoning_tokens'] CODEC(LZ4),
  ADD COLUMN IF NOT EXISTS units Decimal(38, 12) MATERIALIZED arraySum(mapValues(usage)) CODEC(LZ4);

-- Spend over time, by account, without the calls' details.
ALTER TABLE usage_hours ADD PROJECTION IF NOT EXISTS accounts (
  SELECT start, customer, agent, currency, built_to, sum(events), sum(cost)
  GROUP BY start, customer, agent, currency, built_to
);
ALTER TABLE usage_hours MATERIALIZE PROJECTION accounts;

-- The highest position of each day and log that is there, those of a write that is not complete yet included.
CREATE VIEW IF NOT EXISTS last_positions AS
SELECT log, toDate(hour) AS day, max(last) AS last
FROM (SELECT log, toStartOfHour(event_time) AS hour, max(position) AS last FROM usage_rows GROUP BY log, hour)
GROUP BY log, day;

-- How far each day of the roll-up by day goes. Marker rows have no customer, so they stand first in their order.
CREATE VIEW IF NOT EXISTS days_built AS
SELECT log, toDate(start) AS day, max(built_to) AS next
FROM usage_days WHERE customer = '' AND built_to > 0 GROUP BY log, day;

-- Days of the roll-up that go beyond the progress row as this query sees it: they are read from the rows.
CREATE VIEW IF NOT EXISTS days_ahead AS
SELECT DISTINCT day
FROM days_built
WHERE next > (
  SELECT mapFromArrays(groupArray(log), groupArray(next))
  FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
)[log];

-- What of each day and log is not in the roll-up: its positions at and above `next`.
CREATE VIEW IF NOT EXISTS days_behind AS
SELECT last_positions.log AS log, last_positions.day AS day,
       if(last_positions.day IN (SELECT day FROM days_ahead), 0, days_built.next) AS next
FROM last_positions LEFT JOIN days_built ON days_built.log = last_positions.log AND days_built.day = last_positions.day
WHERE last_positions.last >= next;

-- Every event up to the progress row, exactly once: summed up by day where the roll-up has it, by itself where not yet.
-- A query sees one state of each table, wherever it reads it (enable_shared_storage_snapshot_in_query): so a day that is
-- swapped in meanwhile is counted once. Asking for progress before all else fixes its state before that of the rows, so
-- that whatever progress promises is among them. An engine without that setting reads the rows alone.
CREATE VIEW IF NOT EXISTS usage_sums AS
SELECT
  toDate(start) AS day, log, customer, agent, source, operation, surface, provider, model, status, tags, currency,
  events, cost, usage, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
  units, latency_us, latency_events
FROM usage_days
WHERE getSettingOrDefault('enable_shared_storage_snapshot_in_query', false)
  AND (SELECT count() FROM sink_progress) > 0
  AND built_to = 0 AND toDate(start) NOT IN (SELECT day FROM days_ahead)
UNION ALL
SELECT
  toDate(event_time) AS day, log, customer, agent, source, operation, surface, provider, model, status, tags, currency,
  1 AS events, cost, usage,
  usage['input_tokens'], usage['cache_read_tokens'], usage['cache_write_tokens'],
  usage['output_tokens'], usage['reasoning_tokens'],
  units, ifNull(usage.latency_us, 0), toUInt64(usage.latency_us IS NOT NULL)
FROM usage
INNER JOIN days_behind ON days_behind.log = usage.log AND days_behind.day = toDate(event_time)
WHERE getSettingOrDefault('enable_shared_storage_snapshot_in_query', false)
  AND position >= days_behind.next
  AND position >= (SELECT if(count() = 0, bitNot(toUInt64(0)), min(next)) FROM days_behind)
UNION ALL
SELECT
  toDate(event_time) AS day, log, customer, agent, source, operation, surface, provider, model, status, tags, currency,
  1 AS events, cost, usage,
  usage['input_tokens'], usage['cache_read_tokens'], usage['cache_write_tokens'],
  usage['output_tokens'], usage['reasoning_tokens'],
  units, ifNull(usage.latency_us, 0), toUInt64(usage.latency_us IS NOT NULL)
FROM usage
WHERE NOT getSettingOrDefault('enable_shared_storage_snapshot_in_query', false);
