-- What each run cost by itself, and with all runs that it started, directly or not. A run says its parent in its events.
-- The rows are read once, into `found`; the tree is made of that.
WITH RECURSIVE
  (
    SELECT groupArray((run_id, parent, currency, events, spend))
    FROM (
      SELECT run_id, max(parent_id) AS parent, currency, count() AS events, sum(cost) AS spend
      FROM usage
      WHERE run_id != ''
      GROUP BY run_id, currency
    )
  ) AS found,
  runs AS (
    SELECT one.1 AS run, one.2 AS parent, one.3 AS currency, one.4 AS events, one.5 AS spend
    FROM (SELECT arrayJoin(found) AS one)
  ),
  links AS (SELECT run, max(parent) AS parent FROM runs GROUP BY run),
  tree AS (
    SELECT run AS root, run, 0 AS depth FROM links
    UNION ALL
    SELECT tree.root, links.run, tree.depth + 1
    FROM tree INNER JOIN links ON links.parent = tree.run
    WHERE tree.depth < 64 AND links.run != tree.root
  )
SELECT
  tree.root AS run,
  runs.currency AS currency,
  sumIf(runs.events, tree.depth = 0) AS own_events,
  sumIf(runs.spend, tree.depth = 0) AS own_spend,
  sum(runs.events) AS events,
  sum(runs.spend) AS spend,
  max(tree.depth) AS depth,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM tree INNER JOIN runs ON runs.run = tree.run
GROUP BY run, currency
ORDER BY spend DESC, run, currency
LIMIT 1000
