ALTER TABLE attempts ADD COLUMN memory_bytes BIGINT
