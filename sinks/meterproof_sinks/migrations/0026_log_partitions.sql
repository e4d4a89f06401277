-- A log that nothing has come of yet can bring events of any month that its epoch's logs can: so how many logs an epoch has.
ALTER TABLE log_limits ADD COLUMN IF NOT EXISTS partitions UInt32 COMMENT 'Logs of its epoch; 0 as an earlier sink noted it';
