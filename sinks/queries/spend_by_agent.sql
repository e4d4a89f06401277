-- What each agent cost, dearest first. Money of different currencies is never added up.
-- Read from `usage_sums`: exact up to now, and months whose rows were given up count on.
SELECT
  agent,
  currency,
  sum(usage_sums.events) AS events,
  sum(cost) AS spend,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM usage_sums
GROUP BY agent, currency
ORDER BY spend DESC, agent, currency
