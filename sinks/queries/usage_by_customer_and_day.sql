-- Quantities and spend of each customer by day of the usage (UTC), one row per meter.
-- Read from `usage_sums`: exact up to now, and months whose rows were given up count on.
-- What names the same meters is added up first: much less than one row for each meter of each sum.
WITH alike AS (
  SELECT
    customer,
    day,
    mapKeys(usage) AS meters,
    sum(usage_sums.events) AS calls,
    sumForEach(mapValues(usage)) AS quantities
  FROM usage_sums
  GROUP BY customer, day, meters
)
SELECT
  customer,
  day,
  meter,
  sum(calls) AS events,
  sum(used) AS quantity,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM alike
ARRAY JOIN meters AS meter, quantities AS used
GROUP BY customer, day, meter
ORDER BY customer, day, meter
