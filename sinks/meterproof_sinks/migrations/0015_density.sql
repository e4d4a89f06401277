-- Density is told by a fingerprint of the positions, and only of what progress promises.

-- As `hours`, and with each position's step: the hash of the next position less its own. Over 0, 1, … n - 1 the steps add up to
-- the hash of n less that of 0; over anything else, whatever is missing or repeated, hardly ever (1 in 2^64).
ALTER TABLE usage_rows ADD PROJECTION IF NOT EXISTS stretches (
  SELECT
    log, toStartOfHour(event_time), count(), min(position), max(position), sum(position),
    sum(intHash64(position + 1) - intHash64(position))
  GROUP BY log, toStartOfHour(event_time)
);
ALTER TABLE usage_rows MATERIALIZE PROJECTION stretches;
ALTER TABLE usage_rows DROP PROJECTION IF EXISTS hours;

-- What was given up before this cannot be hashed any more: of such a log density compares count and sum, as before.
ALTER TABLE usage_retired ADD COLUMN IF NOT EXISTS step_sum Nullable(Int64) COMMENT 'Of hash(position + 1) - hash(position)';

-- The rows as they lie on disk, repeats included. A view of its own, as `usage_final` is: so progress is looked up before what a
-- query reads of the rows is fixed.
CREATE VIEW IF NOT EXISTS usage_on_disk AS
SELECT log, position FROM usage_rows;

-- Below the progress row: a write to several months is there in several steps, and none of it counts before the last. What is
-- at and above it is taken off where a query sees one state of the rows wherever it reads them; else rows are read one by one.
CREATE OR REPLACE VIEW density AS
WITH
  (
    SELECT mapFromArrays(groupArray(log), groupArray(next))
    FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
  ) AS promised,
  getSettingOrDefault('enable_shared_storage_snapshot_in_query', false) AS in_one_state
SELECT
  log, sum(found) AS events, promised[log] - 1 AS last_position, events + sum(gone) AS positions,
  positions = promised[log]
    AND toUInt64(sum(total)) = toUInt64(intDiv(toUInt256(promised[log]) * last_position, 2))
    AND (sum(step_sum IS NULL) > 0 OR sum(step_sum) = intHash64(promised[log]) - intHash64(0)) AS dense
FROM (
  SELECT
    log, toInt64(count()) AS found, toInt64(0) AS gone, toInt64(sum(position)) AS total,
    CAST(sum(intHash64(position + 1) - intHash64(position)), 'Nullable(Int64)') AS step_sum
  FROM usage_on_disk WHERE in_one_state GROUP BY log
  UNION ALL
  SELECT log, -toInt64(count()), 0, -toInt64(sum(position)), -sum(intHash64(position + 1) - intHash64(position))
  FROM usage_on_disk
  WHERE in_one_state AND position >= arrayMin(mapValues(promised)) AND position >= promised[log] GROUP BY log
  UNION ALL
  SELECT log, toInt64(count()), 0, toInt64(sum(position)), sum(intHash64(position + 1) - intHash64(position))
  FROM usage_on_disk WHERE NOT in_one_state AND position < promised[log] GROUP BY log
  UNION ALL
  SELECT log, 0, 1, toInt64(position), intHash64(position + 1) - intHash64(position)
  FROM usage_erased FINAL WHERE position < promised[log]
  UNION ALL
  SELECT log, 0, toInt64(events), toInt64(position_sum), step_sum FROM usage_retired FINAL
  UNION ALL
  SELECT arrayJoin(mapKeys(promised)), 0, 0, 0, 0
)
WHERE promised[log] > 0
GROUP BY log;
