-- What is left of each budget in money of an agent or a customer, per day or month in UTC, in the windows with spend.
-- Below 0 is overspent. Budgets are those of the file that the sink last started with.
WITH spent AS (
  SELECT
    part.1 AS scope,
    part.2 AS subject,
    part.3 AS period,
    part.4 AS start,
    currency,
    sum(cost) AS spend
  FROM usage
  ARRAY JOIN [
    ('agent', toString(agent), 'day', toDate(event_time)),
    ('agent', toString(agent), 'month', toStartOfMonth(event_time)),
    ('customer', toString(customer), 'day', toDate(event_time)),
    ('customer', toString(customer), 'month', toStartOfMonth(event_time))
  ] AS part
  GROUP BY scope, subject, period, start, currency
)
SELECT
  budget.name AS budget,
  spent.subject AS subject,
  spent.start AS start,
  budget.currency AS currency,
  budget.allowed AS allowed,
  spent.spend AS spend,
  budget.allowed - spent.spend AS unused,
  (SELECT max(append_time) FROM up_to) AS up_to
FROM (SELECT * FROM budgets FINAL WHERE currency != '' AND zone = 'UTC') AS budget
INNER JOIN spent ON spent.scope = budget.scope AND spent.period = budget.period AND spent.currency = budget.currency
WHERE budget.subject = spent.subject
  OR (
    endsWith(budget.subject, '*')
    AND startsWith(spent.subject, substring(budget.subject, 1, length(budget.subject) - 1))
  )
ORDER BY budget, start, subject
