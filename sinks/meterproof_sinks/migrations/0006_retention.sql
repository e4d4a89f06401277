-- Months whose single events were given up after their time; hours and days stay in the roll-ups for ever.

CREATE TABLE IF NOT EXISTS usage_retired (
  log LowCardinality(String),
  month UInt32 COMMENT 'YYYYMM of event time',
  events UInt64,
  last_position UInt64,
  position_sum UInt64 COMMENT 'Modulo 2^64',
  cost Decimal(38, 12) COMMENT 'Of all currencies: to compare with, not to bill'
)
ENGINE = ReplacingMergeTree
ORDER BY (log, month)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Erased and retired positions are accounted for; all else as before.
CREATE OR REPLACE VIEW density AS
SELECT log, sum(found) AS events, max(last) AS last_position,
       events + sum(gone) AS positions,
       positions = last_position + 1 AND sum(total) = intDiv(positions * (positions - 1), 2) AS dense
FROM (
  SELECT log, count() AS found, 0 AS gone, max(position) AS last, sum(position) AS total FROM usage_events GROUP BY log
  UNION ALL
  SELECT log, 0, count(), max(position), sum(position) FROM usage_erased FINAL GROUP BY log
  UNION ALL
  SELECT log, 0, sum(events), max(last_position), sum(position_sum) FROM usage_retired FINAL GROUP BY log
)
GROUP BY log;
