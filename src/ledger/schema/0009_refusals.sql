CREATE TABLE refusals (
    queue       VARCHAR(256) NOT NULL,
    message_id  VARCHAR(128) NOT NULL,
    job_id      VARCHAR(128),
    reason      {text} NOT NULL,
    digest      {digest} NOT NULL,
    first_at_ms BIGINT NOT NULL,
    last_at_ms  BIGINT NOT NULL,
    times       BIGINT NOT NULL,
    PRIMARY KEY (queue, message_id)
){table}
