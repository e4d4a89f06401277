-- Quantities and spend of each customer by day of the usage (UTC), one row per meter.
-- Events that name the same meters are added up first: much less than one row for each meter of each event.
WITH alike AS (
  SELECT
    customer,
    toDate(event_time) AS day,
    mapKeys(usage) AS meters,
    count() AS calls,
    sumForEach(mapValues(usage)) AS quantities
  FROM usage
  GROUP BY customer, day, meters
)
SELECT
  customer,
  day,
  meter,
  sum(calls) AS events,
  sum(used) AS quantity,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM alike
ARRAY JOIN meters AS meter, quantities AS used
GROUP BY customer, day, meter
ORDER BY customer, day, meter
