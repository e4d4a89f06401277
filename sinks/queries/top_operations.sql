-- The operations that cost most.
SELECT
  operation,
  currency,
  count() AS calls,
  uniqExact(agent) AS agents,
  sum(cost) AS spend,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM usage
GROUP BY operation, currency
ORDER BY spend DESC, operation, currency
LIMIT 50
