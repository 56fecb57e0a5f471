CREATE INDEX jobs_waiting ON jobs (phase, priority, tenant, not_before_ms, id)
