-- The single calls that cost most, each with what finds it again in the log and the audit folder.
-- Exact up to now, over the months whose rows are kept.
SELECT
  log,
  position,
  event_time,
  id,
  agent,
  customer,
  operation,
  provider,
  model,
  cost,
  currency,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM usage
ORDER BY cost DESC, log, position
LIMIT 50
