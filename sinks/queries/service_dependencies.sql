-- Who calls whom, by the events that carry a trace: an agent (which may be a service itself) calls the source.
SELECT
  agent AS caller,
  source AS callee,
  count() AS calls,
  uniqExact(substring(traceparent, 4, 32)) AS traces,
  countIf(status NOT IN ('', 'ok')) AS failed_calls,
  arraySort(groupUniqArray(operation)) AS operations,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM usage
WHERE traceparent != ''
GROUP BY caller, callee
ORDER BY caller, callee
