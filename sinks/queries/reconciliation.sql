-- Differences that must not be: read it as "empty is right".
-- It looks at every identity, so it takes longer than the other queries: ask it now and then, not on a dashboard.
-- An event that arrived twice or is missing, and an identity that was counted under two agents (in two logs).
-- Events that were erased or given up count as held. The records are added up before anything else is read, so what comes
-- in meanwhile is no difference: rows are counted in all, less those at and above the records' sizes, where a query sees one
-- state of each table wherever it reads it; else one by one. Identities whose hashes are alike are compared, if there are any:
-- hashes are looked through in 4096 parts, of which each fits the processor's cache, in half the time of all at once.
WITH
  (
    SELECT mapFromArrays(groupArray(log), groupArray(size))
    FROM (SELECT log, sum(accepted) AS size FROM records GROUP BY log)
  ) AS sizes,
  getSettingOrDefault('enable_shared_storage_snapshot_in_query', false) AS in_one_state,
  (
    SELECT groupArrayArray(arrayFilter((likeness, times) -> times > 1, part, arrayEnumerateUniq(part)))
    FROM (
      SELECT groupArray(likeness) AS part FROM usage_rows FINAL GROUP BY bitShiftRight(likeness, 52)
      HAVING arrayUniq(part) < length(part)
    )
  ) AS alike
SELECT * FROM (
SELECT 'rows are not dense' AS difference, log AS place, toString(events) AS detail
FROM density
WHERE NOT dense
UNION ALL
SELECT 'records and events disagree', log, concat(toString(sizes[log]), ' in records, ', toString(sum(held)), ' in events')
FROM (
  SELECT log, toInt64(count()) AS held FROM usage_final WHERE in_one_state GROUP BY log
  UNION ALL
  SELECT log, -toInt64(count())
  FROM usage_final
  WHERE in_one_state AND position >= arrayMin(mapValues(sizes)) AND position >= sizes[log]
  GROUP BY log
  UNION ALL
  SELECT log, toInt64(count()) FROM usage_final WHERE NOT in_one_state AND position < sizes[log] GROUP BY log
  UNION ALL
  SELECT log, toInt64(count()) FROM usage_erased FINAL WHERE position < sizes[log] GROUP BY log
  UNION ALL
  SELECT log, toInt64(sum(events)) FROM usage_retired FINAL GROUP BY log
  UNION ALL
  SELECT arrayJoin(mapKeys(sizes)), toInt64(0)
)
GROUP BY log
HAVING sum(held) != sizes[log]
UNION ALL
SELECT 'one identity under two agents', source, id
FROM usage
WHERE notEmpty(alike) AND cityHash64(source, id) IN alike
GROUP BY source, id
HAVING min(agent) != max(agent)
)
ORDER BY difference, place, detail
