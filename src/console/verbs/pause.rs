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
    /// Every job there is and will be
    All,
    /// A tenant's jobs
    Tenant,
    /// A definition's jobs
    Definition,
}

#[derive(clap::Args)]
pub struct Args {
    /// Of what; without it everything that is paused is listed
    kind: Option<Kind>,
    /// The tenant, "" for jobs without one; or the definition: NAME of every tenant, or TENANT/NAME
    #[arg(required_if_eq_any([("kind", "tenant"), ("kind", "definition")]))]
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
    #[arg(required_if_eq_any([("kind", "tenant"), ("kind", "definition")]))]
    name: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    let client = Client::new(&args.common)?;
    let list: PauseList = match args.kind {
        Some(kind) => {
            let body = PauseBody { kind: kind.into(), name: args.name.unwrap_or_default(), reason: args.reason };
            client.post(&["v1", "pauses"], &body).await?
        }
        None => client.get(&["v1", "pauses"], &[]).await?,
    };
    say(&list, args.common.json)
}

pub async fn resume(args: ResumeArgs) -> anyhow::Result<u8> {
    let body = PauseBody { kind: args.kind.into(), name: args.name.unwrap_or_default(), reason: None };
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
            Kind::All => Self::All,
            Kind::Tenant => Self::Tenant,
            Kind::Definition => Self::Definition,
        }
    }
}
