-- What was erased or given up stays away, whoever writes it again: a sink that stood still meanwhile, or one that reads
-- old records once more. All rows below the progress row were there; of a log that lacks some on purpose, none is taken
-- in again. (What a later migration puts in the place of this query gets another name, so that this can be repeated.)

-- The logs of which something was erased or given up, each with its progress.
CREATE VIEW IF NOT EXISTS logs_with_gone AS
SELECT log, argMax(next, log_offset) AS next
FROM sink_progress
WHERE log IN (SELECT log FROM usage_erased UNION ALL SELECT log FROM usage_retired)
GROUP BY log;

-- As before, but for these rows.
ALTER TABLE event_lines_rows MODIFY QUERY
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
FROM event_lines
WHERE position >= (SELECT mapFromArrays(groupArray(log), groupArray(next)) FROM logs_with_gone)[log];
