ALTER TABLE attempts ADD COLUMN confirmed_dead_ms BIGINT
