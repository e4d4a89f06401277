-- Ten parts of a size become one, where five did: in a long run a row is written once again in place of one and a half times.
ALTER TABLE usage_rows MODIFY SETTING merge_selector_base = 10;
