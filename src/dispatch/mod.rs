//! From the queue in the ledger to attempts on a cluster, and back to their ends: admit, launch, reconcile.
//!
//! Level-triggered: each pass looks at the whole, a bell only makes it come sooner. Everything it does is committed in the ledger
//! before it is done outside, so it may die between any two lines.

pub mod admit;
mod launch;
mod pending;
mod proof;
mod reconcile;
pub mod retry;

use crate::{
    cluster::{Cluster, key::Key},
    ledger::{self, Ledger},
};
use admit::Limits;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};

/// The longest time between two passes.
const PASS_EVERY: Duration = Duration::from_secs(1);
/// So far down the queue a pass looks for somebody who may go.
const WAITING_PAGE: u32 = 1000;

/// One dispatcher for one cluster.
pub struct Dispatcher {
    pub ledger: Ledger,
    pub cluster: Arc<dyn Cluster>,
    pub key: Arc<Key>,
    pub limits: Limits,
    /// Rung by intake, by the supervisors' records and by the cluster.
    pub wake: Arc<Notify>,
}

impl Dispatcher {
    /// Works until `shutdown` says so; running attempts are left running.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        while !*shutdown.borrow() {
            if let Err(error) = self.pass().await {
                tracing::error!("{error}; tried again");
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(PASS_EVERY) => {}
                _ = shutdown.changed() => {}
            }
        }
    }

    async fn pass(&self) -> Result<(), ledger::Error> {
        self.reconcile().await?;
        let live = self.ledger.live_attempts(self.cluster.name()).await?;
        let waiting = self.ledger.waiting(WAITING_PAGE).await?;
        for permit in admit::admit(&waiting, &live, self.limits) {
            self.launch(permit).await?;
        }
        Ok(())
    }
}
