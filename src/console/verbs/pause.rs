//! `sendo pause` and `sendo resume`.

use crate::{
    console::{
        client::{Client, Common},
        exit, format,
    },
    ledger::PauseKind,
    serve::pauses::{PauseBody, PauseList},
};

/// What a pause is of.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    Tenant,
    Definition,
}

#[derive(clap::Args)]
pub struct Args {
    /// Of what; without it everything that is paused is listed
    #[arg(requires = "name")]
    kind: Option<Kind>,
    /// The tenant; or the definition: NAME of every tenant, or TENANT/NAME
    name: Option<String>,
    /// Shown to whoever asks why a job waits
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub struct ResumeArgs {
    /// Of what
    kind: Kind,
    /// As it was paused
    name: String,
    #[command(flatten)]
    common: Common,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    let client = Client::new(&args.common)?;
    let list: PauseList = match args.kind.zip(args.name) {
        Some((kind, name)) => {
            client.post(&["v1", "pauses"], &PauseBody { kind: kind.into(), name, reason: args.reason }).await?
        }
        None => client.get(&["v1", "pauses"], &[]).await?,
    };
    say(&list, args.common.json)
}

pub async fn resume(args: ResumeArgs) -> anyhow::Result<u8> {
    let body = PauseBody { kind: args.kind.into(), name: args.name, reason: None };
    let list: PauseList = Client::new(&args.common)?.post(&["v1", "pauses", "end"], &body).await?;
    say(&list, args.common.json)
}

/// What is paused now.
fn say(list: &PauseList, json: bool) -> anyhow::Result<u8> {
    if json {
        format::json(list)?;
        return Ok(exit::OK);
    }
    if list.pauses.is_empty() {
        eprintln!("sendo: nothing is paused");
        return Ok(exit::OK);
    }
    let rows = list.pauses.iter().map(|pause| {
        let since = format::moment(pause.paused_at_ms);
        vec![pause.kind.as_str().to_owned(), pause.name.clone(), since, pause.reason.clone()]
    });
    format::out(&format::table(&["PAUSED", "NAME", "SINCE", "REASON"], rows))?;
    Ok(exit::OK)
}

impl From<Kind> for PauseKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Tenant => Self::Tenant,
            Kind::Definition => Self::Definition,
        }
    }
}
