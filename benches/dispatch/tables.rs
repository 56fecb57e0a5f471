//! Large tables, made by SQLite itself: taking a quarter of a million jobs in one by one is another benchmark.

use std::{path::Path, process::Command};

/// What SQLite's own program answers.
pub fn sqlite(folder: &Path, statement: &str) -> String {
    let output = Command::new("sqlite3")
        .args(["-cmd", ".timeout 60000"])
        .arg(folder.join("ledger.db"))
        .arg(statement)
        .output()
        .expect("run sqlite3; it is a Debian package of that name");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Copies of the table's first row under other keys, whatever its columns are.
pub fn multiply(folder: &Path, table: &str, key: &str, copies: u32) {
    let columns = sqlite(folder, &format!("SELECT group_concat(name, ', ') FROM pragma_table_info('{table}')"));
    let values: Vec<String> = columns
        .split(", ")
        .map(|name| if name == key { "printf('copy-%07d', n.value)".to_owned() } else { format!("t.{name}") })
        .collect();
    let numbers =
        format!("WITH RECURSIVE n (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {copies})");
    let values = values.join(", ");
    sqlite(
        folder,
        &format!("{numbers} INSERT INTO {table} ({columns}) SELECT {values} FROM (SELECT * FROM {table} LIMIT 1) t, n"),
    );
}
