-- Quantities and spend of each customer by day of the usage (UTC), one row per meter.
WITH events AS (
  SELECT customer, toDate(event_time) AS day, arrayJoin(usage) AS used
  FROM usage
)
SELECT
  customer,
  day,
  used.1 AS meter,
  count() AS events,
  sum(used.2) AS quantity,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM events
GROUP BY customer, day, meter
ORDER BY customer, day, meter
