-- What takes earlier events back or replaces them, by customer and effect: only applied changes a total. Corrections that do
-- nothing are looked into: whoever sent them believes that something was put right.
SELECT
  customer,
  producer,
  kind,
  effect,
  count() AS corrections,
  min(event_time) AS oldest,
  max(append_time) AS newest_at,
  (SELECT append_time FROM complete_up_to) AS up_to
FROM corrections
GROUP BY customer, producer, kind, effect
ORDER BY customer, producer, kind, effect
