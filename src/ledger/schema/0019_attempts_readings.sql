ALTER TABLE attempts ADD COLUMN readings_rolled_up_ms BIGINT
