-- Spend that bought nothing, by agent: calls that failed, and calls that repeat one of the same minute exactly (operation,
-- model, session and every quantity), as a loop does. The first of each is not waste.
WITH alike AS (
  SELECT
    agent,
    operation,
    currency,
    status NOT IN ('', 'ok') AS failed,
    count() AS calls,
    sum(cost) AS spend,
    argMin(cost, position) AS spend_on_first
  FROM usage
  GROUP BY
    agent, operation, currency, failed,
    sipHash128(log, source, provider, model, session, mapSort(usage), toStartOfMinute(event_time))
)
SELECT
  agent,
  operation,
  currency,
  sumIf(calls, failed) AS failed_calls,
  sumIf(spend, failed) AS spend_on_failed_calls,
  sumIf(calls - 1, NOT failed) AS repeated_calls,
  sumIf(spend - spend_on_first, NOT failed) AS spend_on_repeated_calls,
  spend_on_failed_calls + spend_on_repeated_calls AS wasted,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM alike
GROUP BY agent, operation, currency
HAVING failed_calls + repeated_calls > 0
ORDER BY wasted DESC, agent, operation, currency
