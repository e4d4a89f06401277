-- The models that cost most.
SELECT
  provider,
  model,
  currency,
  count() AS calls,
  sum(cost) AS spend,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM usage
WHERE model != ''
GROUP BY provider, model, currency
ORDER BY spend DESC, provider, model, currency
LIMIT 50
