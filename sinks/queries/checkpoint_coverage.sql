-- How much of each log a signed checkpoint covers: who holds it can prove these events to anybody. `covered_to` is the
-- ingest time of the newest event covered. `agrees` is 1 where each signed root is the one that the log record of that
-- size states, 0 where one differs (run `meterproof verify`), and empty where none of both is here.
WITH
  signed AS (
    SELECT log, max(size) AS size, max(clock_time) AS clock_time, count() AS checkpoints FROM checkpoints GROUP BY log
  ),
  compared AS (
    SELECT checkpoints.log AS log, min(checkpoints.root = records.root) AS agrees
    FROM checkpoints INNER JOIN records ON records.log = checkpoints.log AND records.log_offset = checkpoints.log_offset
    GROUP BY log
  )
SELECT
  up_to.log AS log,
  up_to.events AS events,
  least(signed.size, events) AS covered,
  events - covered AS not_covered,
  signed.clock_time AS covered_to,
  signed.checkpoints AS checkpoints,
  if(compared.log = '', NULL, compared.agrees) AS agrees,
  up_to.append_time AS up_to
FROM up_to
LEFT JOIN signed ON signed.log = up_to.log
LEFT JOIN compared ON compared.log = up_to.log
ORDER BY log
