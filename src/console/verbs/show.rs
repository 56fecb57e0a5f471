//! `sendo show`.

use crate::{
    console::{
        client::{Client, Common},
        exit, follow, format,
    },
    ledger::JobView,
    record::job::Fencing,
};

#[derive(clap::Args)]
pub struct Args {
    /// The job's id
    id: String,
    #[command(flatten)]
    common: Common,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    let job: JobView = Client::new(&args.common)?.get(&["v1", "jobs", &args.id], &[]).await?;
    if args.common.json {
        format::json(&job)?;
        return Ok(exit::OK);
    }
    let mut text = format!("{}  {}\n", job.summary.id, job.summary.phase);
    for (name, value) in [("tenant", &job.summary.tenant), ("definition", &job.summary.definition)] {
        if !value.is_empty() {
            text.push_str(&format!("{name} {value}\n"));
        }
    }
    if let Some(why) = &job.summary.waits_for {
        text.push_str(&format!("waits: {why}\n"));
    }
    if job.spec.fencing == Fencing::Strict {
        let live = job.attempts.last().filter(|attempt| attempt.ended_at_ms.is_none());
        let until = live.and_then(|attempt| attempt.lease_until_ms);
        let until = until.map(|until| format!(", lease until {}", format::moment(until))).unwrap_or_default();
        text.push_str(&format!("fencing strict{until}\n"));
    }
    if let Some(verdict) = follow::verdict(&job) {
        text.push_str(&format!("\n{verdict}"));
    }
    text.push_str(&format!("\n{}", format::timeline(&job)));
    let attempts = job.attempts.iter().map(|attempt| {
        let began = attempt.executing_at_ms.unwrap_or(attempt.launching_at_ms);
        vec![
            attempt.attempt.to_string(),
            attempt.state.clone(),
            attempt.cluster.clone(),
            attempt.node.clone().unwrap_or_default(),
            attempt.outcome.clone().unwrap_or_default(),
            attempt.ended_at_ms.map(|ended| format::span(ended - began)).unwrap_or_default(),
            attempt.exit_code.map(|code| code.to_string()).unwrap_or_default(),
            attempt.memory_bytes.map(|bytes| format::bytes(Some(bytes))).unwrap_or_default(),
        ]
    });
    text.push_str(&format!(
        "\n{}",
        format::table(&["ATTEMPT", "STATE", "CLUSTER", "NODE", "OUTCOME", "RAN FOR", "EXIT CODE", "MEMORY"], attempts)
    ));
    if let Some(lines) = job.attempts.last().map(|attempt| &attempt.last_lines).filter(|lines| !lines.is_empty()) {
        text.push_str("\nlast lines\n");
        lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    format::out(&text)?;
    Ok(exit::OK)
}
