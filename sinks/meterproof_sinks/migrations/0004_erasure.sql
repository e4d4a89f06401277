-- What was erased on request: the place and the digest of each event, and who asked. The events themselves are gone.

CREATE TABLE IF NOT EXISTS usage_erased (
  log LowCardinality(String),
  position UInt64 CODEC(Delta, ZSTD),
  entry String COMMENT 'SHA-256 of the erased line, in hexadecimal: the Merkle log still holds it' CODEC(ZSTD),
  request String COMMENT 'Id of the erasure'
)
ENGINE = ReplacingMergeTree
ORDER BY (log, position)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS erasures (
  request String COMMENT 'Random id',
  requested_at DateTime64(3, 'UTC'),
  requested_by String COMMENT 'Who asked',
  reason String,
  kind LowCardinality(String) COMMENT 'agent or customer',
  salt String COMMENT '16 random bytes in hexadecimal',
  name_digest String COMMENT 'SHA-256 of salt and name: shows whether a given name was meant, without stating it',
  events UInt64 COMMENT 'Erased here'
)
ENGINE = ReplacingMergeTree
ORDER BY request
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Erased positions are accounted for; all else as before.
CREATE OR REPLACE VIEW density AS
SELECT log, sum(found) AS events, max(last) AS last_position,
       events + sum(gone) AS positions,
       positions = last_position + 1 AND sum(total) = intDiv(positions * (positions - 1), 2) AS dense
FROM (
  SELECT log, count() AS found, 0 AS gone, max(position) AS last, sum(position) AS total FROM usage_events GROUP BY log
  UNION ALL
  SELECT log, 0, count(), max(position), sum(position) FROM usage_erased FINAL GROUP BY log
)
GROUP BY log;
