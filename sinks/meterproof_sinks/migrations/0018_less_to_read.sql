-- Queries of the rows read no positions where progress promises all rows, which is a third of their time; and who calls whom
-- keeps each trace of a caller once, as two numbers, which are compared in a third of the time that sets of names take.

-- As before. Where a query sees one state of the rows wherever it reads them, and none of that is at or above the progress row,
-- each row counts without being asked for its position. Progress is looked up before that state is fixed.
CREATE OR REPLACE VIEW usage AS
SELECT * REPLACE (lower(hex(entry)) AS entry, lower(hex(salt)) AS salt)
FROM usage_final
WHERE (
  (
    getSettingOrDefault('enable_shared_storage_snapshot_in_query', false)
    AND (
      SELECT count()
      FROM last_positions
      WHERE last >= (
        SELECT mapFromArrays(groupArray(log), groupArray(next))
        FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
      )[log]
    ) = 0
  )
  OR position < (
    SELECT mapFromArrays(groupArray(log), groupArray(next))
    FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
  )[log]
) AND (
  (SELECT count() FROM usage_corrections) = 0
  OR (log, position) NOT IN (
    SELECT log, position
    FROM usage_uncounted
    WHERE by < (
      SELECT mapFromArrays(groupArray(log), groupArray(next))
      FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
    )[log]
  )
);

-- Columns are added and nothing is made anew: a day that was built before is told by its form, read from the events, and built
-- again by the next refresh. Roll-ups of a sink of an older version are refused from here on; its rows are not.
ALTER TABLE usage_groups
  ADD COLUMN IF NOT EXISTS callees Array(LowCardinality(String)) COMMENT 'Of kind calls: the source; of kind traces: all that they called' AFTER operations,
  ADD COLUMN IF NOT EXISTS traces_high Array(UInt64) COMMENT 'Of kind traces: of each trace id the first half, as eight bytes' CODEC(NONE) AFTER callees,
  ADD COLUMN IF NOT EXISTS traces_low Array(UInt64) COMMENT 'The second half' CODEC(NONE) AFTER traces_high,
  ADD COLUMN IF NOT EXISTS form UInt8 COMMENT 'Only in marker rows: 1 since there is the kind traces';

-- How far each day of the groups goes, and whether it is of an older form.
CREATE OR REPLACE VIEW groups_built AS
SELECT log, toDate(start) AS day, max(built_to) AS next, min(form) < 1 AS old
FROM usage_groups WHERE kind = '' GROUP BY log, day;

-- As before, and a day of an older form is read from the rows, too.
CREATE OR REPLACE VIEW groups_state AS
WITH (
  SELECT mapFromArrays(groupArray(log), groupArray(next))
  FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
) AS promised
SELECT
  log, day, max(old OR built > promised[log] OR (built > 0 AND corrected > built)) OVER (PARTITION BY day) AS ahead,
  if(ahead, 0, built) AS next, there > next AS behind
FROM (
  SELECT log, day, max(built) AS built, max(there) AS there, max(corrected) AS corrected, max(old) AS old
  FROM (
    SELECT log, day, next AS built, toUInt64(0) AS there, toUInt64(0) AS corrected, old FROM groups_built
    UNION ALL
    SELECT log, day, 0, last + 1, 0, 0 FROM last_positions
    UNION ALL
    SELECT log, day, 0, 0, last + 1, 0 FROM last_corrections
  )
  GROUP BY log, day
);

-- As before, without days of an older form.
CREATE OR REPLACE VIEW rollup_progress AS
SELECT 'minute' AS rollup, toDate(start) AS day, log, max(built_to) AS next
FROM usage_minutes WHERE built_to > 0 GROUP BY day, log
UNION ALL
SELECT 'hour' AS rollup, toDate(start) AS day, log, max(built_to) AS next
FROM usage_hours WHERE built_to > 0 GROUP BY day, log
UNION ALL
SELECT 'day' AS rollup, toDate(start) AS day, log, max(built_to) AS next
FROM usage_days WHERE built_to > 0 GROUP BY day, log
UNION ALL
SELECT 'group' AS rollup, day, log, next FROM groups_built WHERE NOT old;

-- Every event that carries a trace, up to the progress row: calls in one row of a day's caller and callee, traces in one of its
-- caller and all the callees that they called. What is not in a group yet is a row of both. A trace may be in several rows.
CREATE OR REPLACE VIEW call_sums AS
SELECT agent AS caller, callees, events, failed, operations, traces_high, traces_low
FROM usage_groups
WHERE getSettingOrDefault('enable_shared_storage_snapshot_in_query', false)
  AND (SELECT count() FROM sink_progress) > 0
  AND NOT has((SELECT (without, rows_from, lowest, open_days) FROM groups_read).1, toDate(start))
  AND toYYYYMM(start) NOT IN (SELECT month FROM usage_retired) AND kind IN ('calls', 'traces')
UNION ALL
SELECT
  agent, [source], 1, status NOT IN ('', 'ok'), [operation],
  [reinterpretAsUInt64(unhex(substring(traceparent, 4, 16)))], [reinterpretAsUInt64(unhex(substring(traceparent, 20, 16)))]
FROM usage_ungrouped
WHERE traceparent != '';

-- Nothing reads these any more.
DROP VIEW IF EXISTS usage_pieces;
ALTER TABLE usage_groups DROP COLUMN IF EXISTS traces;
ALTER TABLE usage_groups COMMENT COLUMN kind 'session, run, calls, traces, peak or waste; empty in marker rows';
