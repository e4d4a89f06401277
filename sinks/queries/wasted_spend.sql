-- Spend that bought nothing, by agent: calls that failed, and calls that repeat one of the same minute exactly (operation,
-- model, session and every quantity), as a loop does. The first of each is not waste.
WITH calls AS (
  SELECT
    agent,
    operation,
    currency,
    cost,
    status NOT IN ('', 'ok') AS failed,
    row_number() OVER (
      PARTITION BY agent, source, operation, provider, model, session, mapSort(usage), failed, toStartOfMinute(event_time)
      ORDER BY log, position
    ) > 1 AS repeated
  FROM usage
)
SELECT
  agent,
  operation,
  currency,
  countIf(failed) AS failed_calls,
  sumIf(cost, failed) AS spend_on_failed_calls,
  countIf(repeated AND NOT failed) AS repeated_calls,
  sumIf(cost, repeated AND NOT failed) AS spend_on_repeated_calls,
  spend_on_failed_calls + spend_on_repeated_calls AS wasted,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM calls
GROUP BY agent, operation, currency
HAVING failed_calls + repeated_calls > 0
ORDER BY wasted DESC, agent, operation, currency
