CREATE TABLE cursors (
    tenant        VARCHAR(128) NOT NULL,
    definition    VARCHAR(128) NOT NULL,
    generation    BIGINT NOT NULL,
    diff          {text} NOT NULL,
    moved_at_ms   BIGINT NOT NULL,
    moved_by_job  VARCHAR(128),
    PRIMARY KEY (tenant, definition)
){table}
