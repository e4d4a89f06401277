-- Latency and failures by operation, over the calls that state one. Percentiles are values that occurred (nearest rank).
-- Exact up to now, over the months whose rows are kept.
SELECT
  operation,
  count() AS calls,
  count(latency_us) AS timed_calls,
  quantilesExact(0.5, 0.95, 0.99)(latency_us) AS latencies_us,
  latencies_us[1] AS p50_us,
  latencies_us[2] AS p95_us,
  latencies_us[3] AS p99_us,
  quantileExact(0.95)(queue_us) AS p95_queue_us,
  quantileExact(0.95)(upstream_us) AS p95_upstream_us,
  quantileExact(0.95)(first_token_us) AS p95_first_token_us,
  countIf(status NOT IN ('', 'ok')) AS failed_calls,
  countIf(status = 'rate_limited') AS rate_limited_calls,
  toDecimal64(failed_calls, 6) / calls AS failure_rate,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM usage
GROUP BY operation
ORDER BY calls DESC, operation
