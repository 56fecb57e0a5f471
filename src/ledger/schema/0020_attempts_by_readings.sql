CREATE INDEX attempts_by_readings ON attempts (readings_rolled_up_ms, ended_at_ms)
