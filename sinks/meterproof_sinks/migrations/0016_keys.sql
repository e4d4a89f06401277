-- Runs are told apart by numbers, and sums of runs and sessions read the table at less cost.

-- The first 16 bytes of a name's SHA-256, 0 for no name. A new day has them stored; those of days that were built before are
-- made here, and until then by whatever reads them. So nothing is built again.
ALTER TABLE usage_groups
  ADD COLUMN IF NOT EXISTS run_key UInt128
    MATERIALIZED if(run_id = '', 0, reinterpretAsUInt128(SHA256(run_id))) COMMENT 'Of kind run' CODEC(LZ4),
  ADD COLUMN IF NOT EXISTS parent_key UInt128
    MATERIALIZED if(parent_id = '', 0, reinterpretAsUInt128(SHA256(parent_id))) COMMENT 'Of kind run' CODEC(LZ4);
ALTER TABLE usage_groups MATERIALIZE COLUMN run_key, MATERIALIZE COLUMN parent_key;

-- The events that are in no group yet: of each day and log those at and above where the groups end; all, where a query does not
-- see one state of each table.
CREATE VIEW IF NOT EXISTS usage_ungrouped AS
SELECT *
FROM usage
WHERE position >= if(
    getSettingOrDefault('enable_shared_storage_snapshot_in_query', false),
    (SELECT (without, rows_from, lowest, open_days) FROM groups_read).3,
    0
  )
  AND (
    NOT getSettingOrDefault('enable_shared_storage_snapshot_in_query', false)
    OR (
      mapContains((SELECT (without, rows_from, lowest, open_days) FROM groups_read).2, concat(toString(toDate(event_time)), log))
      AND position >= (SELECT (without, rows_from, lowest, open_days) FROM groups_read).2[concat(toString(toDate(event_time)), log)]
    )
  );

-- As before, runs with their keys; and each of its own kind of rows, whose day is asked of their partition, not of each of them.
CREATE OR REPLACE VIEW session_sums AS
SELECT session, currency, events, cost, began, ended
FROM usage_groups
WHERE getSettingOrDefault('enable_shared_storage_snapshot_in_query', false)
  AND (SELECT count() FROM sink_progress) > 0
  AND NOT has((SELECT (without, rows_from, lowest, open_days) FROM groups_read).1, _partition_value.1)
  AND toYYYYMM(_partition_value.1) NOT IN (SELECT month FROM usage_retired) AND kind = 'session'
UNION ALL
SELECT session, currency, 1, cost, event_time, event_time
FROM usage_ungrouped;

CREATE OR REPLACE VIEW run_sums AS
SELECT run_id, run_key, parent_id, parent_key, currency, events, cost
FROM usage_groups
WHERE getSettingOrDefault('enable_shared_storage_snapshot_in_query', false)
  AND (SELECT count() FROM sink_progress) > 0
  AND NOT has((SELECT (without, rows_from, lowest, open_days) FROM groups_read).1, _partition_value.1)
  AND toYYYYMM(_partition_value.1) NOT IN (SELECT month FROM usage_retired) AND kind = 'run'
UNION ALL
SELECT
  run_id, if(run_id = '', 0, reinterpretAsUInt128(SHA256(run_id))),
  parent_id, if(parent_id = '', 0, reinterpretAsUInt128(SHA256(parent_id))),
  currency, 1, cost
FROM usage_ungrouped;

-- A view of its own, as `usage_on_disk` is.
CREATE VIEW IF NOT EXISTS parents_on_disk AS
SELECT position, currency, parent_id FROM usage_rows;

-- At least every currency and parent of `run_sums`, at little cost: what is not counted is not left out.
CREATE VIEW IF NOT EXISTS parents_read AS
SELECT currency, parent_key
FROM usage_groups WHERE getSettingOrDefault('enable_shared_storage_snapshot_in_query', false) AND kind = 'run'
UNION ALL
SELECT currency, if(parent_id = '', 0, reinterpretAsUInt128(SHA256(parent_id)))
FROM parents_on_disk
WHERE position >= if(
  getSettingOrDefault('enable_shared_storage_snapshot_in_query', false),
  (SELECT (without, rows_from, lowest, open_days) FROM groups_read).3,
  0
);
