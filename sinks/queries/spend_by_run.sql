-- What each run cost by itself, and with all runs that it started, directly or not. A run says its parent in its events.
-- Read from `run_sums`: exact up to now, over the months whose rows are kept. They are read once, into `found`. Each run is
-- counted at all that it descends from; a circle of parents ends where it would come round.
WITH RECURSIVE
  (
    SELECT groupArray((run_id, parent, spent))
    FROM (
      SELECT run_id, max(parent) AS parent, groupArray((currency, events, spend)) AS spent
      FROM (
        SELECT run_id, max(parent_id) AS parent, currency, sum(run_sums.events) AS events, sum(cost) AS spend
        FROM run_sums
        WHERE run_id != ''
        GROUP BY run_id, currency
      )
      GROUP BY run_id
    )
  ) AS found,
  runs AS (
    SELECT one.1 AS run, one.2 AS parent, one.3 AS spent FROM (SELECT arrayJoin(found) AS one)
  ),
  inner_runs AS (
    SELECT run, parent FROM runs WHERE parent != '' AND run IN (SELECT parent FROM runs)
  ),
  tree AS (
    SELECT run, spent, [parent] AS line FROM runs WHERE parent NOT IN ('', run)
    UNION ALL
    SELECT tree.run, tree.spent, arrayPushBack(tree.line, inner_runs.parent)
    FROM tree INNER JOIN inner_runs ON inner_runs.run = tree.line[-1]
    WHERE inner_runs.parent != tree.run AND NOT has(tree.line, inner_runs.parent) AND length(tree.line) < 64
  )
SELECT
  counted.root AS run,
  part.1 AS currency,
  sumIf(part.2, counted.depth = 0) AS own_events,
  sumIf(part.3, counted.depth = 0) AS own_spend,
  sum(part.2) AS events,
  sum(part.3) AS spend,
  max(counted.depth) AS depth,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM (
  SELECT run AS root, spent, 0 AS depth FROM runs
  UNION ALL
  SELECT line[-1], spent, length(line) FROM tree WHERE line[-1] IN (SELECT run FROM runs)
) AS counted
ARRAY JOIN spent AS part
GROUP BY run, currency
ORDER BY spend DESC, run, currency
LIMIT 1000
