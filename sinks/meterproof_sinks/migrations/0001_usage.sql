-- The tables that the log's accepted events are carried into. Row identity = (log, position), decided by the sequencer;
-- nothing here decides again what is a duplicate. Statements end with ";" at the end of a line and can be repeated.

-- One row per accepted event. A repeated insert of a row lands in the same partition under the same sorting key, because
-- both are made of what never changes about an event, and so it is removed by a merge, or by FINAL before that.
CREATE TABLE IF NOT EXISTS usage_events (
  log LowCardinality(String) COMMENT 'Origin of the log: <name>/<epoch>/p<partition>',
  position UInt64 COMMENT 'Index in the log: dense from 0' CODEC(Delta, ZSTD),
  entry FixedString(32) COMMENT 'SHA-256 of the event line: what the Merkle log holds',
  event_time DateTime64(6, 'UTC') COMMENT 'When the usage happened, by the source' CODEC(Delta, ZSTD),
  append_time DateTime64(3, 'UTC') COMMENT 'When the broker took the batch' CODEC(Delta, ZSTD),
  id String COMMENT 'Identity, with source',
  source LowCardinality(String) COMMENT 'Service that reports',
  agent LowCardinality(String) COMMENT 'Who consumed (CloudEvents subject)',
  customer LowCardinality(String) COMMENT 'Who pays',
  operation LowCardinality(String),
  surface LowCardinality(String),
  status LowCardinality(String),
  status_code Nullable(UInt16),
  provider LowCardinality(String),
  model LowCardinality(String),
  latency_us Nullable(UInt64) COMMENT 'Whole call',
  queue_us Nullable(UInt64),
  upstream_us Nullable(UInt64),
  first_token_us Nullable(UInt64),
  request_bytes Nullable(UInt64),
  response_bytes Nullable(UInt64),
  session String,
  user_id String,
  run_id String,
  parent_id String,
  traceparent String,
  usage Map(LowCardinality(String), Decimal(38, 12)) COMMENT 'Quantity by meter',
  cost Decimal(38, 12) COMMENT 'Spend by the price book in force',
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
  request_signature String,
  receipt String,
  salt String COMMENT 'Random bytes that keep the entry from telling the line',
  producer LowCardinality(String),
  instance LowCardinality(String) COMMENT 'Random per start of the producer',
  sequence UInt64 COMMENT 'Number of the batch in the series of the instance',
  key_ids Array(LowCardinality(String)) COMMENT 'Keys that signed the batch',
  PROJECTION dense (SELECT log, count(), max(position), sum(position) GROUP BY log)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (customer, agent, toStartOfHour(event_time))
ORDER BY (customer, agent, toStartOfHour(event_time), log, position)
SETTINGS
  deduplicate_merge_projection_mode = 'rebuild', lightweight_mutation_projection_mode = 'rebuild',
  min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1,
  fsync_after_insert = 1, fsync_part_directory = 1;

-- One row per log record: what became of each batch. Duplicates and refusals live here, they never become events.
CREATE TABLE IF NOT EXISTS usage_records (
  log LowCardinality(String),
  log_offset UInt64 COMMENT 'Offset of the record on usage.log' CODEC(Delta, ZSTD),
  digest String COMMENT 'SHA-256 of the record, in hexadecimal' CODEC(ZSTD),
  kind LowCardinality(String),
  reason LowCardinality(String) COMMENT 'Why the whole record was refused; empty when its lines were judged one by one',
  source_offset UInt64 CODEC(Delta, ZSTD),
  source_count UInt64,
  append_time DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
  clock_time DateTime64(3, 'UTC') COMMENT 'Ingest clock' CODEC(Delta, ZSTD),
  first UInt64 COMMENT 'Position of the first accepted event' CODEC(Delta, ZSTD),
  size UInt64 COMMENT 'Events in the log after this record' CODEC(Delta, ZSTD),
  root String COMMENT 'Merkle root of the log after this record, in hexadecimal' CODEC(ZSTD),
  lines UInt32 COMMENT 'Events in the batch as its vouched-for header counts them; 0 where no known key vouches',
  accepted UInt32,
  duplicates UInt32,
  refusals Map(LowCardinality(String), UInt32) COMMENT 'Lines refused one by one, by reason',
  producer LowCardinality(String) COMMENT 'Empty where no known key vouches',
  instance LowCardinality(String),
  sequence UInt64,
  sent_at String COMMENT 'Clock of the producer, for people',
  key_ids Array(LowCardinality(String)),
  registry LowCardinality(String) COMMENT 'Digest of the key registry in force',
  price_book UInt32,
  writer LowCardinality(String),
  generation Int64
)
ENGINE = ReplacingMergeTree
ORDER BY (log, log_offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- How far this database is complete: everything up to and with the record at log_offset is in it. A row is written only
-- after all that it speaks for was acknowledged. Read it as argMax(..., log_offset) by log, never without aggregation.
CREATE TABLE IF NOT EXISTS sink_progress (
  log LowCardinality(String),
  partition UInt32,
  epoch String,
  log_offset UInt64 COMMENT 'Last record that is here whole',
  digest String COMMENT 'SHA-256 of that record, in hexadecimal',
  next UInt64 COMMENT 'First position that is not here',
  written_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'For people; nothing depends on it'
)
ENGINE = ReplacingMergeTree(log_offset)
ORDER BY log
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Event lines come in as they stand in the log, each behind what only the record and the price book know of it.
CREATE TABLE IF NOT EXISTS usage_in (
  log String, position UInt64, event_us Int64, append_ms Int64, price_book UInt32, cost Decimal(38, 12), currency String,
  unpriced String, producer String, instance String, sequence UInt64, key_ids String, line String
)
ENGINE = Null;

-- Takes a line apart, once. JSONExtract answers with defaults where it cannot read: an accepted line always has an id, so
-- an empty one means that this engine read it differently from the sequencer, and refuses the whole insert.
-- Lists of names are joined by the unit separator (0x1F), which no name can contain.
CREATE MATERIALIZED VIEW IF NOT EXISTS usage_in_rows TO usage_events AS
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
FROM usage_in;

-- Each row once, those of a write that is not complete yet included. A month that is merged to one part costs nothing
-- extra, and an event's month never changes, so FINAL need not look across months.
CREATE VIEW IF NOT EXISTS usage_final AS
SELECT * FROM usage_events FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- What everybody reads: every event of every log exactly once, whatever was retried, cut differently or replayed. The
-- positions below the progress row leave out a write of which only a part has arrived.
-- The two views must stay two. Progress is looked up when this one is analysed, and only then is the inner one analysed,
-- which is when the engine fixes the parts that it will read: so whatever progress promises is among them. In a single
-- view the parts are fixed first, and a write that ends in between would be shown torn.
CREATE VIEW IF NOT EXISTS usage AS
SELECT * REPLACE (lower(hex(entry)) AS entry, lower(hex(salt)) AS salt)
FROM usage_final
WHERE position < (
  SELECT mapFromArrays(groupArray(log), groupArray(next))
  FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
)[log];

-- The same, in the same way, for the log records.
CREATE VIEW IF NOT EXISTS records_final AS
SELECT * FROM usage_records FINAL;

CREATE VIEW IF NOT EXISTS records AS
SELECT *
FROM records_final
WHERE log_offset < (
  SELECT mapFromArrays(groupArray(log), groupArray(above))
  FROM (SELECT log, max(log_offset) + 1 AS above FROM sink_progress GROUP BY log)
)[log];

-- Positions are dense, so this tells in milliseconds whether a plain read of usage_events would be exact: as many rows
-- as the highest position says, and the sum that goes with it. It answers from the projection, before any merge.
CREATE VIEW IF NOT EXISTS density AS
SELECT log, count() AS events, max(position) AS last_position,
       events = last_position + 1 AND sum(position) = intDiv(events * (events - 1), 2) AS dense
FROM usage_events
GROUP BY log;
