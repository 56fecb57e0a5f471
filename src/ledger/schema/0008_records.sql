CREATE TABLE records (
    job_id         VARCHAR(128) NOT NULL,
    attempt        BIGINT NOT NULL,
    source         VARCHAR(64) NOT NULL,
    seq            BIGINT NOT NULL,
    at_ms          BIGINT NOT NULL,
    recorded_at_ms BIGINT NOT NULL,
    body           {text} NOT NULL,
    PRIMARY KEY (job_id, attempt, source, seq)
){table}
