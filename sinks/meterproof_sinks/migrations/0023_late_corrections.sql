-- As before, without months that were given up: of an event there nothing but its part in a sum is left, which no correction
-- that comes later can take back. Such a day was read from the rows, which are gone, until it was built on.
CREATE OR REPLACE VIEW last_corrections AS
SELECT log, toDate(fromUnixTimestamp64Micro(event_us, 'UTC')) AS day, max(position) AS last
FROM usage_corrections
WHERE effect = 'applied'
  AND toYYYYMM(fromUnixTimestamp64Micro(event_us, 'UTC')) NOT IN (SELECT month FROM usage_retired)
GROUP BY log, day;
