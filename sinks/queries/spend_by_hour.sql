-- Spend by hour and customer from the roll-up, which needs no FINAL: for long periods. `up_to` of a day is in
-- `rollup_progress`; `events_behind` are in the rows and not in the roll-up yet (those erased on request are in neither).
SELECT
  start AS hour,
  customer,
  currency,
  sum(events) AS calls,
  sum(cost) AS spend,
  (SELECT sum(events) FROM up_to) - (SELECT count() FROM usage_erased FINAL)
  - (SELECT uncounted_events.events FROM uncounted_events)
  - (SELECT sum(usage_by_hour.events) FROM usage_by_hour) AS events_behind,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM usage_by_hour
GROUP BY hour, customer, currency
ORDER BY hour, customer, currency
