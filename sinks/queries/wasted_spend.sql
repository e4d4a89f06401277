-- Spend that bought nothing, by agent: calls that failed, and calls that repeat one of the same minute exactly (operation,
-- model, session and every quantity), as a loop does. The first of each is not waste.
-- Calls that could repeat one another are found by a hash of a few columns, which costs little; only these are compared.
WITH
  cityHash64(agent, model, session, units, toStartOfMinute(event_time)) AS likeness,
  found AS (
    SELECT agent, operation, currency, count() AS failed, sum(cost) AS spend_on_failed,
           0 AS repeated, toDecimal128(0, 12) AS spend_on_repeated
    FROM usage
    WHERE status NOT IN ('', 'ok')
    GROUP BY agent, operation, currency
    UNION ALL
    SELECT agent, operation, currency, 0, toDecimal128(0, 12), count() - 1, sum(cost) - argMin(cost, (log, position))
    FROM usage
    WHERE status IN ('', 'ok')
      AND likeness IN (
        SELECT alike
        FROM (SELECT likeness AS alike FROM usage WHERE status IN ('', 'ok'))
        GROUP BY alike
        HAVING count() > 1
      )
    GROUP BY
      agent, source, operation, provider, model, session, mapSort(usage), currency, toStartOfMinute(event_time)
    HAVING count() > 1
  )
SELECT
  agent,
  operation,
  currency,
  sum(failed) AS failed_calls,
  sum(spend_on_failed) AS spend_on_failed_calls,
  sum(repeated) AS repeated_calls,
  sum(spend_on_repeated) AS spend_on_repeated_calls,
  spend_on_failed_calls + spend_on_repeated_calls AS wasted,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM found
GROUP BY agent, operation, currency
ORDER BY wasted DESC, agent, operation, currency
