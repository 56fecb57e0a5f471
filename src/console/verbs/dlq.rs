//! `sendo dlq`.

use crate::{
    console::{
        client::{Client, Common},
        exit, format,
    },
    intake::sqs::{
        client::Queue,
        dead::{self, Dead},
        settings::Settings,
    },
    serve::api::RefusalPage,
};
use anyhow::Context as _;
use std::io::{IsTerminal as _, Write as _};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// List what lies there, with the reason where a server knows it
    List(List),
    /// Send the messages back to where they came from
    Replay(Replay),
}

/// Which dead-letter queue.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Address of the dead-letter queue
    url: Option<String>,
    /// The dead-letter queue of this queue
    #[arg(long, value_name = "URL")]
    queue: Option<String>,
}

#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    which: Which,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Replay {
    #[command(flatten)]
    which: Which,
    /// Only say what would go back
    #[arg(long)]
    dry_run: bool,
    /// Do not ask on a terminal
    #[arg(long)]
    yes: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    match args.verb {
        Verb::List(args) => list(args).await,
        Verb::Replay(args) => replay(args).await,
    }
}

impl Which {
    async fn open(&self) -> anyhow::Result<Queue> {
        match (&self.url, &self.queue) {
            (Some(url), _) => Queue::open(&Settings::of(url)).await,
            (None, queue) => dead::of(&Queue::open(&Settings::of(queue.as_deref().unwrap_or_default())).await?).await,
        }
    }
}

async fn list(args: List) -> anyhow::Result<u8> {
    let queue = args.which.open().await?;
    let mut found = dead::peek(&queue, args.limit).await?;
    // Without a server the list is still a list.
    match Client::new(&args.common) {
        Ok(server) => reasons(&server, &mut found).await,
        Err(why) => eprintln!("sendo: without reasons: {why:#}"),
    }
    if args.common.json {
        format::json(&found)?;
        return Ok(exit::OK);
    }
    let now = crate::ledger::now().0;
    let rows = found.into_iter().map(|dead| {
        let age = dead.sent_at_ms.map_or_else(|| "-".into(), |at| format::span((now - at).max(0)));
        let dash = || "-".to_owned();
        vec![dead.message_id, age, dead.job_id.unwrap_or_else(dash), dead.reason.unwrap_or_else(dash), dead.first_line]
    });
    format::out(&format::table(&["MESSAGE", "AGE", "JOB", "REASON", "FIRST LINE"], rows))?;
    Ok(exit::OK)
}

/// Asks the server why each was refused.
async fn reasons(server: &Client, found: &mut [Dead]) {
    for dead in found {
        let query = [("message_id", dead.message_id.clone())];
        match server.get::<RefusalPage>(&["v1", "refusals"], &query).await {
            Ok(page) => dead.reason = page.refusals.into_iter().next().map(|refusal| refusal.reason),
            Err(why) => return eprintln!("sendo: without reasons: {why:#}"),
        }
    }
}

async fn replay(args: Replay) -> anyhow::Result<u8> {
    let queue = args.which.open().await?;
    let messages = dead::count(&queue).await?;
    if args.dry_run {
        if args.json {
            format::json(&serde_json::json!({"from": queue.url, "messages": messages}))?;
        } else {
            format::out(&format!("{messages} messages of {} would go back\n", queue.url))?;
        }
        return Ok(exit::OK);
    }
    if !args.yes && std::io::stdin().is_terminal() {
        eprint!("sendo: send about {messages} messages of {} back? [y/N] ", queue.url);
        std::io::stderr().flush().context("ask")?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).context("read the answer")?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(exit::CANCELLED);
        }
    }
    let replayed = dead::replay(&queue).await?;
    if args.json {
        format::json(&replayed)?;
    } else if replayed.under_way {
        format::out(&format!("about {} messages of {} are on their way back\n", replayed.messages, replayed.from))?;
    } else {
        let to = replayed.to.unwrap_or_default();
        format::out(&format!("{} messages of {} are back in {to}\n", replayed.messages, replayed.from))?;
    }
    Ok(exit::OK)
}
