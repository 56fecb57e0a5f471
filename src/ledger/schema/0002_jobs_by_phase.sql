CREATE INDEX jobs_by_phase ON jobs (phase, not_before_ms)
