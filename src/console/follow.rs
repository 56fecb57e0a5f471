//! A job watched to its end: a bar on a terminal, lines elsewhere; both on stderr.

use super::{
    client::{Client, FROM_THE_START},
    exit, format,
};
use crate::{
    ledger::{Heartbeat, JobView},
    record::phase::Phase,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{io::IsTerminal as _, time::Duration};

const LOOK_EVERY: Duration = Duration::from_millis(400);
/// A server that restarts is waited for; one that is gone is not.
const MISSES: u32 = 50;

/// Shows the job until it ends, or waits for a person. Gives back its last state.
pub async fn follow(client: &Client, id: &str) -> anyhow::Result<JobView> {
    let bar = std::io::stderr().is_terminal().then(bar);
    let say = |line: String| match &bar {
        Some(bar) => bar.suspend(|| eprintln!("{line}")),
        None => eprintln!("{line}"),
    };
    let (mut shown, mut misses) = (0, 0);
    let mut last_beat = (0, FROM_THE_START);
    loop {
        let job = match client.get::<JobView>(&["v1", "jobs", id], &[]).await {
            Ok(job) => job,
            Err(error) if misses >= MISSES => return Err(error),
            Err(error) => {
                if misses == 0 {
                    say(format!("sendo: {error:#}; waiting for it"));
                }
                misses += 1;
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
        };
        misses = 0;
        if last_beat.0 != job.summary.attempt {
            last_beat = (job.summary.attempt, FROM_THE_START);
        }
        let attempt = Some(job.summary.attempt).filter(|attempt| *attempt > 0);
        // A miss here is made up for by the next look.
        let beats = client.heartbeats(id, attempt, last_beat.1).await.unwrap_or_default();
        let mut beats = beats.into_iter().peekable();
        // Readings and transitions in the order in which they happened.
        for transition in job.transitions.iter().skip(shown) {
            while let Some(beat) = beats.next_if(|beat| beat.at_ms <= transition.at_ms) {
                last_beat.1 = (beat.at_ms, beat.seq);
                show_beat(bar.as_ref(), &say, &beat);
            }
            say(format!("{}  {:<10} {}", format::moment(transition.at_ms), transition.to_phase, transition.reason));
        }
        for beat in beats {
            last_beat.1 = (beat.at_ms, beat.seq);
            show_beat(bar.as_ref(), &say, &beat);
        }
        shown = job.transitions.len();
        let phase = Phase::parse(&job.summary.phase);
        if let Some(bar) = &bar {
            bar.set_prefix(job.summary.phase.clone());
        }
        if phase.is_none_or(|phase| phase.is_ended() || phase == Phase::Held) {
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            return Ok(job);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The verb's exit code for a job's end.
pub fn exit_code(job: &JobView) -> u8 {
    match Phase::parse(&job.summary.phase) {
        Some(Phase::Succeeded) => exit::OK,
        Some(Phase::Cancelled) => exit::CANCELLED,
        _ => exit::JOB_FAILED,
    }
}

/// The verdict in words; nothing for a success.
pub fn verdict(job: &JobView) -> Option<String> {
    let verdict = job.summary.verdict.as_ref()?;
    if job.summary.phase == Phase::Succeeded.as_str() {
        return None;
    }
    let mut words = format!(
        "{} ({}): {}
",
        verdict.code,
        verdict.confidence.as_str(),
        verdict.summary
    );
    verdict.evidence.iter().for_each(|evidence| words.push_str(&format!("  - {evidence}\n")));
    if !verdict.next_action.is_empty() {
        words.push_str(&format!("  next: {}\n", verdict.next_action));
    }
    Some(words)
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>10} [{bar:30}] {wide_msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    // Empty until the transfer says how many tasks it has.
    ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr()).with_style(style.progress_chars("=> "))
}

fn show_beat(bar: Option<&ProgressBar>, say: &impl Fn(String), beat: &Heartbeat) {
    let mut words = format!("memory {}", format::bytes(beat.memory_bytes()));
    words.push_str(&beat.cpu_time_seconds().map(|cpu| format!(", CPU {cpu:.2}s")).unwrap_or_default());
    if beat.transferred_rows.is_some() {
        words.push_str(&format!(", {} rows", format::count(beat.transferred_rows)));
    }
    if beat.transferred_bytes.is_some() {
        words.push_str(&format!(", {}", format::bytes(beat.transferred_bytes)));
    }
    words.push_str(&beat.tasks_total.map(|_| format!(", {} tasks done", format::tasks(beat))).unwrap_or_default());
    let Some(bar) = bar else { return say(format!("{}  reading    {words}", format::moment(beat.at_ms))) };
    bar.set_length(format::natural(beat.tasks_total).unwrap_or(1).max(1));
    bar.set_position(format::natural(beat.tasks_done).unwrap_or(0));
    bar.set_message(words);
}
