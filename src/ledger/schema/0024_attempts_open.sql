CREATE INDEX attempts_open ON attempts (cluster, released_at_ms, state, granted_at_ms)
