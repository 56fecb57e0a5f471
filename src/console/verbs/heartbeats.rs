//! `sendo heartbeats`.

use crate::console::{
    client::{Client, Common, FROM_THE_START},
    exit, format, plot,
};

#[derive(clap::Args)]
pub struct Args {
    /// The job's id
    id: String,
    /// The attempt [default: the last one]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    /// Draw memory and CPU over time
    #[arg(long, conflicts_with = "json")]
    plot: bool,
    #[command(flatten)]
    common: Common,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    let heartbeats = Client::new(&args.common)?.heartbeats(&args.id, args.attempt, FROM_THE_START).await?;
    if args.common.json {
        format::json(&serde_json::json!({ "heartbeats": heartbeats }))?;
    } else if args.plot {
        format::out(&plot::usage(&heartbeats))?;
    } else {
        let rows = heartbeats.iter().map(|beat| {
            vec![
                format::moment(beat.at_ms),
                format::bytes(beat.memory_bytes()),
                beat.cpu_time_seconds().map_or_else(|| "-".into(), |cpu| format!("{cpu:.2}s")),
                format::bytes(beat.jvm_heap_used_bytes),
                format::count(beat.processes),
                format::tasks(beat),
                format::count(beat.transferred_rows),
                format::bytes(beat.transferred_bytes),
                beat.silent_seconds.map_or_else(|| "-".into(), |silent| format!("{silent:.1}s")),
            ]
        });
        format::out(&format::table(
            &["AT", "MEMORY", "CPU TIME", "HEAP", "PROCESSES", "TASKS", "ROWS", "BYTES", "SILENT"],
            rows,
        ))?;
    }
    Ok(exit::OK)
}
