-- The rows again, in the order of their logs. What a sink writes then comes sorted and the parts of a month do not overlap, so
-- FINAL has nothing to merge where nothing was repeated, and a row is a quarter smaller: `python -m tests.bench.clickhouse_layout`.
-- Needs the disk for both until the last statement, and that no sink of an older version writes.

-- One that does is refused from here on, before anything is copied.
DROP TABLE IF EXISTS usage_in_rows SYNC;
DROP TABLE IF EXISTS usage_in SYNC;

-- One row per accepted event. A repeated insert of a row lands in the same partition under the same sorting key, because
-- both are made of what never changes about an event, and so it is removed by a merge, or by FINAL before that.
-- What sums over `usage` are asked for most stand beside it: taking meters out of a map costs more than reading a column.
CREATE TABLE IF NOT EXISTS usage_rows (
  log LowCardinality(String) COMMENT 'Origin of the log: <name>/<epoch>/p<partition>',
  position UInt64 COMMENT 'Index in the log: dense from 0' CODEC(Delta, ZSTD),
  entry FixedString(32) COMMENT 'SHA-256 of the event line: what the Merkle log holds' CODEC(NONE),
  event_time DateTime64(6, 'UTC') COMMENT 'When the usage happened, by the source' CODEC(Delta, ZSTD),
  append_time DateTime64(3, 'UTC') COMMENT 'When the broker took the batch' CODEC(Delta, ZSTD),
  id String COMMENT 'Identity, with source' CODEC(ZSTD),
  source LowCardinality(String) COMMENT 'Service that reports',
  agent LowCardinality(String) COMMENT 'Who consumed (CloudEvents subject)',
  customer LowCardinality(String) COMMENT 'Who pays',
  operation LowCardinality(String),
  surface LowCardinality(String),
  status LowCardinality(String),
  status_code Nullable(UInt16),
  provider LowCardinality(String),
  model LowCardinality(String),
  latency_us Nullable(UInt64) COMMENT 'Whole call' CODEC(LZ4),
  queue_us Nullable(UInt64),
  upstream_us Nullable(UInt64),
  first_token_us Nullable(UInt64),
  request_bytes Nullable(UInt64),
  response_bytes Nullable(UInt64),
  session String CODEC(ZSTD),
  user_id String CODEC(ZSTD),
  run_id String CODEC(ZSTD),
  parent_id String CODEC(ZSTD),
  traceparent String CODEC(ZSTD),
  usage Map(LowCardinality(String), Decimal(38, 12)) COMMENT 'Quantity by meter' CODEC(LZ4),
  cost Decimal(38, 12) COMMENT 'Spend by the price book in force' CODEC(LZ4),
  currency LowCardinality(String) COMMENT 'Of cost; empty where no price book was in force',
  price_book UInt32 COMMENT 'Version of the price book in force; 0 is none',
  unpriced Array(LowCardinality(String)) COMMENT 'Meters that no price matches: counted, at no charge',
  stated_cost Nullable(Decimal(38, 12)) COMMENT 'What the source claims that the call cost',
  stated_currency LowCardinality(String),
  tags Map(LowCardinality(String), String),
  residency LowCardinality(String),
  purpose LowCardinality(String),
  consent String,
  corrects_id String,
  corrects_kind LowCardinality(String),
  request_signature String CODEC(ZSTD),
  receipt String CODEC(ZSTD),
  salt String COMMENT 'Random bytes that keep the entry from telling the line',
  producer LowCardinality(String),
  instance LowCardinality(String) COMMENT 'Random per start of the producer',
  sequence UInt64 COMMENT 'Number of the batch in the series of the instance' CODEC(Delta, ZSTD),
  key_ids Array(LowCardinality(String)) COMMENT 'Keys that signed the batch',
  tokens Decimal(38, 12) MATERIALIZED usage['input_tokens'] + usage['cache_read_tokens'] + usage['cache_write_tokens']
    + usage['output_tokens'] + usage['reasoning_tokens'] COMMENT 'All classes: they do not overlap' CODEC(LZ4),
  units Decimal(38, 12) MATERIALIZED arraySum(mapValues(usage)) COMMENT 'All quantities added up' CODEC(LZ4),
  INDEX times event_time TYPE minmax GRANULARITY 1,
  INDEX agents agent TYPE bloom_filter(0.01) GRANULARITY 1,
  INDEX customers customer TYPE bloom_filter(0.01) GRANULARITY 1,
  PROJECTION hours (
    SELECT log, toStartOfHour(event_time), count(), min(position), max(position), sum(position)
    GROUP BY log, toStartOfHour(event_time)
  )
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (log, position)
SETTINGS
  deduplicate_merge_projection_mode = 'rebuild', lightweight_mutation_projection_mode = 'rebuild',
  min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1,
  fsync_after_insert = 1, fsync_part_directory = 1;

-- What is there is copied month by month; what an interrupted run had copied before is the same rows again.
-- for each: SELECT table FROM system.replicas WHERE database = currentDatabase() AND table = 'usage_events'
SYSTEM SYNC REPLICA usage_events;
-- for each: SELECT DISTINCT partition_id FROM system.parts WHERE active AND database = currentDatabase() AND table = 'usage_events'
INSERT INTO usage_rows
SELECT * FROM usage_events WHERE _partition_id = {value:String} ORDER BY log, position
SETTINGS max_bytes_before_external_sort = 500000000;

-- Event lines come in as they stand in the log, each behind what only the record and the price book know of it.
CREATE TABLE IF NOT EXISTS usage_lines (
  log String, position UInt64, event_us Int64, append_ms Int64, price_book UInt32, cost Decimal(38, 12), currency String,
  unpriced String, producer String, instance String, sequence UInt64, key_ids String, line String
)
ENGINE = Null;

-- Takes a line apart, once. JSONExtract answers with defaults where it cannot read: an accepted line always has an id, so
-- an empty one means that this engine read it differently from the sequencer, and refuses the whole insert.
-- Lists of names are joined by the unit separator (0x1F), which no name can contain.
CREATE MATERIALIZED VIEW IF NOT EXISTS usage_lines_rows TO usage_rows AS
WITH
  JSONExtract(line, 'Tuple(
    id String, source String, subject String,
    data Tuple(
      customer String, usage Map(String, String), operation String, surface String, status String,
      status_code Nullable(UInt16), provider String, model String,
      latency Tuple(
        total_us Nullable(UInt64), queue_us Nullable(UInt64),
        upstream_us Nullable(UInt64), first_token_us Nullable(UInt64)),
      request_bytes Nullable(UInt64), response_bytes Nullable(UInt64),
      session String, user String, run String, parent String, traceparent String,
      cost Tuple(amount Nullable(String), currency String),
      tags Map(String, String),
      governance Tuple(residency String, purpose String, consent String),
      corrects Tuple(id String, kind String),
      request_signature String, receipt String, salt String))') AS event,
  event.data AS data
SELECT
  log,
  position,
  SHA256(line) AS entry,
  fromUnixTimestamp64Micro(event_us, 'UTC') AS event_time,
  fromUnixTimestamp64Milli(append_ms, 'UTC') AS append_time,
  if(throwIf(event.id = '' OR empty(data.usage), 'an accepted event line could not be taken apart') = 0, event.id, '') AS id,
  event.source AS source,
  event.subject AS agent,
  data.customer AS customer,
  data.operation AS operation,
  data.surface AS surface,
  data.status AS status,
  data.status_code AS status_code,
  data.provider AS provider,
  data.model AS model,
  data.latency.total_us AS latency_us,
  data.latency.queue_us AS queue_us,
  data.latency.upstream_us AS upstream_us,
  data.latency.first_token_us AS first_token_us,
  data.request_bytes AS request_bytes,
  data.response_bytes AS response_bytes,
  data.session AS session,
  data.user AS user_id,
  data.run AS run_id,
  data.parent AS parent_id,
  data.traceparent AS traceparent,
  mapApply((meter, quantity) -> (meter, toDecimal128(quantity, 12)), data.usage) AS usage,
  cost,
  currency,
  price_book,
  arrayFilter(name -> name != '', splitByChar('\x1F', unpriced)) AS unpriced,
  toDecimal128(data.cost.amount, 12) AS stated_cost,
  data.cost.currency AS stated_currency,
  data.tags AS tags,
  data.governance.residency AS residency,
  data.governance.purpose AS purpose,
  data.governance.consent AS consent,
  data.corrects.id AS corrects_id,
  data.corrects.kind AS corrects_kind,
  data.request_signature AS request_signature,
  data.receipt AS receipt,
  unhex(data.salt) AS salt,
  producer,
  instance,
  sequence,
  arrayFilter(name -> name != '', splitByChar('\x1F', key_ids)) AS key_ids
FROM usage_lines;

-- Each row once, those of a write that is not complete yet included. Parts that do not overlap cost nothing extra, and an
-- event's month never changes, so FINAL need not look across months.
CREATE OR REPLACE VIEW usage_final AS
SELECT *, tokens, units
FROM usage_rows FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- As before: the two views must stay two.
CREATE OR REPLACE VIEW usage AS
SELECT * REPLACE (lower(hex(entry)) AS entry, lower(hex(salt)) AS salt)
FROM usage_final
WHERE position < (
  SELECT mapFromArrays(groupArray(log), groupArray(next))
  FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
)[log];

-- As before, from the projection by hour.
CREATE OR REPLACE VIEW density AS
SELECT log, sum(found) AS events, max(last) AS last_position,
       events + sum(gone) AS positions,
       positions = last_position + 1 AND sum(total) = intDiv(positions * (positions - 1), 2) AS dense
FROM (
  SELECT log, count() AS found, 0 AS gone, max(position) AS last, sum(position) AS total FROM usage_rows GROUP BY log
  UNION ALL
  SELECT log, 0, count(), max(position), sum(position) FROM usage_erased FINAL GROUP BY log
  UNION ALL
  SELECT log, 0, sum(events), max(last_position), sum(position_sum) FROM usage_retired FINAL GROUP BY log
)
GROUP BY log;

DROP TABLE IF EXISTS usage_events SYNC SETTINGS max_table_size_to_drop = 0;
