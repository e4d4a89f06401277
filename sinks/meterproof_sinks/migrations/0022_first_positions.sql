-- What sums by day lack is read from where it begins. Because of a day of which nothing was built yet, as each is at its start,
-- the rows were looked through from position 0 whenever sums were asked.

-- As before, with the lowest position, too.
CREATE OR REPLACE VIEW last_positions AS
SELECT log, toDate(hour) AS day, min(first) AS first, max(last) AS last
FROM (
  SELECT log, toStartOfHour(event_time) AS hour, min(position) AS first, max(position) AS last
  FROM usage_rows GROUP BY log, hour
)
GROUP BY log, day;

-- As before, with the first position that is there.
CREATE OR REPLACE VIEW groups_state AS
WITH (
  SELECT mapFromArrays(groupArray(log), groupArray(next))
  FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
) AS promised
SELECT
  log, day, max(old OR built > promised[log] OR (built > 0 AND corrected > built)) OVER (PARTITION BY day) AS ahead,
  if(ahead, 0, built) AS next, there > next AS behind, first
FROM (
  SELECT
    log, day, max(built) AS built, max(there) AS there, max(corrected) AS corrected, max(old) AS old, min(first) AS first
  FROM (
    SELECT
      log, day, next AS built, toUInt64(0) AS there, toUInt64(0) AS corrected, old, bitNot(toUInt64(0)) AS first
    FROM groups_built
    UNION ALL
    SELECT log, day, 0, last + 1, 0, 0, first FROM last_positions
    UNION ALL
    SELECT log, day, 0, 0, last + 1, 0, bitNot(toUInt64(0)) FROM last_corrections
  )
  GROUP BY log, day
);

-- As before, but for `lowest`.
CREATE OR REPLACE VIEW groups_read AS
SELECT
  groupUniqArrayIf(day, ahead) AS without,
  mapFromArrays(groupArrayIf(concat(toString(day), log), behind), groupArrayIf(next, behind)) AS rows_from,
  if(countIf(behind) = 0, bitNot(toUInt64(0)), minIf(greatest(next, first), behind)) AS lowest,
  groupUniqArrayIf(day, behind) AS open_days
FROM groups_state;

-- The same for the roll-up by day.
CREATE OR REPLACE VIEW days_state AS
WITH (
  SELECT mapFromArrays(groupArray(log), groupArray(next))
  FROM (SELECT log, argMax(next, log_offset) AS next FROM sink_progress GROUP BY log)
) AS promised
SELECT
  log, day, max(built > promised[log] OR (built > 0 AND corrected > built)) OVER (PARTITION BY day) AS ahead,
  if(ahead, 0, built) AS next, there > next AS behind, first
FROM (
  SELECT log, day, max(built) AS built, max(there) AS there, max(corrected) AS corrected, min(first) AS first
  FROM (
    SELECT log, day, next AS built, toUInt64(0) AS there, toUInt64(0) AS corrected, bitNot(toUInt64(0)) AS first
    FROM days_built
    UNION ALL
    SELECT log, day, 0, last + 1, 0, first FROM last_positions
    UNION ALL
    SELECT log, day, 0, 0, last + 1, bitNot(toUInt64(0)) FROM last_corrections
  )
  GROUP BY log, day
);

CREATE OR REPLACE VIEW days_read AS
SELECT
  groupUniqArrayIf(day, ahead) AS without,
  mapFromArrays(groupArrayIf(concat(toString(day), log), behind), groupArrayIf(next, behind)) AS rows_from,
  if(countIf(behind) = 0, bitNot(toUInt64(0)), minIf(greatest(next, first), behind)) AS lowest
FROM days_state;
