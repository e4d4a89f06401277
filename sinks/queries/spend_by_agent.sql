-- What each agent cost, dearest first. Money of different currencies is never added up.
SELECT
  agent,
  currency,
  count() AS events,
  sum(cost) AS spend,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM usage
GROUP BY agent, currency
ORDER BY spend DESC, agent, currency
