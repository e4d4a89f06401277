-- Corrections: events that were taken back or replaced, and what did so, stay as rows and are left out of every total.
-- Signed rows would make sums right, but neither a count, a percentile, a dearest call nor a number of agents. So what is
-- left out is named once, by `usage_uncounted`, and each query that reads `usage` or a roll-up is right without knowing of it.

-- One row per accepted correction, as its log record states it; written before progress goes past it. It holds nothing of
-- an event but its time and digests, so nothing is to be erased from it.
CREATE TABLE IF NOT EXISTS usage_corrections (
  log LowCardinality(String) COMMENT 'Origin of the log',
  position UInt64 COMMENT 'Of the correction',
  kind LowCardinality(String) COMMENT 'void or replace',
  effect LowCardinality(String) COMMENT 'What it does: only applied changes a total',
  event_us Int64 COMMENT 'Time of the event that it corrects, and its own: microseconds since 1970',
  target String COMMENT 'SHA-256 of the line of the event that it corrects, in hexadecimal'
)
ENGINE = ReplacingMergeTree
ORDER BY (log, position)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Rows that no total counts, each with the position of the correction by which it is so: voids, corrections that do nothing,
-- and the events that were voided or replaced. A replacement counts in place of its event. An event is found by its time,
-- for which the rows have an index. What was erased or given up has no row here.
CREATE VIEW IF NOT EXISTS usage_uncounted AS
SELECT log, position, toDate(event_time) AS day, position AS by
FROM usage_rows
WHERE (log, position) IN (
  SELECT log, position FROM usage_corrections WHERE NOT (effect = 'applied' AND kind = 'replace')
)
UNION ALL
SELECT events.log, events.position, toDate(events.event_time), applied.by
FROM (
  SELECT log, position, event_time, entry
  FROM usage_rows
  WHERE event_time IN (
    SELECT fromUnixTimestamp64Micro(event_us, 'UTC') FROM usage_corrections WHERE effect = 'applied'
  )
) AS events
INNER JOIN (
  SELECT DISTINCT log, position AS by, toFixedString(unhex(target), 32) AS entry
  FROM usage_corrections WHERE effect = 'applied'
) AS applied ON applied.log = events.log AND applied.entry = events.entry;

-- As before, but for what is left out. Progress is asked for before anything else, so what it promises is among the rows.
CREATE OR REPLACE VIEW usage AS
SELECT * REPLACE (lower(hex(entry)) AS entry, lower(hex(salt)) AS salt)
FROM usage_final
WHERE position < (
  SELECT mapFromArrays(groupArray(log), groupArray(next))
  FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
)[log] AND (
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

-- Every correction that is in, with what it does.
CREATE VIEW IF NOT EXISTS corrections AS
SELECT
  usage_final.log AS log, usage_final.position AS position, stated.effect AS effect, corrects_kind AS kind, corrects_id, id, event_time, append_time, producer, source,
  agent, customer
FROM usage_final
INNER JOIN (SELECT log, position, any(effect) AS effect FROM usage_corrections GROUP BY log, position) AS stated
  ON stated.log = usage_final.log AND stated.position = usage_final.position
WHERE (usage_final.log, usage_final.position) IN (SELECT log, position FROM usage_corrections) AND position < (
  SELECT mapFromArrays(groupArray(log), groupArray(next))
  FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
)[log];

-- As before, and the days of the roll-up that hold something which was corrected since: they, too, are read from the rows.
CREATE OR REPLACE VIEW days_ahead AS
SELECT DISTINCT day
FROM days_built
WHERE next > (
  SELECT mapFromArrays(groupArray(log), groupArray(next))
  FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
)[log]
UNION ALL
SELECT DISTINCT corrected.day
FROM (
  SELECT log, toDate(fromUnixTimestamp64Micro(event_us, 'UTC')) AS day, max(position) AS last
  FROM usage_corrections WHERE effect = 'applied' GROUP BY log, day
) AS corrected
INNER JOIN days_built ON days_built.log = corrected.log AND days_built.day = corrected.day
WHERE corrected.last >= days_built.next;

-- How many of the events given up counted for nothing.
ALTER TABLE usage_retired ADD COLUMN IF NOT EXISTS uncounted UInt64 AFTER events;

-- How many events no total counts, of all that are in or were given up.
CREATE VIEW IF NOT EXISTS uncounted_events AS
SELECT sum(found) AS events
FROM (
  SELECT uniqExact(log, position) AS found
  FROM usage_uncounted
  WHERE by < (
    SELECT mapFromArrays(groupArray(log), groupArray(next))
    FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
  )[log]
  UNION ALL
  SELECT sum(uncounted) FROM usage_retired FINAL
);
