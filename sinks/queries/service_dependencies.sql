-- Who calls whom, by the events that carry a trace: an agent (which may be a service itself) calls the source.
-- Read from `call_sums`, which keep the set of traces, so one over midnight is one: exact up to now, over the months whose rows
-- are kept.
SELECT
  caller,
  callee,
  sum(events) AS calls,
  uniqExactMerge(call_sums.traces) AS traces,
  sum(failed) AS failed_calls,
  arraySort(groupUniqArrayArray(call_sums.operations)) AS operations,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM call_sums
GROUP BY caller, callee
ORDER BY caller, callee
