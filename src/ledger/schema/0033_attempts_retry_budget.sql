ALTER TABLE attempts ADD COLUMN retry_budget VARCHAR(16)
