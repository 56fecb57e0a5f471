CREATE TABLE ledger_format (oldest_reader BIGINT NOT NULL){table}
