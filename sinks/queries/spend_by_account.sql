-- Spend by agent, customer, team, project and cost centre. Each event stands once under each of the five, under an empty
-- name where it says none: so the parts of each sum to the whole. Money of different currencies is never added up.
-- Read from `usage_sums`: exact up to now, and months whose rows were given up count on.
SELECT
  part.1 AS account,
  part.2 AS name,
  currency,
  sum(calls) AS events,
  sum(cost) AS spend,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM (
  SELECT agent, customer, tags, currency, sum(usage_sums.events) AS calls, sum(usage_sums.cost) AS cost
  FROM usage_sums
  GROUP BY agent, customer, tags, currency
)
ARRAY JOIN [
  ('agent', toString(agent)), ('customer', toString(customer)), ('team', tags['team']), ('project', tags['project']),
  ('cost centre', tags['cost centre'])
] AS part
GROUP BY account, name, currency
ORDER BY account, spend DESC, name, currency
