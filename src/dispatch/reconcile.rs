//! Holds the ledger against the cluster, level-triggered: what is launching, alive, cancelled or ended is looked at, whatever was
//! or was not notified. What cannot be seen is unknown, and on unknown nothing is decided, but for a strict attempt whose lease is
//! over, and one that is cancelled before it had leave to start.

use super::{Dispatcher, pending, proof};
use crate::{
    cluster::{End, EndCause, Observation, SupervisorExit, Wait},
    ledger::{self, AttemptEnd, LiveAttempt, Order},
    record::{
        outcome::Evidence,
        termination::{Signed, Story},
        wire::AttemptId,
    },
};
use futures::{StreamExt as _, stream};
use std::time::Duration;

/// Places that are looked at, or released, at the same time: each may be a request to the cluster.
const AT_ONCE: usize = 16;

/// A strict attempt whose Pod still stands ends so long after its lease, and after an outage of ours: its own last word says more.
const LAST_WORD: Duration = Duration::from_secs(30);
/// From the request to cancel to KILL of the whole place; the supervisor itself needs less.
const CANCEL_GRACE: Duration = Duration::from_secs(20);
/// Nothing runs in it that would need any; without any the kubelet would not be asked.
const LEAST_GRACE: Duration = Duration::from_secs(1);

impl Dispatcher {
    /// One look at attempts that the ledger believes alive. For so long whoever had a word to say could say it.
    pub(super) async fn reconcile(&self, live: &[LiveAttempt], heard: Duration) -> Result<(), ledger::Error> {
        // One that has to ask a slow API server does not keep the others waiting. Listed first: the compiler cannot see through a stream of
        // borrowing closures.
        let looks: Vec<_> = live.iter().map(|attempt| self.reconcile_one(attempt, heard)).collect();
        let mut looks = stream::iter(looks).buffer_unordered(AT_ONCE);
        while let Some(looked) = looks.next().await {
            match looked {
                // One job's trouble is not the others'.
                Err(error) if error.is_of_one_job() => tracing::error!("{error}"),
                other => other?,
            }
        }
        Ok(())
    }

    /// One look at attempts that have ended, and whose place is still to be released; how many were.
    pub(super) async fn release(&self, ended: &[LiveAttempt]) -> Result<usize, ledger::Error> {
        let releases: Vec<_> = ended.iter().map(|attempt| self.release_one(attempt)).collect();
        let released: Vec<_> = stream::iter(releases).buffer_unordered(AT_ONCE).collect().await;
        let released: Vec<AttemptId> = released.into_iter().flatten().collect();
        self.ledger.released(&released).await?;
        Ok(released.len())
    }

    /// One attempt, held against what can be seen of it.
    async fn reconcile_one(&self, attempt: &LiveAttempt, heard: Duration) -> Result<(), ledger::Error> {
        let order = &attempt.order;
        let cancelled = attempt.cancel_requested.is_some();
        match self.cluster.observe(order).await {
            Observation::Alive { uid } => {
                self.exists(attempt, &uid).await?;
                if cancelled {
                    self.stop(order, CANCEL_GRACE).await;
                }
                self.stands(attempt, heard).await
            }
            Observation::Waiting { uid, wait } => {
                self.exists(attempt, &uid).await?;
                self.wait(attempt, &wait, heard).await
            }
            Observation::Absent if attempt.launching && !attempt.granted && !cancelled => {
                self.create(order);
                Ok(())
            }
            Observation::Absent => self.absent(attempt).await,
            Observation::Ended(end) => self.end(attempt, end).await,
            // Without a grant nothing starts any more once the ledger says so, whatever there is or comes; its place is released later.
            Observation::Unknown(why) if cancelled && !attempt.granted => {
                self.ledger.end_ungranted(&order.id, proof::called_off(&why, ledger::now())).await.map(|_| ())
            }
            Observation::Unknown(why) => self.unseen(attempt, &why).await,
        }
    }

    /// Its place has been seen: what the launch may have died before saying.
    async fn exists(&self, attempt: &LiveAttempt, uid: &str) -> Result<(), ledger::Error> {
        if attempt.launching || attempt.order.uid.is_empty() {
            self.ledger.launched(&attempt.order.id, uid).await?;
        }
        Ok(())
    }

    /// The Pod of a dead node stands for ever, as if it ran. A strict attempt's lease knows better.
    async fn stands(&self, attempt: &LiveAttempt, heard: Duration) -> Result<(), ledger::Error> {
        let over = attempt.lease_until.filter(|until| heard > LAST_WORD && ledger::now().since(*until) > LAST_WORD);
        if let Some(until) = over {
            let why = "its Pod stands, and nothing has been heard of it since";
            self.ledger.end_by_lease(&attempt.order.id, proof::by_lease(until, why)).await?;
        }
        Ok(())
    }

    /// Nothing runs in its place yet, and nothing will without a grant: it can be ended by the ledger alone, and its place goes afterwards.
    async fn wait(&self, attempt: &LiveAttempt, wait: &Wait, heard: Duration) -> Result<(), ledger::Error> {
        // An adopted one may have run, unless its container waits and never has.
        if attempt.nonce.is_some() || (attempt.granted && wait.limit.is_zero()) {
            return self.began(attempt, wait, heard).await;
        }
        let id = &attempt.order.id;
        let end = match attempt.cancel_requested {
            Some(_) => Some(proof::vanished(true, ledger::now())),
            None => pending::overdue(wait, ledger::now()),
        };
        let Some(end) = end else { return Ok(()) };
        // Before the end: the next attempt goes by it.
        if let Some(node) = &wait.node {
            self.ledger.on_node(id, node).await?;
        }
        if self.ledger.end_ungranted(id, end).await? {
            self.stop(&attempt.order, LEAST_GRACE).await;
        }
        Ok(())
    }

    /// It had leave, and yet its place looks as if nothing had ever run there: a kubelet that has forgotten a container.
    async fn began(&self, attempt: &LiveAttempt, wait: &Wait, heard: Duration) -> Result<(), ledger::Error> {
        if attempt.cancel_requested.is_some() {
            self.stop(&attempt.order, CANCEL_GRACE).await;
        }
        match wait.limit.is_zero() {
            // It will not run any more, and nobody has seen its end.
            true if needs_no_proof(attempt) => {
                self.end(attempt, End { cause: Some(EndCause::Deleted), ..End::default() }).await
            }
            true => {
                self.unseen(
                    attempt,
                    &format!("its Pod has failed, and no end of its container was seen: {}", wait.words),
                )
                .await
            }
            false => self.stands(attempt, heard).await,
        }
    }

    async fn absent(&self, attempt: &LiveAttempt) -> Result<(), ledger::Error> {
        let cancelled = attempt.cancel_requested.is_some();
        if !attempt.granted
            && self.ledger.end_ungranted(&attempt.order.id, proof::vanished(cancelled, ledger::now())).await?
        {
            return Ok(());
        }
        if needs_no_proof(attempt) {
            return self.end(attempt, End { cause: Some(EndCause::Deleted), ..End::default() }).await;
        }
        self.unseen(attempt, "its place has vanished and its fate is unknown; where you know that nothing of it runs, `sendo confirm-dead` it").await
    }

    /// Asks the place to end; false if it could not be asked.
    async fn stop(&self, order: &Order, grace: Duration) -> bool {
        match self.cluster.stop(order, grace).await {
            Ok(()) => true,
            Err(why) => {
                tracing::warn!(job = order.id.job, why = format!("{why:#}"), "cannot be stopped now; tried again");
                false
            }
        }
    }

    /// The attempt's end is in the ledger: its place may go, once nothing runs there. Gives back the attempt if it went.
    async fn release_one(&self, attempt: &LiveAttempt) -> Option<AttemptId> {
        let order = &attempt.order;
        let seen = self.cluster.observe(order).await;
        let may_go = self.may_go(attempt, &seen).await.unwrap_or_else(|error| {
            tracing::warn!(job = order.id.job, "{error}; not released yet");
            false
        });
        let stands = matches!(seen, Observation::Waiting { .. } | Observation::Alive { .. });
        let goes = may_go && (!stands || self.stop(order, LEAST_GRACE).await) && self.let_go(order).await;
        goes.then(|| order.id.clone())
    }

    /// Whether nothing that is still to be seen of an ended attempt's place would tell anybody anything.
    async fn may_go(&self, attempt: &LiveAttempt, seen: &Observation) -> Result<bool, ledger::Error> {
        let id = &attempt.order.id;
        Ok(match seen {
            Observation::Ended(end) => self.last_word(attempt, end).await.map(|()| true)?,
            Observation::Absent => true,
            // It never began, and without a grant never will. One that had leave has run, faster than the cluster told: it stays for people to look at,
            // once that has caught up.
            Observation::Waiting { wait, .. } => wait.limit.is_zero() || !self.ledger.was_granted(id).await?,
            // Its supervisor may still be on its way out, unless somebody knows better.
            Observation::Alive { .. } => self.ledger.is_confirmed_dead(id).await?,
            Observation::Unknown(_) => false,
        })
    }

    /// Lets go of what only the running needed; false if that could not be done now.
    async fn let_go(&self, order: &Order) -> bool {
        let released = self.cluster.release(&order.id).await;
        let trouble = |why: &anyhow::Error| {
            tracing::warn!(job = order.id.job, why = format!("{why:#}"), "cannot be released yet")
        };
        released.inspect_err(trouble).is_ok()
    }

    /// Places that came into being after their attempt was over: a request to make one may be late. What the ledger does not know it
    /// leaves alone: it may have been restored from a backup.
    pub(super) async fn release_strays(&self, strays: &[AttemptId]) -> Result<(), ledger::Error> {
        let strays = self.ledger.released_of(strays).await?;
        let releases: Vec<_> = strays.iter().map(|order| self.release_stray(order)).collect();
        stream::iter(releases).buffer_unordered(AT_ONCE).for_each(async |()| {}).await;
        Ok(())
    }

    /// Its end is in the ledger already, and nobody waits for the proof of another. One that has not begun is asked to go.
    async fn release_stray(&self, order: &Order) {
        let waits = matches!(self.cluster.observe(order).await, Observation::Waiting { .. });
        if !waits || self.stop(order, LEAST_GRACE).await {
            self.let_go(order).await;
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

    async fn end(&self, attempt: &LiveAttempt, mut end: End) -> Result<(), ledger::Error> {
        // Read again: what was granted or reported while we looked counts. If it has ended by now, it has.
        let Some(mut attempt) = self.ledger.live_attempt(&attempt.order.id).await? else { return Ok(()) };
        let unheard = attempt.nonce.is_none() && !proof::tells_of_leave(&end, &attempt.order.id);
        // A supervisor without leave leaves no words and does not end with 0: something has run there that the ledger does not know of.
        if !attempt.granted && (!unheard || end.exit == Some(SupervisorExit::Code(0))) {
            attempt.granted = self.ledger.has_had_leave(&attempt.order.id).await?;
        }
        // Nothing of it ran, whoever ended it, and there is no other that may have.
        if attempt.nonce.as_deref().is_some_and(|nonce| proof::has_not_begun(&end, nonce)) {
            (end.last_start, end.cause) = (false, None);
        }
        let story = self.believed(&attempt, &end.message);
        let is_cancelled = attempt.cancel_requested.is_some();
        match proof::doubt(&end, attempt.granted, story.as_ref()) {
            // Whatever runs there still is to end too, and the kubelet sees to that.
            Some(_) if is_cancelled && end.cause.is_none() => {
                self.stop(&attempt.order, CANCEL_GRACE).await;
                return Ok(());
            }
            Some(why) if !needs_no_proof(&attempt) => return self.unseen(&attempt, why).await,
            _ => {}
        }
        let node = end.node.clone();
        let remains = proof::Remains {
            granted: attempt.granted,
            unheard,
            executing: attempt.executing,
            cancelled: is_cancelled,
            end,
            story,
            now: ledger::now(),
        };
        let id = &attempt.order.id;
        if let Some(node) = node {
            self.ledger.on_node(id, &node).await?;
        }
        if attempt.granted {
            return self.ledger.end_attempt(id, proof::end(remains)).await;
        }
        // Granted since: looked at again in the next pass.
        self.ledger.end_ungranted(id, proof::end(remains)).await.map(|_| ())
    }

    /// An attempt that ended on poorer evidence, and whose supervisor's own signed end has come to light since.
    async fn last_word(&self, attempt: &LiveAttempt, end: &End) -> Result<(), ledger::Error> {
        let evidence = Evidence::TerminationMessage;
        if attempt.evidence >= evidence.rank() {
            return Ok(());
        }
        let story = self.believed(attempt, &end.message);
        let Some((ending, at)) = story.and_then(|story| Some((story.ending?, story.at))) else { return Ok(()) };
        self.ledger.end_attempt(&attempt.order.id, AttemptEnd { ending, evidence, at }).await
    }

    fn believed(&self, attempt: &LiveAttempt, message: &[u8]) -> Option<Story> {
        let id = &attempt.order.id;
        let nonce = attempt.nonce.as_deref()?;
        let story = Signed::believe(message, |story, tag| self.key.signed(id, nonce, story, tag))?;
        (story.id == *id).then_some(story)
    }
}

/// Cancelled, an attempt has no successor: that its end cannot be proved harms nobody. Of an incremental definition the next job follows it.
fn needs_no_proof(attempt: &LiveAttempt) -> bool {
    attempt.cancel_requested.is_some() && !attempt.order.job.is_incremental()
}
