-- Roll-ups by minute, hour and day: of every event below a stated position, each exactly once. A day is built beside the
-- table and swapped in whole, so plain reads are exact at any moment, without FINAL. The rows with built_to say how far the
-- day goes, one per log; they come and go with the day. No incremental view feeds them.

-- What changes where: for the roll-ups, which look for days with new events, and for reconciliation by log and hour.
ALTER TABLE usage_events ADD PROJECTION IF NOT EXISTS hours (
  SELECT log, toStartOfHour(event_time), count(), min(position), max(position), sum(position)
  GROUP BY log, toStartOfHour(event_time)
);
ALTER TABLE usage_events MATERIALIZE PROJECTION hours;

-- Lets a query over a day pass over the rest of its month.
ALTER TABLE usage_events ADD INDEX IF NOT EXISTS times event_time TYPE minmax GRANULARITY 1;

CREATE TABLE IF NOT EXISTS usage_minutes (
  start DateTime64(3, 'UTC') COMMENT 'Of the minute' CODEC(Delta, ZSTD),
  log LowCardinality(String),
  customer LowCardinality(String),
  agent LowCardinality(String),
  source LowCardinality(String),
  operation LowCardinality(String),
  surface LowCardinality(String),
  provider LowCardinality(String),
  model LowCardinality(String),
  status LowCardinality(String),
  tags Map(LowCardinality(String), String) COMMENT 'Sorted by name',
  currency LowCardinality(String),
  events UInt64 CODEC(ZSTD),
  cost Decimal(38, 12) CODEC(ZSTD),
  usage Map(LowCardinality(String), Decimal(38, 12)) COMMENT 'Quantity by meter' CODEC(ZSTD),
  latency_us UInt64 COMMENT 'Sum over the events that state one' CODEC(ZSTD),
  latency_events UInt64 COMMENT 'How many they are' CODEC(ZSTD),
  built_to UInt64 COMMENT 'Only in marker rows: the day holds every event of the log below this position' CODEC(ZSTD)
)
ENGINE = MergeTree
PARTITION BY toDate(start)
ORDER BY (customer, agent, start, log, operation, provider, model, status)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS usage_hours (
  start DateTime64(3, 'UTC') COMMENT 'Of the hour' CODEC(Delta, ZSTD),
  log LowCardinality(String),
  customer LowCardinality(String),
  agent LowCardinality(String),
  source LowCardinality(String),
  operation LowCardinality(String),
  surface LowCardinality(String),
  provider LowCardinality(String),
  model LowCardinality(String),
  status LowCardinality(String),
  tags Map(LowCardinality(String), String) COMMENT 'Sorted by name',
  currency LowCardinality(String),
  events UInt64 CODEC(ZSTD),
  cost Decimal(38, 12) CODEC(ZSTD),
  usage Map(LowCardinality(String), Decimal(38, 12)) COMMENT 'Quantity by meter' CODEC(ZSTD),
  latency_us UInt64 COMMENT 'Sum over the events that state one' CODEC(ZSTD),
  latency_events UInt64 COMMENT 'How many they are' CODEC(ZSTD),
  built_to UInt64 COMMENT 'Only in marker rows: the day holds every event of the log below this position' CODEC(ZSTD)
)
ENGINE = MergeTree
PARTITION BY toDate(start)
ORDER BY (customer, agent, start, log, operation, provider, model, status)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS usage_days (
  start DateTime64(3, 'UTC') COMMENT 'Of the day' CODEC(Delta, ZSTD),
  log LowCardinality(String),
  customer LowCardinality(String),
  agent LowCardinality(String),
  source LowCardinality(String),
  operation LowCardinality(String),
  surface LowCardinality(String),
  provider LowCardinality(String),
  model LowCardinality(String),
  status LowCardinality(String),
  tags Map(LowCardinality(String), String) COMMENT 'Sorted by name',
  currency LowCardinality(String),
  events UInt64 CODEC(ZSTD),
  cost Decimal(38, 12) CODEC(ZSTD),
  usage Map(LowCardinality(String), Decimal(38, 12)) COMMENT 'Quantity by meter' CODEC(ZSTD),
  latency_us UInt64 COMMENT 'Sum over the events that state one' CODEC(ZSTD),
  latency_events UInt64 COMMENT 'How many they are' CODEC(ZSTD),
  built_to UInt64 COMMENT 'Only in marker rows: the day holds every event of the log below this position' CODEC(ZSTD)
)
ENGINE = MergeTree
PARTITION BY toDate(start)
ORDER BY (customer, agent, start, log, operation, provider, model, status)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE VIEW IF NOT EXISTS usage_by_minute AS
SELECT * EXCEPT (built_to) FROM usage_minutes WHERE built_to = 0;

CREATE VIEW IF NOT EXISTS usage_by_hour AS
SELECT * EXCEPT (built_to) FROM usage_hours WHERE built_to = 0;

CREATE VIEW IF NOT EXISTS usage_by_day AS
SELECT * EXCEPT (built_to) FROM usage_days WHERE built_to = 0;

-- How far each day of each roll-up goes: it holds every event of that day and log below `next`.
CREATE VIEW IF NOT EXISTS rollup_progress AS
SELECT 'minute' AS rollup, toDate(start) AS day, log, max(built_to) AS next
FROM usage_minutes WHERE built_to > 0 GROUP BY day, log
UNION ALL
SELECT 'hour' AS rollup, toDate(start) AS day, log, max(built_to) AS next
FROM usage_hours WHERE built_to > 0 GROUP BY day, log
UNION ALL
SELECT 'day' AS rollup, toDate(start) AS day, log, max(built_to) AS next
FROM usage_days WHERE built_to > 0 GROUP BY day, log;

-- Up to where everything that is read here goes: the events of each log that are in, and when the last of its records
-- was taken by the broker. A total says "up to" by it.
CREATE VIEW IF NOT EXISTS up_to AS
SELECT log, max(size) AS events, max(append_time) AS append_time, max(clock_time) AS clock_time
FROM records
GROUP BY log;
