//! From permit to place: the attempt is committed in the ledger first, then made on the cluster, once.

use super::{Dispatcher, admit::Permit, proof};
use crate::{
    cluster::LaunchError,
    ledger::{self, Order},
};

impl Dispatcher {
    /// Uses the permit up. Whatever interrupts this, reconcile finds the committed order and goes on from there.
    pub(super) async fn launch(&self, permit: Permit) -> Result<(), ledger::Error> {
        let job = permit.into_job();
        match self.ledger.begin_launch(&job, self.cluster.name(), self.cluster.choose_uid()).await? {
            Some(order) => self.create(&order).await,
            None => Ok(()),
        }
    }

    /// Makes the place of a committed order; the place that exists counts.
    pub(super) async fn create(&self, order: &Order) -> Result<(), ledger::Error> {
        match self.cluster.launch(order).await {
            Ok(uid) => self.ledger.launched(&order.id, &uid).await,
            Err(LaunchError::Refused(why)) => {
                self.ledger.end_attempt(&order.id, proof::refused(&why, ledger::now())).await
            }
            Err(LaunchError::NotNow { why, .. }) => {
                tracing::warn!(
                    job = order.id.job,
                    attempt = order.id.attempt,
                    why,
                    "cannot be launched now; tried again"
                );
                Ok(())
            }
        }
    }
}
