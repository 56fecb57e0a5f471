//! `sendo jobs`.

use crate::{
    console::{
        client::{Client, Common},
        exit, format,
    },
    intake::sqs::settings::name,
    serve::api::{JobPage, RefusalPage},
};

#[derive(clap::Args)]
pub struct Args {
    /// Only jobs in this phase: queued, setting_up, executing, stopping, succeeded, failed, cancelled, rejected, held
    #[arg(long)]
    phase: Option<String>,
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// Only of this definition
    #[arg(long)]
    definition: Option<String>,
    /// Only what stands behind this job in the list: the next page
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// List instead what was not taken in, and why
    #[arg(long, conflicts_with_all = ["phase", "tenant", "definition", "after"])]
    refused: bool,
    #[command(flatten)]
    common: Common,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    if args.refused {
        return refused(&args).await;
    }
    let filters =
        [("phase", args.phase), ("tenant", args.tenant), ("definition", args.definition), ("after", args.after)];
    let mut query: Vec<_> = filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    query.push(("limit", args.limit.to_string()));
    let page: JobPage = Client::new(&args.common)?.get(&["v1", "jobs"], &query).await?;
    if args.common.json {
        format::json(&page)?;
        return Ok(exit::OK);
    }
    let rows = page.jobs.into_iter().map(|job| {
        let waits = job.waits_for.map(|why| format!("waits: {why}"));
        let why = waits.or(job.verdict.map(|verdict| verdict.summary)).unwrap_or_default();
        let attempt = if job.attempt == 0 { "-".into() } else { job.attempt.to_string() };
        vec![job.id, job.phase, attempt, format::moment(job.queued_at_ms), why.chars().take(80).collect()]
    });
    format::out(&format::table(&["JOB", "PHASE", "ATTEMPT", "QUEUED", "VERDICT"], rows))?;
    if let Some(next) = page.next {
        eprintln!("sendo: there may be more: --after {next}");
    }
    Ok(exit::OK)
}

async fn refused(args: &Args) -> anyhow::Result<u8> {
    let query = [("limit", args.limit.to_string())];
    let page: RefusalPage = Client::new(&args.common)?.get(&["v1", "refusals"], &query).await?;
    if args.common.json {
        format::json(&page)?;
        return Ok(exit::OK);
    }
    let rows = page.refusals.into_iter().map(|refusal| {
        let job = refusal.job_id.unwrap_or_else(|| "-".into());
        let reason = refusal.reason.lines().collect::<Vec<_>>().join(" ");
        let last = format::moment(refusal.last_at_ms);
        vec![last, name(&refusal.queue).to_owned(), refusal.message_id, job, refusal.times.to_string(), reason]
    });
    format::out(&format::table(&["LAST", "QUEUE", "MESSAGE", "JOB", "TIMES", "REASON"], rows))?;
    if page.more {
        eprintln!("sendo: there may be more: raise --limit");
    }
    Ok(exit::OK)
}
