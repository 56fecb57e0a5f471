ALTER TABLE attempts ADD COLUMN lease_until_ms BIGINT
