-- Codecs by measured size and time (`python -m tests.bench.clickhouse_layout`, figures in the README). What sums read stays under
-- the server's default; what only finds a call again is half as large under ZSTD; digests are random and stored as they are.
-- New parts have them; a merge rewrites the others.
ALTER TABLE usage_events
  MODIFY COLUMN entry CODEC(NONE),
  MODIFY COLUMN id CODEC(ZSTD),
  MODIFY COLUMN session CODEC(ZSTD),
  MODIFY COLUMN user_id CODEC(ZSTD),
  MODIFY COLUMN run_id CODEC(ZSTD),
  MODIFY COLUMN parent_id CODEC(ZSTD),
  MODIFY COLUMN traceparent CODEC(ZSTD),
  MODIFY COLUMN request_signature CODEC(ZSTD),
  MODIFY COLUMN receipt CODEC(ZSTD),
  MODIFY COLUMN sequence CODEC(Delta, ZSTD);
