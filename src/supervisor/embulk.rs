//! Embulk as seen from outside: its configuration and cursor as files, its progress and its errors as lines.
//!
//! ```text
//! … [INFO] (0001:transaction): {done:  1 / 4, running: 3}
//! … [INFO] (embulk-output-executor-1): Loading 226,100 rows (16,803,094 bytes)
//! … [INFO] (0016:task-0000): Fetched 64,000 rows.
//! ```
//! Embulk 0.11; the digits are English because the entrypoint pins the language.

use crate::record::usage::Progress;
use memchr::memmem::Finder;
use std::collections::{BTreeSet, HashMap};

/// A JDBC load's temporary tables end like this: `orders_0000018f3c5a2b10_embulk000`.
const TEMPORARY_TABLE: &str = "_embulk";
/// More threads than any transfer has; the names are the transfer's to choose.
const THREADS_LIMIT: usize = 1024;
/// What the first line of a Java stack trace holds.
const EXCEPTION: &str = "Exception: ";
/// Enough names to clean up by; the rest follows the same pattern.
const TABLES_LIMIT: usize = 16;

/// What the lines have told so far.
pub struct Lines {
    table_mark: Finder<'static>,
    exception_mark: Finder<'static>,
    tasks: Option<(u64, u64, u64)>,
    loaded: Option<(u64, u64)>,
    /// Rows fetched by each task's thread: each line tells the thread's total.
    fetched: HashMap<String, u64>,
    error: Option<String>,
    /// A stack trace's own line, where Embulk prints no `Error:`.
    exception: Option<String>,
    tables: BTreeSet<String>,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            table_mark: Finder::new(TEMPORARY_TABLE),
            exception_mark: Finder::new(EXCEPTION),
            tasks: None,
            loaded: None,
            fetched: HashMap::new(),
            error: None,
            exception: None,
            tables: BTreeSet::new(),
        }
    }
}

impl Lines {
    /// Takes one line of stdout or stderr. A transfer may write millions of rows there: what cannot be told from its two ends, or by one
    /// fast search, is not looked at.
    pub fn see(&mut self, line: &[u8]) {
        let ends = [&b"}"[..], b" bytes)", b" rows."].iter().any(|end| line.ends_with(end));
        let exception = self.exception.is_none() && self.exception_mark.find(line).is_some();
        if ends || exception || line.starts_with(b"Error: ") || self.table_mark.find(line).is_some() {
            self.read(&String::from_utf8_lossy(line));
        }
    }

    fn read(&mut self, line: &str) {
        if line.contains(TEMPORARY_TABLE) && self.tables.len() < TABLES_LIMIT {
            let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            self.tables.extend(words.filter(|word| is_temporary_table(word)).map(str::to_owned));
        }
        if let Some(tasks) = tasks(line) {
            self.tasks = Some(tasks);
        } else if let Some((rows, bytes)) = loading(line) {
            let (all_rows, all_bytes) = self.loaded.unwrap_or_default();
            self.loaded = Some((all_rows.saturating_add(rows), all_bytes.saturating_add(bytes)));
        } else if let Some((thread, rows)) = fetched(line) {
            if self.fetched.len() < THREADS_LIMIT || self.fetched.contains_key(thread) {
                let known = self.fetched.entry(thread.to_owned()).or_default();
                *known = rows.max(*known);
            }
        } else if let Some(error) = line.strip_prefix("Error: ") {
            self.error = Some(error.to_owned());
        } else if self.exception.is_none() && !line.starts_with(char::is_whitespace) && line.contains(EXCEPTION) {
            self.exception = Some(line.to_owned());
        }
    }

    /// The progress in the heartbeat's words.
    pub fn progress(&self) -> Progress {
        let fetched = (!self.fetched.is_empty())
            .then(|| self.fetched.values().fold(0, |all: u64, rows| all.saturating_add(*rows)));
        Progress {
            tasks_done: self.tasks.map(|(done, _, _)| done),
            tasks_total: self.tasks.map(|(_, total, _)| total),
            tasks_running: self.tasks.map(|(_, _, running)| running),
            rows: self.loaded.map(|(rows, _)| rows).or(fetched),
            bytes: self.loaded.map(|(_, bytes)| bytes),
            ..Progress::default()
        }
    }

    /// Temporary tables that the lines named: what a killed JDBC load leaves behind.
    pub fn temporary_tables(&self) -> Vec<String> {
        self.tables.iter().take(TABLES_LIMIT).cloned().collect()
    }

    /// Embulk's own word on why it failed.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref().or(self.exception.as_deref())
    }
}

/// `{done:  1 / 4, running: 3}`
fn tasks(line: &str) -> Option<(u64, u64, u64)> {
    let (_, rest) = line.split_once("{done:")?;
    let (done, rest) = rest.split_once('/')?;
    let (total, rest) = rest.split_once(", running:")?;
    let (running, _) = rest.split_once('}')?;
    Some((number(done)?, number(total)?, number(running)?))
}

/// `Loading 226,100 rows (16,803,094 bytes)`
fn loading(line: &str) -> Option<(u64, u64)> {
    let (_, rest) = line.split_once("): Loading ")?;
    let (rows, rest) = rest.split_once(" rows (")?;
    let (bytes, _) = rest.split_once(" bytes)")?;
    Some((number(rows)?, number(bytes)?))
}

/// `(0016:task-0000): Fetched 64,000 rows.`
fn fetched(line: &str) -> Option<(&str, u64)> {
    let (head, rest) = line.split_once("): Fetched ")?;
    let (_, thread) = head.rsplit_once('(')?;
    let (rows, _) = rest.split_once(" rows.")?;
    Some((thread, number(rows)?))
}

fn number(text: &str) -> Option<u64> {
    text.trim().replace(',', "").parse().ok()
}

fn is_temporary_table(word: &str) -> bool {
    let Some((head, number)) = word.rsplit_once(TEMPORARY_TABLE) else { return false };
    let stamp = head.rsplit_once('_').map_or("", |(_, stamp)| stamp);
    number.bytes().all(|byte| byte.is_ascii_digit())
        && stamp.len() == 16
        && stamp.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(lines: &[&str]) -> Lines {
        let mut all = Lines::default();
        lines.iter().for_each(|line| all.see(line.as_bytes()));
        all
    }

    #[test]
    fn reads_real_lines() {
        let progress = seen(&[
            "2026-11-23 03:04:09.129 +0000 [INFO] (0001:transaction): {done:  0 / 4, running: 0}",
            "2026-11-23 03:04:09.129 +0000 [INFO] (0001:transaction): {done:  1 / 4, running: 3}",
            "2026-11-23 03:04:09.129 +0000 [INFO] (0016:task-0000): Fetched 32,000 rows.",
            "2026-11-23 03:04:09.129 +0000 [INFO] (0016:task-0000): Fetched 64,000 rows.",
        ])
        .progress();
        assert_eq!((progress.tasks_done, progress.tasks_total, progress.tasks_running), (Some(1), Some(4), Some(3)));
        assert_eq!((progress.rows, progress.bytes), (Some(64_000), None));
    }

    #[test]
    fn loaded_rows_count_before_fetched_ones() {
        let progress = seen(&[
            "x [INFO] (0016:task-0000): Fetched 64,000 rows.",
            "x [INFO] (embulk-output-executor-1): Loading 226,100 rows (16,803,094 bytes)",
            "x [INFO] (embulk-output-executor-0): Loading 100 rows (94 bytes)",
        ])
        .progress();
        assert_eq!((progress.rows, progress.bytes), (Some(226_200), Some(16_803_188)));
    }

    #[test]
    fn what_is_no_progress_is_none() {
        let lines = seen(&["{done: many / 4, running: 3}", "Loading rows", "done: 1 / 4", "): Fetched x rows."]);
        assert_eq!(lines.progress(), Progress::default());
    }

    #[test]
    fn names_the_error_and_the_tables() {
        let lines =
            seen(&["org.embulk.exec.PartialExecutionException: java.lang.X: no", "\tat a.b", "Error: java.lang.X: no"]);
        assert_eq!(lines.error(), Some("java.lang.X: no"));
        let lines = seen(&["CREATE TABLE \"orders_0000018f3c5a2b10_embulk000\" (id)", "my_embulk001"]);
        assert_eq!(lines.temporary_tables(), ["orders_0000018f3c5a2b10_embulk000"]);
    }
}
