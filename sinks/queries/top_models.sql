-- The models that cost most.
-- Read from `usage_sums`: exact up to now, and months whose rows were given up count on.
SELECT
  provider,
  model,
  currency,
  sum(events) AS calls,
  sum(cost) AS spend,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM usage_sums
WHERE model != ''
GROUP BY provider, model, currency
ORDER BY spend DESC, provider, model, currency
LIMIT 50
