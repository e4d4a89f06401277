-- Tokens by model. The classes do not overlap: input without what a cache gave, output without reasoning.
-- Read from `usage_sums`: exact up to now, and months whose rows were given up count on.
SELECT
  provider,
  model,
  sum(events) AS calls,
  sum(usage_sums.input_tokens) AS input_tokens,
  sum(usage_sums.cache_read_tokens) AS cache_read_tokens,
  sum(usage_sums.cache_write_tokens) AS cache_write_tokens,
  sum(usage_sums.output_tokens) AS output_tokens,
  sum(usage_sums.reasoning_tokens) AS reasoning_tokens,
  input_tokens + cache_read_tokens + cache_write_tokens + output_tokens + reasoning_tokens AS tokens,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM usage_sums
WHERE model != ''
GROUP BY provider, model
ORDER BY tokens DESC, provider, model
