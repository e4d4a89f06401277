-- What other topics of the deployment say: alerts, signed checkpoints, and every published price book. Filled by the sink
-- beside its rows. Each row is absolute and its identity is stated by what it says, so reading a topic again changes nothing.

-- How far the topics were taken. It saves reading them again; the tables below are right without it.
CREATE TABLE IF NOT EXISTS topic_progress (
  topic LowCardinality(String) COMMENT 'Full name',
  topic_partition UInt32,
  next UInt64 COMMENT 'Offset that is read next',
  digest String COMMENT 'SHA-256 of the value of the last record taken, at next - 1, in hexadecimal; empty if it had none',
  recorded_at DateTime64(3, 'UTC') COMMENT 'When the broker took that record',
  written_at DateTime64(9, 'UTC') DEFAULT now64(9, 'UTC') COMMENT 'The newest row holds'
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY (topic, topic_partition)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS usage_alerts (
  budget String,
  scope LowCardinality(String) COMMENT 'agent, customer, team …: whose spend',
  subject String COMMENT 'One of that scope',
  period LowCardinality(String) COMMENT 'Its window: minute, hour, day or month',
  zone LowCardinality(String),
  start DateTime64(6, 'UTC') COMMENT 'Of the window',
  threshold Decimal(38, 12) COMMENT 'Per cent of what is allowed',
  allowed Decimal(38, 12),
  spend Decimal(38, 12) COMMENT 'In the currency, or in units of the meters, when the threshold was found to be reached',
  currency LowCardinality(String) COMMENT 'Empty for a budget in units',
  meters Array(LowCardinality(String)) COMMENT 'Of a budget in units',
  log LowCardinality(String),
  position UInt64 COMMENT 'Of the event that reached it; of a scope in several logs, up to where this log is counted',
  event_time DateTime64(6, 'UTC') COMMENT 'Of that event',
  append_time DateTime64(3, 'UTC') COMMENT 'When the broker took that event',
  topic_partition UInt32,
  topic_offset UInt64,
  recorded_at DateTime64(3, 'UTC') COMMENT 'When the broker took the alert'
)
ENGINE = ReplacingMergeTree
ORDER BY (budget, scope, subject, period, zone, start, threshold, topic_partition, topic_offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Each alert once, as it was said last: one that is raised again is the same alert.
CREATE VIEW IF NOT EXISTS alerts AS
SELECT * EXCEPT (topic_partition, topic_offset)
FROM (
  SELECT * FROM usage_alerts FINAL
  ORDER BY recorded_at DESC, topic_partition DESC, topic_offset DESC
  LIMIT 1 BY budget, scope, subject, period, zone, start, threshold
);

-- Two rows of one log and size with different roots are a log that forked: `meterproof reconcile` tells of them.
CREATE TABLE IF NOT EXISTS usage_checkpoints (
  log LowCardinality(String),
  size UInt64 COMMENT 'Events that it covers: those at positions below it' CODEC(Delta, ZSTD),
  root String COMMENT 'Merkle root of the log at this size, in hexadecimal' CODEC(ZSTD),
  log_offset UInt64 COMMENT 'Record of usage.log after which the log has this size' CODEC(Delta, ZSTD),
  digest String COMMENT 'SHA-256 of that record, in hexadecimal' CODEC(ZSTD),
  clock_time DateTime64(3, 'UTC') COMMENT 'Ingest clock of that record' CODEC(Delta, ZSTD),
  records_size UInt64 COMMENT 'Size of the second tree, of the log records; 0 where it was not signed yet',
  records_root String COMMENT 'Its root' CODEC(ZSTD),
  note String COMMENT 'The signed note, as it stands on the topic; its signature is checked by meterproof verify' CODEC(ZSTD),
  recorded_at DateTime64(3, 'UTC') COMMENT 'When the broker took it' CODEC(Delta, ZSTD)
)
ENGINE = ReplacingMergeTree
ORDER BY (log, size, root)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE VIEW IF NOT EXISTS checkpoints AS
SELECT * FROM usage_checkpoints FINAL;

-- Every price of every published version, in the order of its book: the first that matches an event is the one it costs.
CREATE VIEW IF NOT EXISTS prices AS
SELECT
  version,
  currency,
  number,
  price.meter AS meter,
  price.provider AS provider,
  price.model AS model,
  price.operation AS operation,
  toDecimal128(price.amount, 12) AS amount,
  toUInt64(price.per) AS per,
  parseDateTime64BestEffortOrNull(price.effective_from, 6, 'UTC') AS effective_from,
  parseDateTime64BestEffortOrNull(price.effective_until, 6, 'UTC') AS effective_until
FROM (
  SELECT
    version,
    currency,
    JSONExtract(content, 'prices', 'Array(Tuple(
      meter String, provider String, model String, operation String, amount String, per String,
      effective_from String, effective_until String))') AS stated
  FROM price_books FINAL
)
ARRAY JOIN stated AS price, arrayEnumerate(stated) AS number;
