INSERT INTO ledger_format (oldest_reader) VALUES (1)
