-- While a database is made again from an audit folder, totals are complete as far as the log that is furthest behind, as they
-- are later by signed checkpoints: their topic is not read then, and they say nothing of what came behind them.

-- How far each log goes in the folder that its rows were made from last; noted before the first of them.
CREATE TABLE IF NOT EXISTS folder_ends (
  log LowCardinality(String),
  log_offset UInt64 COMMENT 'Of the last record in the folder, on usage.log',
  size UInt64 COMMENT 'Events up to and with it'
)
ENGINE = ReplacingMergeTree(log_offset)
ORDER BY log
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- As before; and a log of which the folder has more than is in lags, too.
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
  greatest(max(known), events) - events AS events_behind,
  max(known_records) > max(records) AS lags,
  nullIf(max(signed_at), never) AS checkpoint_time
FROM (
  SELECT
    log, size, append_time AS append, clock_time AS clock, log_offset + 1 AS records,
    toUInt64(0) AS signed, toUInt64(0) AS known, toUInt64(0) AS known_records, never AS signed_at
  FROM records_final
  WHERE (log, log_offset) IN (
    SELECT ended.1, toUInt64(ended.2 - arrayJoin(range(64))) FROM (SELECT arrayJoin(ends) AS ended)
  )
  UNION ALL
  SELECT
    log, 0, never, never, 0, newest_checkpoints.size, newest_checkpoints.size, log_offset + 1, recorded_at
  FROM newest_checkpoints
  UNION ALL
  SELECT log, 0, never, never, 0, 0, folder_ends.size, log_offset + 1, never FROM folder_ends
)
GROUP BY log;
