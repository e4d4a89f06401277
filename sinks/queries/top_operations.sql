-- The operations that cost most.
-- Read from `usage_sums`: exact up to now, and months whose rows were given up count on.
SELECT
  operation,
  currency,
  sum(events) AS calls,
  uniqExact(agent) AS agents,
  sum(cost) AS spend,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM usage_sums
GROUP BY operation, currency
ORDER BY spend DESC, operation, currency
LIMIT 50
