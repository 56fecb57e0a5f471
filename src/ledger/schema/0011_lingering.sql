CREATE VIEW lingering AS
SELECT j.id, j.tenant, j.definition, j.phase, j.attempt, a.cluster,
       ({now_ms} - j.phase_since_ms) {div} 1000 AS in_phase_seconds,
       ({now_ms} - a.last_record_ms) {div} 1000 AS silent_seconds,
       j.cancel_requested_ms, j.verdict
FROM jobs j LEFT JOIN attempts a ON a.job_id = j.id AND a.attempt = j.attempt
WHERE j.phase = 'held'
   OR (j.phase IN ('queued', 'setting_up', 'stopping') AND j.not_before_ms < {now_ms} - 60000 AND j.phase_since_ms < {now_ms} - 60000)
   OR (j.phase IN ('executing', 'stopping') AND COALESCE(a.last_record_ms, j.phase_since_ms) < {now_ms} - 60000)
