-- Records, units and agents in all, by operation and by agent: one row, as agent-meter's GET /v1/summary tells it.
-- Read from `usage_sums`: exact up to now, and months whose rows were given up count on.
-- Units are all quantities of a record added up, as there: of meters with different units the sum means little.
WITH (
  SELECT groupArray((agent, operation, records, used))
  FROM (
    SELECT toString(agent) AS agent, toString(operation) AS operation, sum(events) AS records, sum(units) AS used
    FROM usage_sums
    GROUP BY agent, operation
  )
) AS parts
SELECT
  sum(part.3) AS total_records,
  sum(part.4) AS total_units,
  uniqExact(part.1) AS unique_agents,
  (
    SELECT mapFromArrays(groupArray(name), groupArray((counted, units)))
    FROM (
      SELECT one.2 AS name, sum(one.3) AS counted, sum(one.4) AS units
      FROM (SELECT arrayJoin(parts) AS one) GROUP BY name ORDER BY name
    )
  ) AS by_operation,
  (
    SELECT mapFromArrays(groupArray(name), groupArray((counted, units)))
    FROM (
      SELECT one.1 AS name, sum(one.3) AS counted, sum(one.4) AS units
      FROM (SELECT arrayJoin(parts) AS one) GROUP BY name ORDER BY name
    )
  ) AS by_agent,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM (SELECT arrayJoin(parts) AS part)
