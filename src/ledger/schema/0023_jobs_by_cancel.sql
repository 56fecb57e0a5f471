CREATE INDEX jobs_by_cancel ON jobs (cancel_requested_ms)
