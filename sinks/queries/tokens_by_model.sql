-- Tokens by model. The classes do not overlap: input without what a cache gave, output without reasoning.
SELECT
  provider,
  model,
  count() AS calls,
  sum(usage['input_tokens']) AS input_tokens,
  sum(usage['cache_read_tokens']) AS cache_read_tokens,
  sum(usage['cache_write_tokens']) AS cache_write_tokens,
  sum(usage['output_tokens']) AS output_tokens,
  sum(usage['reasoning_tokens']) AS reasoning_tokens,
  input_tokens + cache_read_tokens + cache_write_tokens + output_tokens + reasoning_tokens AS tokens,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM usage
WHERE model != ''
GROUP BY provider, model
ORDER BY tokens DESC, provider, model
