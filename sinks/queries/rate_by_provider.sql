-- The busiest minute of each model in requests and in tokens, and its share of what the provider allows, where
-- `provider_quotas` says that: above 1 is beyond it.
-- Read from `model_peaks`: exact up to now, over the months whose rows are kept.
SELECT
  provider,
  model,
  max(requests) AS requests_per_minute,
  argMax(busiest, (requests, -toUnixTimestamp(busiest))) AS busiest_minute,
  max(tokens) AS tokens_per_minute,
  argMax(heaviest, (tokens, -toUnixTimestamp(heaviest))) AS heaviest_minute,
  any(quota.requests_per_minute) AS requests_allowed,
  any(quota.tokens_per_minute) AS tokens_allowed,
  if(requests_allowed = 0, NULL, toDecimal128(requests_per_minute, 6) / requests_allowed) AS share_of_requests,
  if(tokens_allowed = 0, NULL, toDecimal128(tokens_per_minute, 6) / tokens_allowed) AS share_of_tokens,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM model_peaks
LEFT JOIN (SELECT * FROM provider_quotas FINAL) AS quota
  ON quota.provider = model_peaks.provider AND quota.model = model_peaks.model
WHERE provider != ''
GROUP BY provider, model
ORDER BY provider, model
