-- What became of the lines that each producer sent. Batches that no known key vouches for stand under an empty name.
SELECT
  producer,
  count() AS batches,
  sum(accepted) AS events,
  sum(duplicates) AS duplicate_lines,
  sumMap(refusals) AS refused_lines,
  countIf(reason != '') AS refused_batches,
  arraySort(groupUniqArrayIf(reason, reason != '')) AS reasons,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM records
WHERE kind = 'batch'
GROUP BY producer
ORDER BY producer
