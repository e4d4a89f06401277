-- Differences that must not be: read it as "empty is right".
-- It reads every identity, so it takes longer than the other queries: ask it now and then, not on a dashboard.
-- An event that arrived twice or is missing, and an identity that was counted under two agents (in two logs).
-- Events that were erased or given up count as held. The records are added up before anything else is read, so what comes
-- in meanwhile is no difference.
WITH (
  SELECT mapFromArrays(groupArray(log), groupArray(size))
  FROM (SELECT log, sum(accepted) AS size FROM records GROUP BY log)
) AS sizes
SELECT * FROM (
SELECT 'rows are not dense' AS difference, log AS place, toString(events) AS detail
FROM density
WHERE NOT dense
UNION ALL
SELECT 'records and events disagree', log, concat(toString(sizes[log]), ' in records, ', toString(sum(held)), ' in events')
FROM (
  SELECT log, count() AS held FROM usage_final WHERE position < sizes[log] GROUP BY log
  UNION ALL
  SELECT log, count() FROM usage_erased FINAL WHERE position < sizes[log] GROUP BY log
  UNION ALL
  SELECT log, sum(events) FROM usage_retired FINAL GROUP BY log
  UNION ALL
  SELECT arrayJoin(mapKeys(sizes)), 0
)
GROUP BY log
HAVING sum(held) != sizes[log]
UNION ALL
SELECT 'one identity under two agents', source, id
FROM usage
WHERE sipHash64(source, id) IN (
  SELECT identity
  FROM (SELECT sipHash64(source, id) AS identity, sipHash64(agent) AS who FROM usage)
  GROUP BY identity
  HAVING min(who) != max(who)
)
GROUP BY source, id
HAVING min(agent) != max(agent)
)
ORDER BY difference, place, detail
