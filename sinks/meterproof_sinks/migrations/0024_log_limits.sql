-- What a log's first record fixes and rows do not tell: how late an event of it may come. Noted by the sink, once by each run.

CREATE TABLE IF NOT EXISTS log_limits (
  log LowCardinality(String),
  horizon_ms UInt64 COMMENT 'How long after its time an event is accepted, by the ingest clock',
  future_tolerance_ms UInt64 COMMENT 'How far before its time'
)
ENGINE = ReplacingMergeTree
ORDER BY log
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
