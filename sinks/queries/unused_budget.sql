-- What is left of each budget in money of an agent or a customer, per day or month in UTC, in the windows with spend.
-- Below 0 is overspent. Budgets are those of the file that the sink last started with.
-- Read from `usage_sums`: exact up to now, and months whose rows were given up count on.
WITH spent AS (
  SELECT
    part.1 AS scope,
    part.2 AS subject,
    part.3 AS period,
    part.4 AS start,
    currency,
    sum(cost) AS spend
  FROM (
    SELECT agent, customer, day, currency, sum(usage_sums.cost) AS cost
    FROM usage_sums
    GROUP BY agent, customer, day, currency
  )
  ARRAY JOIN [
    ('agent', toString(agent), 'day', day),
    ('agent', toString(agent), 'month', toStartOfMonth(day)),
    ('customer', toString(customer), 'day', day),
    ('customer', toString(customer), 'month', toStartOfMonth(day))
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
  (SELECT append_time FROM complete_up_to) AS up_to
FROM (SELECT * FROM budgets FINAL WHERE currency != '' AND zone = 'UTC') AS budget
INNER JOIN spent ON spent.scope = budget.scope AND spent.period = budget.period AND spent.currency = budget.currency
WHERE budget.subject = spent.subject
  OR (
    endsWith(budget.subject, '*')
    AND startsWith(spent.subject, substring(budget.subject, 1, length(budget.subject) - 1))
  )
ORDER BY budget, start, subject
