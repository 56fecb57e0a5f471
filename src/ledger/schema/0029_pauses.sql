CREATE TABLE pauses (
    kind         VARCHAR(16) NOT NULL,
    name         VARCHAR(260) NOT NULL,
    reason       {text} NOT NULL,
    paused_at_ms BIGINT NOT NULL,
    PRIMARY KEY (kind, name)
){table}
