-- What queries compare usage with: price versions and budgets as the sink finds them, and quotas that an operator states.

-- Every price book that the log has named, filled by the sink.
CREATE TABLE IF NOT EXISTS price_books (
  version UInt32,
  currency LowCardinality(String),
  prices UInt32 COMMENT 'How many it states',
  digest String COMMENT 'SHA-256 of the content, in hexadecimal',
  content String COMMENT 'JSON, in the spelling of the contract',
  seen_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'For people; nothing depends on it'
)
ENGINE = ReplacingMergeTree
ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- The budget file in force when the sink last started. Enforcement reads usage.budget-state, never this.
CREATE TABLE IF NOT EXISTS budgets (
  name String,
  scope LowCardinality(String) COMMENT 'agent, customer …: whose spend',
  subject String COMMENT 'One, a prefix followed by *, or *: each that matches has a budget of its own',
  period LowCardinality(String) COMMENT 'Its window: minute, hour, day or month',
  zone LowCardinality(String),
  allowed Decimal(38, 12),
  currency LowCardinality(String) COMMENT 'Empty for a limit in units',
  meters Array(LowCardinality(String)) COMMENT 'Of a limit in units'
)
ENGINE = ReplacingMergeTree
ORDER BY name
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- What providers allow per minute, stated by an operator: INSERT INTO provider_quotas VALUES (…).
CREATE TABLE IF NOT EXISTS provider_quotas (
  provider LowCardinality(String),
  model LowCardinality(String),
  requests_per_minute UInt64,
  tokens_per_minute UInt64
)
ENGINE = ReplacingMergeTree
ORDER BY (provider, model)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
