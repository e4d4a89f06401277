-- Rows that the tables will not have, each with the error it gave alone: so that one row never keeps others out, and is
-- never lost without a word. Empty is right; `meterproof reconcile` counts each as a difference.
CREATE TABLE IF NOT EXISTS quarantine (
  log LowCardinality(String),
  kind LowCardinality(String) COMMENT 'event, or record: a log record',
  position UInt64 COMMENT 'Of an event in its log; of a log record, its offset',
  digest String COMMENT 'SHA-256 of the row below, in hexadecimal; of an event that is its entry in the Merkle log',
  error String COMMENT 'What the engine said, or why it was not asked',
  row String COMMENT 'Of an event, its line; of a log record, the row as it was sent',
  added_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'For people; nothing depends on it'
)
ENGINE = ReplacingMergeTree
ORDER BY (log, kind, position)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
