//! Moments, spans, bytes and tables as people read them.

use crate::ledger::{Heartbeat, JobView};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// `2026-11-23T10:00:00.123Z`.
pub fn moment(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |at| format!("{at:.3}"))
}

/// `4.2s`, `3m 07s`, `5h 02m`.
pub fn span(ms: i64) -> String {
    let seconds = ms / 1000;
    match seconds {
        ..60 => format!("{seconds}.{}s", (ms % 1000) / 100),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A count of a signed column as what it is.
pub fn natural(count: Option<i64>) -> Option<u64> {
    count.and_then(|count| u64::try_from(count).ok())
}

/// `512.00 MiB`; a dash where nothing is known.
pub fn bytes(bytes: Option<i64>) -> String {
    natural(bytes).map_or_else(|| "-".into(), |bytes| indicatif::BinaryBytes(bytes).to_string())
}

/// A count, or a dash.
pub fn count(count: Option<i64>) -> String {
    natural(count).map_or_else(|| "-".into(), |count| indicatif::HumanCount(count).to_string())
}

/// `1 of 4`, or a dash.
pub fn tasks(beat: &Heartbeat) -> String {
    match (beat.tasks_done, beat.tasks_total) {
        (Some(done), Some(total)) => format!("{done} of {total}"),
        _ => "-".into(),
    }
}

/// Columns without frames: readable, and cut by `awk`.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(head.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A value for programs.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    out(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Prints data. A reader that went away (`| head`) is no error.
pub fn out(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// The job's way, a line a phase: when, how long, who, why.
pub fn timeline(job: &JobView) -> String {
    let ends = job.transitions.iter().skip(1).map(|next| Some(next.at_ms)).chain([None]);
    let rows = job.transitions.iter().zip(ends).map(|(transition, end)| {
        let lasted = end.map_or_else(String::new, |end| span(end - transition.at_ms));
        vec![
            moment(transition.at_ms),
            transition.to_phase.clone(),
            lasted,
            transition.writer.clone(),
            transition.reason.clone(),
        ]
    });
    table(&["AT", "PHASE", "FOR", "WRITER", "REASON"], rows)
}
