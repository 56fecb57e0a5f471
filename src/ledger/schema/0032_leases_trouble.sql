ALTER TABLE leases ADD COLUMN trouble {text}
