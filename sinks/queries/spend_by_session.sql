-- What each session cost, dearest first.
SELECT
  session,
  currency,
  count() AS events,
  min(event_time) AS began,
  max(event_time) AS ended,
  sum(cost) AS spend,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM usage
WHERE session != ''
GROUP BY session, currency
ORDER BY spend DESC, session, currency
LIMIT 1000
