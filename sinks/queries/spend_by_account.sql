-- Spend by agent, customer, team, project and cost centre. Each event stands once under each of the five, under an empty
-- name where it says none: so the parts of each sum to the whole. Money of different currencies is never added up.
SELECT
  part.1 AS account,
  part.2 AS name,
  currency,
  count() AS events,
  sum(cost) AS spend,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM usage
ARRAY JOIN [
  ('agent', toString(agent)), ('customer', toString(customer)), ('team', tags['team']), ('project', tags['project']),
  ('cost centre', tags['cost centre'])
] AS part
GROUP BY account, name, currency
ORDER BY account, spend DESC, name, currency
