-- Totals say up to when they are complete, where before they said when the newest record of any log had come in: a log whose
-- rows stand still made that untrue. Signed checkpoints say what a log holds; what they tell and the rows lack is known to lag.

-- Of each log the newest checkpoint, told from one row of each part.
ALTER TABLE usage_checkpoints
  MODIFY SETTING deduplicate_merge_projection_mode = 'rebuild', lightweight_mutation_projection_mode = 'rebuild';
ALTER TABLE usage_checkpoints ADD PROJECTION IF NOT EXISTS newest (
  SELECT log, max(size), max(log_offset), max(clock_time), max(recorded_at) GROUP BY log
);
ALTER TABLE usage_checkpoints MATERIALIZE PROJECTION newest;

CREATE VIEW IF NOT EXISTS newest_checkpoints AS
SELECT
  log, max(size) AS size, max(log_offset) AS log_offset, max(clock_time) AS clock_time, max(recorded_at) AS recorded_at
FROM usage_checkpoints
GROUP BY log;

-- How far each log is in that has rows or a checkpoint. Only the end of a log is read: the record that progress names, and some
-- before it, should that one be in quarantine. Progress is looked up before the rows of records are fixed, as for `usage`.
CREATE OR REPLACE VIEW up_to AS
WITH
  toDateTime64(0, 3, 'UTC') AS never,
  (
    SELECT groupArray((log, log_offset))
    FROM (SELECT log, max(log_offset) AS log_offset FROM sink_progress GROUP BY log)
  ) AS ends
SELECT
  log,
  max(size) AS events,
  nullIf(max(append), never) AS append_time,
  nullIf(max(clock), never) AS clock_time,
  max(signed) AS signed_events,
  greatest(signed_events, events) - events AS events_behind,
  max(signed_records) > max(records) AS lags,
  nullIf(max(signed_at), never) AS checkpoint_time
FROM (
  SELECT
    log, size, append_time AS append, clock_time AS clock, log_offset + 1 AS records,
    toUInt64(0) AS signed, toUInt64(0) AS signed_records, never AS signed_at
  FROM records_final
  WHERE (log, log_offset) IN (
    SELECT ended.1, toUInt64(ended.2 - arrayJoin(range(64))) FROM (SELECT arrayJoin(ends) AS ended)
  )
  UNION ALL
  SELECT log, 0, never, never, 0, newest_checkpoints.size, log_offset + 1, recorded_at FROM newest_checkpoints
)
GROUP BY log;

-- Up to when all is in, by the broker's clock; one row. Of a log that lags, up to its newest record that is in. Of any other, up
-- to that or to the newest checkpoint of all: what had come before that would be known. Never later than the newest record that
-- is in. NULL while nothing is in of a log that has a checkpoint. Without any checkpoint nothing is known to lag.
CREATE VIEW IF NOT EXISTS complete_up_to AS
WITH toDateTime64(0, 3, 'UTC') AS never, toDateTime64('2200-01-01', 3, 'UTC') AS no_bound
SELECT
  nullIf(
    least(
      max(newest), min(if(lags, newest, no_bound)),
      greatest(min(if(lags, no_bound, newest)), if(max(signed_at) = never, no_bound, max(signed_at)))
    ),
    never
  ) AS append_time
FROM (SELECT ifNull(append_time, never) AS newest, lags, ifNull(checkpoint_time, never) AS signed_at FROM up_to);
