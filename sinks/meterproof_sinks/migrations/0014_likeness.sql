-- Identities are told apart by a number, and density is asked for with fewer steps.

-- One identity counted twice is looked for by this; where a part does not hold it yet, it is made when it is read.
ALTER TABLE usage_rows ADD COLUMN IF NOT EXISTS likeness UInt64 MATERIALIZED cityHash64(source, id)
  COMMENT 'Hash of source and id: the same for the same identity' CODEC(NONE);

-- As before; what is erased or given up is added up with all else.
CREATE OR REPLACE VIEW density AS
SELECT log, sum(found) AS events, max(last) AS last_position,
       events + sum(gone) AS positions,
       positions = last_position + 1 AND sum(total) = intDiv(positions * (positions - 1), 2) AS dense
FROM (
  SELECT log, count() AS found, 0 AS gone, max(position) AS last, sum(position) AS total FROM usage_rows GROUP BY log
  UNION ALL
  SELECT log, 0, 1, position, position FROM usage_erased FINAL
  UNION ALL
  SELECT log, 0, events, last_position, position_sum FROM usage_retired FINAL
)
GROUP BY log;
