-- Differences that must not be: read it as "empty is right".
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
GROUP BY source, id
HAVING min(agent) != max(agent)
)
ORDER BY difference, place, detail
