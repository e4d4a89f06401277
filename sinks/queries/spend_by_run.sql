-- What each run cost by itself, and with all runs that it started, directly or not. A run says its parent in its events.
-- Read from `run_sums`: exact up to now, over the months whose rows are kept. Runs are told apart by their keys. Each is counted
-- at all that it descends from; a circle of parents ends where it would come round. Beyond a run and its parent, only parents
-- that have parents are followed: a few runs too many, since they are looked for by a part of their keys, which takes less time
-- and does no harm. Where there is one currency, it is no part of what rows are grouped by: said at each of the two places, since
-- only a constant that stands there itself is left out of the keys.
WITH RECURSIVE
  (SELECT (min(currency), max(currency)) FROM parents_read) AS currencies,
  currencies.1 != currencies.2 AS mixed,
  (
    SELECT groupArray((run, parent))
    FROM (
      SELECT run_key AS run, argMax(parent_key, parent_id) AS parent
      FROM run_sums
      WHERE run_key != 0 AND parent_key != 0 AND toUInt32(run_key) IN (SELECT toUInt32(parent_key) FROM parents_read)
      GROUP BY run
      HAVING parent != run
    )
  ) AS found,
  inner_runs AS (
    SELECT one.1 AS run, one.2 AS parent FROM (SELECT arrayJoin(found) AS one)
  ),
  lines AS (
    SELECT run AS start, [parent] AS line FROM inner_runs
    UNION ALL
    SELECT lines.start, arrayPushBack(lines.line, inner_runs.parent)
    FROM lines INNER JOIN inner_runs ON inner_runs.run = lines.line[-1]
    WHERE inner_runs.parent != lines.start AND NOT has(lines.line, inner_runs.parent) AND length(lines.line) < 63
  )
SELECT
  if(mixed, max(anyIf(name, place = 1)) OVER (PARTITION BY root), anyIf(name, place = 1)) AS run,
  if(mixed, in_currency, currencies.1) AS currency,
  sumIf(runs.events, place = 1) AS own_events,
  sumIf(runs.spend, place = 1) AS own_spend,
  sum(runs.events) AS events,
  sum(runs.spend) AS spend,
  max(place) - 1 AS depth,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM (
  SELECT
    run_key AS key, if(mixed, currency, currencies.1) AS in_currency, any(run_id) AS name,
    if(
      mixed,
      argMax(argMax(parent_key, parent_id), max(parent_id)) OVER (PARTITION BY run_key),
      argMax(parent_key, parent_id)
    ) AS parent,
    sum(run_sums.events) AS events, sum(cost) AS spend
  FROM run_sums
  WHERE run_key != 0
  GROUP BY key, in_currency
) AS runs
ANY LEFT JOIN (SELECT start, argMax(line, length(line)) AS line FROM lines GROUP BY start) AS longest
  ON longest.start = runs.parent
ARRAY JOIN
  arrayConcat([runs.key, runs.parent], longest.line) AS root,
  arrayEnumerate(arrayConcat([runs.key, runs.parent], longest.line)) AS place
WHERE root != 0 AND (place = 1 OR root != runs.key)
GROUP BY root, currency
QUALIFY run != ''
ORDER BY spend DESC, run, currency
LIMIT 1000
