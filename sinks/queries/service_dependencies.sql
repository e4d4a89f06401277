-- Who calls whom, by the events that carry a trace: an agent (which may be a service itself) calls the source.
-- Read from `call_sums`: exact up to now, over the months whose rows are kept.
-- A trace of a caller stands there once for each day, and for each event that is not in a day's groups yet. So these are added
-- up, but for traces that are alike in their second half: of them each is counted once, in whole.
WITH
  (
    SELECT groupUniqArrayArray(again)
    FROM (
      SELECT groupArrayArray(traces_low) AS lows, arrayFilter((low, time) -> time > 1, lows, arrayEnumerateUniq(lows)) AS again
      FROM call_sums GROUP BY caller
    )
  ) AS alike
SELECT
  caller,
  callee,
  sum(events) AS calls,
  sum(others) + uniqExactArray(highs, lows) AS traces,
  sum(failed) AS failed_calls,
  arraySort(groupUniqArrayArray(call_operations)) AS operations,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM (
  SELECT
    caller, callees, events, failed, call_sums.operations AS call_operations,
    arrayMap(low -> low IN (SELECT arrayJoin(alike)), traces_low) AS seen_again,
    arrayFilter((high, again) -> again, traces_high, seen_again) AS highs,
    arrayFilter((low, again) -> again, traces_low, seen_again) AS lows,
    length(traces_low) - length(lows) AS others
  FROM call_sums
)
ARRAY JOIN callees AS callee
GROUP BY caller, callee
ORDER BY caller, callee
