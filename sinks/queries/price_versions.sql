-- Every price of every published version beside what was charged by it: events and spend of a version, and since when.
-- Exact up to now, over the months whose rows are kept.
SELECT
  prices.version AS version,
  prices.number AS number,
  prices.meter AS meter,
  prices.provider AS provider,
  prices.model AS model,
  prices.operation AS operation,
  prices.amount AS amount,
  prices.per AS per,
  prices.currency AS currency,
  prices.effective_from AS effective_from,
  prices.effective_until AS effective_until,
  charged.events AS events_of_version,
  charged.spend AS spend_of_version,
  if(events_of_version = 0, NULL, charged.first) AS in_force_from,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM prices
LEFT JOIN (
  SELECT price_book AS version, count() AS events, sum(cost) AS spend, min(append_time) AS first
  FROM usage GROUP BY price_book
) AS charged ON charged.version = prices.version
ORDER BY version, number
