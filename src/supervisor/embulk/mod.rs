//! Embulk as seen from outside, by its lines: its progress, its errors, and how far its commit had come.

mod line;

use crate::record::{
    outcome::{Commit, CommitState},
    usage::Progress,
};
use aho_corasick::packed::Searcher;
use line::{MARKS, TASKS, Told};
use std::{
    collections::{BTreeSet, HashMap},
    sync::LazyLock,
};

/// Longer lines are seen up to here.
pub const LINE_LIMIT: usize = 8 * 1024;
/// Of a line that travels with the ending: the termination log has room for little more.
const QUOTE_LIMIT: usize = 300;
/// More threads than any transfer has; the names are the transfer's to choose.
const THREADS_LIMIT: usize = 1024;
/// Enough names to clean up by; the rest follows the same pattern.
const TABLES_LIMIT: usize = 16;

/// Finds every mark in one pass, if the processor can do that (SSSE3, NEON).
static SEARCH: LazyLock<Option<Searcher>> = LazyLock::new(|| Searcher::new(MARKS));

/// What the lines have told so far.
#[derive(Default)]
pub struct Lines {
    tasks: Option<(u64, u64, u64)>,
    loaded: Option<(u64, Option<u64>)>,
    /// Rows fetched by each task's thread: each line tells the thread's total.
    fetched: HashMap<String, u64>,
    error: Option<String>,
    /// A stack trace's own line, where Embulk prints no `Error:`.
    exception: Option<String>,
    tables: BTreeSet<String>,
    /// Rows go into temporary tables first.
    staged: bool,
    commit: Option<Commit>,
}

impl Lines {
    /// Takes whole lines of stdout or stderr. A transfer may write a gigabyte of rows a second there: only lines with a mark are
    /// looked at.
    pub fn see(&mut self, mut text: &[u8]) {
        while let Some(at) = first_mark(text) {
            let (before, behind) = text.split_at(at);
            let start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
            let end = at + memchr::memchr(b'\n', behind).unwrap_or(behind.len());
            let line = text.get(start..end).unwrap_or_default();
            self.read(&String::from_utf8_lossy(line.get(..LINE_LIMIT).unwrap_or(line).trim_ascii_end()));
            if line.len() > LINE_LIMIT {
                self.doubt("a line too long to be read");
            }
            text = text.get(end..).unwrap_or_default();
        }
    }

    fn read(&mut self, line: &str) {
        if self.tables.len() < TABLES_LIMIT {
            self.tables.extend(line::tables(line).map(str::to_owned));
        }
        match Told::read(line) {
            Some(Told::Tasks { done, total, running }) => {
                self.tasks = Some((done, total, running));
                let state = if done < total { CommitState::NotBegun } else { CommitState::Begun };
                if self.staged {
                    self.commits(state, line);
                }
            }
            Some(Told::Loading { rows, bytes }) => {
                let (all_rows, all_bytes) = self.loaded.unwrap_or((0, Some(0)));
                let bytes = all_bytes.zip(bytes).map(|(all, bytes)| all.saturating_add(bytes));
                self.loaded = Some((all_rows.saturating_add(rows), bytes));
            }
            Some(Told::Fetched { thread, rows }) => self.fetches(thread, rows),
            Some(Told::Staging) => self.staged = true,
            Some(Told::Moving) => self.commits(CommitState::Begun, line),
            Some(Told::Committed) => self.commits(CommitState::Done, line),
            Some(Told::Error(error)) => self.error = Some(error.to_owned()),
            Some(Told::Exception) if self.exception.is_none() => self.exception = Some(line.to_owned()),
            // Embulk in another language, or another Embulk: it may say that all is done, and we cannot tell.
            None if line.contains(TASKS) => self.doubt(line),
            _ => {}
        }
    }

    fn fetches(&mut self, thread: &str, rows: u64) {
        if self.fetched.len() < THREADS_LIMIT || self.fetched.contains_key(thread) {
            let known = self.fetched.entry(thread.to_owned()).or_default();
            *known = rows.max(*known);
        }
    }

    /// What once began does not go back.
    fn commits(&mut self, state: CommitState, line: &str) {
        if self.commit.as_ref().is_none_or(|commit| commit.state <= state) {
            self.commit = Some(Commit { state, line: line.chars().take(QUOTE_LIMIT).collect() });
        }
    }

    /// What could not be read may have told of the commit's begin: only what was read to the last line proves that there was none.
    pub fn doubt(&mut self, line: &str) {
        self.commits(CommitState::Begun, line);
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
            bytes: self.loaded.and_then(|(_, bytes)| bytes),
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

    /// How far the commit had come, where the lines say so.
    pub fn commit(&self) -> Option<&Commit> {
        self.commit.as_ref()
    }
}

fn first_mark(text: &[u8]) -> Option<usize> {
    match &*SEARCH {
        Some(search) => search.find(text).map(|found| found.start()),
        None => MARKS.iter().filter_map(|mark| memchr::memmem::find(text, mark.as_bytes())).min(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE: &str = "x [INFO] (0001:transaction): SQL: CREATE TABLE \"orders_0000018f3c5a2b10_embulk000\" (id)";

    fn seen(lines: &[&str]) -> Lines {
        let mut all = Lines::default();
        all.see(lines.join("\n").as_bytes());
        all
    }

    #[test]
    fn adds_up_what_the_lines_tell() {
        let progress = seen(&[
            "x [INFO] (0001:transaction): {done:  0 / 4, running: 0}",
            "a row",
            "x [INFO] (0001:transaction): {done:  1 / 4, running: 3}",
            "x [INFO] (0016:task-0000): Fetched 32,000 rows.\r",
            "x [INFO] (0016:task-0000): Fetched 64,000 rows.",
        ])
        .progress();
        assert_eq!((progress.tasks_done, progress.tasks_total, progress.tasks_running), (Some(1), Some(4), Some(3)));
        assert_eq!((progress.rows, progress.bytes), (Some(64_000), None));
    }

    #[test]
    fn loaded_rows_count_before_fetched_ones() {
        let loaded = |last: &str| {
            let lines = [
                "x [INFO] (0016:task-0000): Fetched 64,000 rows.",
                "x [INFO] (embulk-output-executor-1): Loading 226,100 rows (16,803,094 bytes)",
                last,
            ];
            let progress = seen(&lines).progress();
            (progress.rows, progress.bytes)
        };
        let known = loaded("x [INFO] (embulk-output-executor-0): Loading 100 rows (94 bytes)");
        assert_eq!(known, (Some(226_200), Some(16_803_188)));
        assert_eq!(loaded("x [INFO] (embulk-output-executor-0): Loading 100 rows"), (Some(226_200), None));
    }

    #[test]
    fn names_the_error_before_the_exception_and_the_tables() {
        let lines =
            seen(&["org.embulk.exec.PartialExecutionException: java.lang.X: no", "\tat a.b", "Error: java.lang.X: no"]);
        assert_eq!(lines.error(), Some("java.lang.X: no"));
        assert_eq!(seen(&[CREATE]).temporary_tables(), ["orders_0000018f3c5a2b10_embulk000"]);
    }

    #[test]
    fn a_commit_begins_when_every_task_is_done_and_only_where_rows_are_staged() {
        use CommitState::{Begun, Done, NotBegun};
        let state = |lines: &[&str]| seen(lines).commit().map(|commit| commit.state);
        let tasks = |done| format!("x [INFO] (0001:transaction): {{done:  {done} / 2, running: 0}}");
        let (one, all, committed) = (&*tasks("1"), &*tasks("2"), "x [INFO] (main): Committed.");
        for (lines, expected) in [
            (&[one, all][..], None),
            (&[CREATE], None),
            (&[CREATE, one], Some(NotBegun)),
            (&[CREATE, one, all], Some(Begun)),
            (&[CREATE, all, one], Some(Begun)),
            (
                &[
                    CREATE,
                    one,
                    "x [INFO] (0001:transaction): SQL: INSERT INTO t SELECT * FROM o_0000018f3c5a2b10_embulk000",
                ],
                Some(Begun),
            ),
            (&[CREATE, all, committed, all], Some(Done)),
            (&[committed], Some(Done)),
        ] {
            assert_eq!(state(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_line_that_could_not_be_read_may_have_told_of_the_commit() {
        let one = "x [INFO] (0001:transaction): {done:  1 / 2, running: 0}";
        let foreign = "x [INFO] (0001:transaction): {done:  ٢ / ٢, running: 0}";
        let long = format!("{}{{done:  2 / 2, running: 0}}", ".".repeat(LINE_LIMIT));
        for line in [foreign, &long] {
            assert_eq!(seen(&[CREATE, one, line]).commit().unwrap().state, CommitState::Begun);
        }
    }

    #[test]
    fn a_quoted_line_is_short() {
        let long = format!("{}: {{done:  2 / 2, running: 0}}", ".".repeat(1000));
        assert_eq!(seen(&[CREATE, &long]).commit().unwrap().line.len(), QUOTE_LIMIT);
    }
}
