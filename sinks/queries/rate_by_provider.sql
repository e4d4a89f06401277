-- The busiest minute of each model in requests and in tokens, and its share of what the provider allows, where
-- `provider_quotas` says that: above 1 is beyond it.
WITH minutes AS (
  SELECT
    provider,
    model,
    toStartOfMinute(event_time) AS minute,
    count() AS requests,
    sum(usage.tokens) AS tokens
  FROM usage
  WHERE provider != ''
  GROUP BY provider, model, minute
)
SELECT
  provider,
  model,
  max(minutes.requests) AS requests_per_minute,
  argMax(minute, (minutes.requests, -toUnixTimestamp(minute))) AS busiest_minute,
  max(minutes.tokens) AS tokens_per_minute,
  argMax(minute, (minutes.tokens, -toUnixTimestamp(minute))) AS heaviest_minute,
  any(quota.requests_per_minute) AS requests_allowed,
  any(quota.tokens_per_minute) AS tokens_allowed,
  if(requests_allowed = 0, NULL, toDecimal128(requests_per_minute, 6) / requests_allowed) AS share_of_requests,
  if(tokens_allowed = 0, NULL, toDecimal128(tokens_per_minute, 6) / tokens_allowed) AS share_of_tokens,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM minutes
LEFT JOIN (SELECT * FROM provider_quotas FINAL) AS quota
  ON quota.provider = minutes.provider AND quota.model = minutes.model
GROUP BY provider, model
ORDER BY provider, model
