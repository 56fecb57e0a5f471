//! `sendo logs`.

use crate::{
    console::{
        client::{Client, Common},
        exit, format,
    },
    ledger::JobView,
    record::phase::Phase,
};
use anyhow::Context as _;
use std::{io::Write as _, time::Duration};

const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub struct Args {
    /// The job's id
    id: String,
    /// The attempt [default: the last one]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    /// stdout or stderr
    #[arg(long, default_value = "stdout")]
    stream: String,
    /// Go on until the attempt ends
    #[arg(long, short, conflicts_with = "json")]
    follow: bool,
    #[command(flatten)]
    common: Common,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    let client = Client::new(&args.common)?;
    let job_path = ["v1", "jobs", &args.id];
    let mut job: JobView = client.get(&job_path, &[]).await?;
    // Nothing has run yet, and it is to be followed.
    while args.follow && job.summary.attempt < args.attempt.unwrap_or(1) && may_run(&job) {
        tokio::time::sleep(LOOK_EVERY).await;
        job = client.get(&job_path, &[]).await?;
    }
    let attempt = args.attempt.unwrap_or(job.summary.attempt);
    let mut text = Vec::new();
    let mut offset = 0;
    loop {
        // Asked before the log is read: what an ended attempt wrote is all there.
        let running = args.follow && is_running(&client.get(&job_path, &[]).await?, attempt);
        loop {
            let query = [
                ("attempt", attempt.to_string()),
                ("stream", args.stream.clone()),
                ("offset", u64::to_string(&offset)),
            ];
            let (piece, next) = client.log_piece(&["v1", "jobs", &args.id, "logs"], &query).await?;
            if piece.is_empty() {
                break;
            }
            offset = next;
            if args.common.json {
                text.extend(piece);
            } else {
                match std::io::stdout().write_all(&piece) {
                    // The reader went away.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(exit::OK),
                    written => written.context("write to stdout")?,
                }
            }
        }
        if !running {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if args.common.json {
        let lines: Vec<_> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
        format::json(&serde_json::json!({"id": args.id, "attempt": attempt, "stream": args.stream, "lines": lines}))?;
    }
    Ok(exit::OK)
}

/// Whether the attempt may still write.
fn is_running(job: &JobView, attempt: u32) -> bool {
    let last = job.attempts.iter().find(|view| view.attempt == attempt);
    last.is_some_and(|last| last.state != "ended")
}

/// Whether the job may have another attempt by itself.
fn may_run(job: &JobView) -> bool {
    Phase::parse(&job.summary.phase).is_some_and(|phase| !phase.is_ended() && phase != Phase::Held)
}
