CREATE INDEX jobs_by_definition ON jobs (tenant, definition, phase)
