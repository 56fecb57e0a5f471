ALTER TABLE attempts ADD COLUMN adopted_ms BIGINT
