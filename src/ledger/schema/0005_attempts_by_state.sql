CREATE INDEX attempts_by_state ON attempts (state, cluster)
