CREATE TABLE transitions (
    job_id         VARCHAR(128) NOT NULL,
    number         BIGINT NOT NULL,
    attempt        BIGINT NOT NULL,
    from_phase     VARCHAR(16),
    to_phase       VARCHAR(16) NOT NULL,
    at_ms          BIGINT NOT NULL,
    recorded_at_ms BIGINT NOT NULL,
    writer         VARCHAR(24) NOT NULL,
    reason         {text} NOT NULL,
    PRIMARY KEY (job_id, number)
){table}
