CREATE INDEX jobs_by_age ON jobs (queued_at_ms, id)
