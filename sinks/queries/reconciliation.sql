-- Differences that must not be: read it as "empty is right".
-- It reads every identity, so it takes longer than the other queries: ask it now and then, not on a dashboard.
-- An event that arrived twice or is missing, and an identity that was counted under two agents (in two logs).
SELECT * FROM (
SELECT 'rows are not dense' AS difference, log AS place, toString(events) AS detail
FROM density
WHERE NOT dense
UNION ALL
SELECT 'records and events disagree', r.log, concat(toString(r.size), ' in records, ', toString(e.events), ' in events')
FROM (SELECT log, sum(accepted) AS size FROM records GROUP BY log) AS r
LEFT JOIN (SELECT log, count() AS events FROM usage GROUP BY log) AS e ON r.log = e.log
WHERE r.size != e.events
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
