//! One line of Embulk's, understood: pure.
//!
//! ```text
//! … [INFO] (0001:transaction): {done:  1 / 4, running: 3}
//! … [INFO] (embulk-output-executor-1): Loading 226,100 rows (16,803,094 bytes)
//! … [INFO] (0016:task-0000): Fetched 64,000 rows.
//! … [INFO] (0001:transaction): SQL: CREATE TABLE IF NOT EXISTS "public"."orders_000001a2076f58b6_embulk000" ("id" BIGINT)
//! … [INFO] (main): Committed.
//! java.lang.OutOfMemoryError: Java heap space
//! Error: java.lang.RuntimeException: …
//! ```
//! Embulk 0.11; the digits are English because the entrypoint pins the language.

/// A line that tells something holds at least one of these. Their first bytes are what a fast search looks for: rare ones.
pub const MARKS: [&str; 7] = [TASKS, "Loading ", "Fetched ", "Committed.", TEMPORARY_TABLE, EXCEPTION, ERROR];
/// How Embulk tells how many of its tasks are done.
pub const TASKS: &str = "{done:";
/// A JDBC load's temporary tables end like this: `orders_0000018f3c5a2b10_embulk000`.
const TEMPORARY_TABLE: &str = "_embulk";
/// What the first line of a Java stack trace holds.
const EXCEPTION: &str = "Exception: ";
/// What Embulk's own last word begins with; also the end of the name of what a JVM throws at its end.
const ERROR: &str = "Error: ";

/// Bytes of a thread's name: `0016:task-0000`.
const THREAD_LIMIT: usize = 64;

/// What one line tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Told<'a> {
    Tasks {
        done: u64,
        total: u64,
        running: u64,
    },
    Loading {
        rows: u64,
        bytes: Option<u64>,
    },
    Fetched {
        thread: &'a str,
        rows: u64,
    },
    /// Rows go into temporary tables first, and into the target at the commit.
    Staging,
    /// The target gets what is in the temporary tables.
    Moving,
    Committed,
    /// Embulk's own word on why it failed.
    Error(&'a str),
    /// A stack trace's own line.
    Exception,
}

impl<'a> Told<'a> {
    pub fn read(line: &'a str) -> Option<Self> {
        tasks(line)
            .or_else(|| loading(line))
            .or_else(|| fetched(line))
            .or_else(|| line.ends_with("): Committed.").then_some(Self::Committed))
            .or_else(|| statement(line))
            .or_else(|| line.strip_prefix(ERROR).map(Self::Error))
            .or_else(|| is_thrown(line).then_some(Self::Exception))
    }
}

/// What Embulk's own statements do with a temporary table; those of the tasks, which fill it, begin otherwise (`Copy SQL`, `Prepared SQL`).
fn statement(line: &str) -> Option<Told<'_>> {
    let (_, sql) = line.split_once("): SQL: ")?;
    tables(sql).next()?;
    if sql.starts_with("CREATE TABLE ") {
        return Some(Told::Staging);
    }
    (!sql.starts_with("DROP TABLE ")).then_some(Told::Moving)
}

/// The temporary tables that a line names.
pub fn tables(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words.filter(|word| is_temporary_table(word))
}

fn is_temporary_table(word: &str) -> bool {
    let Some((head, number)) = word.rsplit_once(TEMPORARY_TABLE) else { return false };
    let stamp = head.rsplit_once('_').map_or("", |(_, stamp)| stamp);
    number.bytes().all(|byte| byte.is_ascii_digit())
        && stamp.len() == 16
        && stamp.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `{done:  1 / 4, running: 3}`
fn tasks(line: &str) -> Option<Told<'_>> {
    let (_, rest) = line.rsplit_once(TASKS)?;
    let (done, rest) = rest.split_once('/')?;
    let (total, rest) = rest.split_once(", running:")?;
    let running = rest.strip_suffix('}')?;
    Some(Told::Tasks { done: number(done)?, total: number(total)?, running: number(running)? })
}

/// `Loading 226,100 rows (16,803,094 bytes)`; some outputs name no bytes.
fn loading(line: &str) -> Option<Told<'_>> {
    let (_, rest) = line.split_once("): Loading ")?;
    let (rows, rest) = rest.split_once(" rows")?;
    let bytes = rest.strip_prefix(" (").and_then(|rest| number(rest.strip_suffix(" bytes)")?));
    (rest.is_empty() || bytes.is_some()).then_some(Told::Loading { rows: number(rows)?, bytes })
}

/// `(0016:task-0000): Fetched 64,000 rows.`
fn fetched(line: &str) -> Option<Told<'_>> {
    let (head, rest) = line.split_once("): Fetched ")?;
    let (_, thread) = head.rsplit_once('(').filter(|(_, thread)| thread.len() <= THREAD_LIMIT)?;
    Some(Told::Fetched { thread, rows: number(rest.strip_suffix(" rows.")?)? })
}

/// `java.lang.OutOfMemoryError: Java heap space`, `Exception in thread "main" java.lang.X: …`
fn is_thrown(line: &str) -> bool {
    let class = |before: &str| before.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '$'));
    !line.starts_with(char::is_whitespace)
        && (line.contains(EXCEPTION) || line.split_once(ERROR).is_some_and(|(before, _)| class(before)))
}

fn number(text: &str) -> Option<u64> {
    text.trim().replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_real_lines() {
        let head = "2026-11-23 03:04:09.129 +0000 [INFO] ";
        for (line, told) in [
            ("(0001:transaction): {done:  1 / 4, running: 3}", Told::Tasks { done: 1, total: 4, running: 3 }),
            (
                "(e-1): Loading 226,100 rows (16,803,094 bytes)",
                Told::Loading { rows: 226_100, bytes: Some(16_803_094) },
            ),
            ("(0016:task-0000): Loading 2,790 rows", Told::Loading { rows: 2790, bytes: None }),
            ("(0016:task-0000): Fetched 64,000 rows.", Told::Fetched { thread: "0016:task-0000", rows: 64_000 }),
            ("(main): Committed.", Told::Committed),
            (
                "(0001:transaction): SQL: CREATE TABLE IF NOT EXISTS \"t_0000018f3c5a2b10_embulk000\" (id)",
                Told::Staging,
            ),
        ] {
            let line = format!("{head}{line}");
            assert_eq!(Told::read(&line), Some(told), "{line}");
            assert!(MARKS.iter().any(|mark| line.contains(mark)), "{line}");
        }
        assert_eq!(Told::read("Error: java.lang.X: no"), Some(Told::Error("java.lang.X: no")));
        for line in ["java.lang.OutOfMemoryError: Java heap space", "Exception in thread \"x\" java.io.IOException: no"]
        {
            assert_eq!(Told::read(line), Some(Told::Exception));
        }
    }

    #[test]
    fn what_tells_nothing_is_nothing() {
        for line in [
            "{done: many / 4, running: 3}",
            "Loading rows",
            "done: 1 / 4",
            "): Fetched x rows.",
            "(main): Not Committed",
            "CREATE TABLE my_embulk001",
            "(0016:task-0000): Copy SQL: COPY \"t_0000018f3c5a2b10_embulk000\" FROM STDIN",
            "(0001:transaction): SQL: DROP TABLE IF EXISTS \"t_0000018f3c5a2b10_embulk000\"",
            "(0001:transaction): SQL: DELETE FROM \"t\"",
            "{done:  ١ / ٢, running: 0}",
            "\tat a.b: Error: x",
            "a row, with an Error: in it",
        ] {
            assert_eq!(Told::read(line), None, "{line}");
        }
    }

    #[test]
    fn names_temporary_tables() {
        let line = "CREATE TABLE \"orders_0000018f3c5a2b10_embulk000\" (id), my_embulk001, x_0000018f3c5a2b1z_embulk0";
        assert_eq!(tables(line).collect::<Vec<_>>(), ["orders_0000018f3c5a2b10_embulk000"]);
    }
}
