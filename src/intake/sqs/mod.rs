//! The door of SQS: several pollers a queue, each with one batch in hand.
//!
//! ```text
//!   receive (long poll, ten) ──> check ──> ledger, one transaction ──> delete, in one request
//!        ^                         └─ refused: kept by (queue, message id), left to the queue's redrive
//!        └── only when the ledger answers, nothing is in hand, and no other poller's hand is stuck
//! ```
//!
//! A message is deleted only after its job is committed. Killed between the two, it comes again and is known by its id. A batch that the
//! ledger does not take is held, and is what the ledger is tried with: it is kept hidden, and nothing more is received meanwhile, so that an
//! outage costs each message in hand one receipt of the few that the queue counts before it gives the message up.
//!
//! `settings` is what a person says of a queue, `client` the way to it, `check` what must be true of it, `receive` the pollers, `stuck`
//! what they tell each other, `hand` what one of them holds, `settle` what is asked about messages in hand; `send` and `dead` are for people.

mod check;
pub mod client;
pub mod dead;
mod hand;
mod receive;
pub mod send;
pub mod settings;
mod settle;
mod stuck;

use crate::ledger::Ledger;
use client::Queue;
use settings::Settings;
use std::sync::Arc;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// The queues, looked at and ready to be read.
pub struct Intake {
    queues: Vec<(Arc<Queue>, Settings)>,
}

impl Intake {
    /// Looks at each queue; what is definitely wrong with one is an error, one that cannot be reached is asked again later.
    pub async fn open(settings: &[Settings]) -> anyhow::Result<Self> {
        let mut queues = Vec::new();
        for settings in settings {
            let queue = Arc::new(Queue::open(settings).await?);
            check::at_start(&queue, settings).await?;
            queues.push((queue, settings.clone()));
        }
        Ok(Self { queues })
    }

    /// Takes messages in until `shutdown` says so, then settles what is in hand. `wake` is rung when a job was taken.
    pub async fn run(self, ledger: Ledger, wake: Arc<Notify>, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut pollers = JoinSet::new();
        for (queue, settings) in self.queues {
            let stuck = stuck::Stuck::default();
            for _ in 0..settings.pollers {
                let poller = receive::Poller {
                    queue: Arc::clone(&queue),
                    settings: settings.clone(),
                    ledger: ledger.clone(),
                    stuck: stuck.clone(),
                    wake: Arc::clone(&wake),
                };
                pollers.spawn(poller.run(shutdown.clone()));
            }
        }
        while let Some(ended) = pollers.join_next().await {
            ended?;
        }
        // Also where there are no queues.
        shutdown.cancelled().await;
        Ok(())
    }
}
