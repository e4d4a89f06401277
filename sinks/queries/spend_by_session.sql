-- What each session cost, dearest first.
-- Read from `session_sums`: exact up to now, over the months whose rows are kept.
SELECT
  session,
  currency,
  sum(session_sums.events) AS events,
  min(session_sums.began) AS began,
  max(session_sums.ended) AS ended,
  sum(cost) AS spend,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM session_sums
WHERE session != ''
GROUP BY session, currency
ORDER BY spend DESC, session, currency
LIMIT 1000
