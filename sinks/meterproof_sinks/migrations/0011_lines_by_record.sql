-- Lines come in by log record from here on: what is the same for all of them is sent and read once, and this engine takes
-- them apart. A row so costs the sink half as much, and the engine two thirds; and an insert half as much before its first
-- row, since what is read of a line has a column, which is named by others at little cost.

-- A sink of an older version is refused from here on.
DROP TABLE IF EXISTS usage_lines_rows SYNC;
DROP TABLE IF EXISTS usage_lines SYNC;

-- One row per log record that has accepted events. Its lists are as long as it has lines; lines are joined by LF, which no
-- line can contain.
CREATE TABLE IF NOT EXISTS record_lines (
  log String, append_ms Int64, price_book UInt32, currency String, producer String, instance String, sequence UInt64,
  key_ids Array(String),
  positions Array(UInt64), events_us Array(Int64), costs Array(Decimal(38, 12)), unpriced Array(Array(String)), lines String
)
ENGINE = Null;

-- One row per line, with what was read of it.
CREATE TABLE IF NOT EXISTS event_lines (
  log String, append_ms Int64, price_book UInt32, currency String, producer String, instance String, sequence UInt64,
  key_ids Array(String),
  position UInt64, event_us Int64, cost Decimal(38, 12), unpriced Array(String), line String,
  event Tuple(
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
      request_signature String, receipt String, salt String))
)
ENGINE = Null;

-- Takes a line apart into columns. JSONExtract answers with defaults where it cannot read: an accepted line always has an id,
-- so an empty one means that this engine read it differently from the sequencer, and refuses the whole insert.
CREATE MATERIALIZED VIEW IF NOT EXISTS event_lines_rows TO usage_rows AS
SELECT
  log,
  position,
  SHA256(line) AS entry,
  fromUnixTimestamp64Micro(event_us, 'UTC') AS event_time,
  fromUnixTimestamp64Milli(append_ms, 'UTC') AS append_time,
  if(throwIf(event.id = '' OR empty(event.data.usage), 'an accepted event line could not be taken apart') = 0, event.id, '') AS id,
  event.source AS source,
  event.subject AS agent,
  event.data.customer AS customer,
  event.data.operation AS operation,
  event.data.surface AS surface,
  event.data.status AS status,
  event.data.status_code AS status_code,
  event.data.provider AS provider,
  event.data.model AS model,
  event.data.latency.total_us AS latency_us,
  event.data.latency.queue_us AS queue_us,
  event.data.latency.upstream_us AS upstream_us,
  event.data.latency.first_token_us AS first_token_us,
  event.data.request_bytes AS request_bytes,
  event.data.response_bytes AS response_bytes,
  event.data.session AS session,
  event.data.user AS user_id,
  event.data.run AS run_id,
  event.data.parent AS parent_id,
  event.data.traceparent AS traceparent,
  mapApply((meter, quantity) -> (meter, toDecimal128(quantity, 12)), event.data.usage) AS usage,
  cost,
  currency,
  price_book,
  unpriced,
  toDecimal128(event.data.cost.amount, 12) AS stated_cost,
  event.data.cost.currency AS stated_currency,
  event.data.tags AS tags,
  event.data.governance.residency AS residency,
  event.data.governance.purpose AS purpose,
  event.data.governance.consent AS consent,
  event.data.corrects.id AS corrects_id,
  event.data.corrects.kind AS corrects_kind,
  event.data.request_signature AS request_signature,
  event.data.receipt AS receipt,
  unhex(event.data.salt) AS salt,
  producer,
  instance,
  sequence,
  key_ids
FROM event_lines;

-- Takes a record apart into lines, and reads each once. ARRAY JOIN refuses lists of different lengths.
CREATE MATERIALIZED VIEW IF NOT EXISTS record_lines_apart TO event_lines AS
SELECT log, append_ms, price_book, currency, producer, instance, sequence, key_ids,
       position, event_us, cost, without_price AS unpriced, line,
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
        request_signature String, receipt String, salt String))') AS event
FROM record_lines
ARRAY JOIN
  positions AS position, events_us AS event_us, costs AS cost, unpriced AS without_price,
  splitByChar('\n', lines) AS line;
