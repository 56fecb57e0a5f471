CREATE TABLE ledger_key (
    id          BIGINT NOT NULL PRIMARY KEY,
    fingerprint VARCHAR(64) NOT NULL
){table}
