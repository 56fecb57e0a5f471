CREATE TABLE leases (
    name     VARCHAR(128) NOT NULL PRIMARY KEY,
    holder   VARCHAR(128) NOT NULL,
    fence    BIGINT NOT NULL,
    until_ms BIGINT NOT NULL,
    rung     BIGINT NOT NULL
){table}
