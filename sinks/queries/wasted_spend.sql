-- Spend that bought nothing, by agent: calls that failed, and calls that repeat one of the same minute exactly (operation,
-- model, session and every quantity), as a loop does. The first of each is not waste.
-- Read from `waste_sums`: exact up to now, over the months whose rows are kept.
SELECT
  agent,
  operation,
  currency,
  sum(failed) AS failed_calls,
  sum(failed_cost) AS spend_on_failed_calls,
  sum(repeated) AS repeated_calls,
  sum(repeated_cost) AS spend_on_repeated_calls,
  spend_on_failed_calls + spend_on_repeated_calls AS wasted,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM waste_sums
GROUP BY agent, operation, currency
ORDER BY wasted DESC, agent, operation, currency
