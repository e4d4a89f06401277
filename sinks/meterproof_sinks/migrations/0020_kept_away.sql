-- What is said of corrections, and rows that were set aside, stay away as events do once their event was erased: sinks write
-- into these tables, and of a log that lacks something on purpose nothing is taken in again that is below the progress row.
-- A sink of an older version goes on writing into the tables behind them.

CREATE TABLE IF NOT EXISTS correction_rows (
  log String, position UInt64, kind String, effect String, event_us Int64, target String
)
ENGINE = Null;

CREATE MATERIALIZED VIEW IF NOT EXISTS correction_rows_kept TO usage_corrections AS
SELECT log, position, kind, effect, event_us, target
FROM correction_rows
WHERE position >= (SELECT mapFromArrays(groupArray(log), groupArray(next)) FROM logs_with_gone)[log];

CREATE TABLE IF NOT EXISTS unfit_rows (
  log String, kind String, position UInt64, digest String, error String, row String
)
ENGINE = Null;

-- The position of anything but an event is none of the log's.
CREATE MATERIALIZED VIEW IF NOT EXISTS unfit_rows_kept TO quarantine AS
SELECT log, kind, position, digest, error, row
FROM unfit_rows
WHERE kind != 'event' OR position >= (SELECT mapFromArrays(groupArray(log), groupArray(next)) FROM logs_with_gone)[log];

-- A month may be given up again, once more events of it have come: a log that lagged behind, or a horizon of months.
ALTER TABLE usage_retired
  ADD COLUMN IF NOT EXISTS times_before UInt64 COMMENT 'How often something of the log and month was given up before this',
  MODIFY ORDER BY (log, month, times_before);
