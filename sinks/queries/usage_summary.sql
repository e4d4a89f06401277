-- Records, units and agents in all, by operation and by agent: one row, as agent-meter's GET /v1/summary tells it.
-- Units are all quantities of a record added up, as there: of meters with different units the sum means little.
WITH parts AS (
  SELECT agent, operation, count() AS records, sum(arraySum(mapValues(usage))) AS units
  FROM usage
  GROUP BY agent, operation
)
SELECT
  sum(records) AS total_records,
  sum(units) AS total_units,
  uniqExact(agent) AS unique_agents,
  (
    SELECT mapFromArrays(groupArray(operation), groupArray((counted, used)))
    FROM (SELECT operation, sum(records) AS counted, sum(units) AS used FROM parts GROUP BY operation ORDER BY operation)
  ) AS by_operation,
  (
    SELECT mapFromArrays(groupArray(agent), groupArray((counted, used)))
    FROM (SELECT agent, sum(records) AS counted, sum(units) AS used FROM parts GROUP BY agent ORDER BY agent)
  ) AS by_agent,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM parts
