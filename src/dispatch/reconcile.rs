//! Holds the ledger against the cluster, level-triggered: what is launching, alive, cancelled or ended is looked at, whatever was
//! or was not notified. What cannot be seen is unknown, and on unknown nothing is decided, but for a strict attempt whose lease is
//! over.

use super::{Dispatcher, proof};
use crate::{
    cluster::{Observation, SupervisorExit},
    ledger::{self, LiveAttempt, Order},
    record::termination::{Signed, Story},
};
use std::time::Duration;

/// From the request to cancel to KILL of the whole place; the supervisor itself needs less.
const CANCEL_GRACE: Duration = Duration::from_secs(20);

impl Dispatcher {
    /// One look at attempts that the ledger believes alive.
    pub(super) async fn reconcile(&self, live: &[LiveAttempt]) -> Result<(), ledger::Error> {
        for attempt in live {
            match self.reconcile_one(attempt).await {
                // One job's trouble is not the others'.
                Err(error @ (ledger::Error::IllegalMove { .. } | ledger::Error::Unreadable { .. })) => {
                    tracing::error!("{error}")
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// One look at attempts that have ended, and whose place is still to be released.
    pub(super) async fn release(&self, ended: &[Order]) -> Result<(), ledger::Error> {
        let mut released = Vec::new();
        for order in ended {
            // Its supervisor may still be on its way out.
            if matches!(self.cluster.observe(order).await, Observation::Ended { .. } | Observation::NeverExisted) {
                match self.cluster.release(&order.id).await {
                    Ok(()) => released.push(order.id.clone()),
                    Err(why) => tracing::warn!(job = order.id.job, why = format!("{why:#}"), "cannot be released yet"),
                }
            }
        }
        self.ledger.released(&released).await
    }

    async fn reconcile_one(&self, attempt: &LiveAttempt) -> Result<(), ledger::Error> {
        let order = &attempt.order;
        match self.cluster.observe(order).await {
            Observation::Alive => {
                if attempt.launching {
                    self.ledger.launched(&order.id).await?;
                }
                if attempt.cancel_requested.is_some()
                    && let Err(why) = self.cluster.stop(order, CANCEL_GRACE).await
                {
                    tracing::warn!(job = order.id.job, why = format!("{why:#}"), "cannot be stopped now; tried again");
                }
                Ok(())
            }
            Observation::NeverExisted if attempt.launching && attempt.cancel_requested.is_none() => {
                self.create(order);
                Ok(())
            }
            // Cancelled, there will be no successor: that its end cannot be proved harms nobody.
            Observation::NeverExisted if attempt.cancel_requested.is_some() => self.end(attempt, None, &[]).await,
            Observation::NeverExisted => {
                self.unseen(attempt, "its place has vanished and its fate is unknown; cancel it to be rid of it").await
            }
            Observation::Ended { exit, message } => self.end(attempt, exit, &message).await,
            Observation::Unknown(why) => self.unseen(attempt, &why).await,
        }
    }

    /// The cluster cannot tell. A lease that is over can: its supervisor has killed everything before. Without one nothing is decided.
    async fn unseen(&self, attempt: &LiveAttempt, why: &str) -> Result<(), ledger::Error> {
        let id = &attempt.order.id;
        let now = ledger::now();
        if let Some(until) = attempt.lease_until.filter(|until| *until <= now) {
            // Renewed since we read it, or not: the ledger looks again.
            if self.ledger.end_by_lease(id, proof::by_lease(until, why)).await? {
                return Ok(());
            }
        }
        tracing::warn!(job = id.job, attempt = id.attempt, why, "cannot be seen; nothing is decided");
        Ok(())
    }

    async fn end(
        &self,
        attempt: &LiveAttempt,
        exit: Option<SupervisorExit>,
        message: &[u8],
    ) -> Result<(), ledger::Error> {
        // Read again: what was granted or reported while we looked counts. If it has ended by now, it has.
        let Some(attempt) = self.ledger.live_attempt(&attempt.order.id).await? else { return Ok(()) };
        let story = self.believed(&attempt, message);
        let remains =
            proof::Remains { granted: attempt.granted, executing: attempt.executing, exit, story, now: ledger::now() };
        self.ledger.end_attempt(&attempt.order.id, proof::end(remains)).await
    }

    fn believed(&self, attempt: &LiveAttempt, message: &[u8]) -> Option<Story> {
        let id = &attempt.order.id;
        let nonce = attempt.nonce.as_deref()?;
        let story = Signed::believe(message, |story, tag| self.key.signed(id, nonce, story, tag))?;
        (story.id == *id && story.source == nonce).then_some(story)
    }
}
