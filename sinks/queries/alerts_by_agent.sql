-- The alerts of each agent: how many, of which budgets, how often all that is allowed was spent, and the newest.
-- `up_to` is when the newest alert was raised that is in; of agents without one there is no row.
SELECT
  subject AS agent,
  count() AS alerts,
  arraySort(groupUniqArray(budget)) AS budgets,
  countIf(threshold >= 100) AS exhausted,
  max(threshold) AS highest_threshold,
  argMax((budget, start, threshold, spend, currency), (event_time, threshold, budget)) AS newest,
  max(event_time) AS newest_at,
  (SELECT max(topic_progress.recorded_at) FROM topic_progress WHERE endsWith(topic, 'usage.alerts')) AS up_to
FROM alerts
WHERE scope = 'agent'
GROUP BY agent
ORDER BY exhausted DESC, alerts DESC, agent
