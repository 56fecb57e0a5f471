//! One pass: look at what was named, release what has ended, and admit who may go.

use super::{
    Dispatcher,
    admit::{self, Pauses, Policy},
    fair::Fair,
    launch::Launcher,
    roster::{Counts, Roster},
};
use crate::{
    ledger::{self, Launch, Running, Standing, Waiting},
    record::{Millis, wire::AttemptId},
};
use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
    time::{Duration, Instant},
};

/// The roster is made anew so often: what other programs did on the same ledger counts from then on.
const RENEW_EVERY: Duration = Duration::from_secs(60);
/// Every live attempt is looked at in so many ticks, whatever was notified.
const TICKS_ROUND: usize = 30;
/// So few that all of them are looked at in each pass.
const FEW: usize = 64;
/// Named attempts that one pass looks at; the others ring again.
const NAMED: usize = 256;
/// Ended attempts whose release one pass tries.
const RELEASES: usize = 256;
/// A request to cancel is found within seconds, whoever wrote it; later than this the slices see to it.
const CANCEL_SEEN: Duration = Duration::from_secs(600);
/// Permits that are committed together.
const TOGETHER: usize = 256;
/// Jobs of one tenant that are read at once.
const HEADS: usize = 64;
/// And so many times in one pass, if all of them may not go: the next pass reads on behind them.
const PAGES: usize = 16;

/// What the dispatcher's task keeps from pass to pass: nothing that the ledger does not know better.
#[derive(Default)]
pub struct Desk {
    pub launcher: Launcher,
    roster: Roster,
    renewed: Option<Instant>,
    fair: Fair,
    /// Behind which job the ended ones are looked through next.
    ended_after: String,
    /// Behind which job a line is read next, where its head may not go.
    hands: HashMap<(i32, String), Standing>,
    /// Nothing but `max_pending` keeps the next job back.
    is_pending_full: bool,
}

impl Dispatcher {
    pub(super) async fn pass(&self, desk: &mut Desk, is_tick: bool) -> Result<(), ledger::Error> {
        if desk.renewed.is_none_or(|at| at.elapsed() >= RENEW_EVERY) {
            self.renew(desk).await?;
        }
        self.release_ended(desk).await?;
        self.look(desk, is_tick).await?;
        self.admit(desk).await?;
        if is_tick || desk.roster.len() <= FEW {
            let (counts, trouble) = (desk.roster.counts(), desk.launcher.trouble());
            self.waits.look(&self.limits, counts, self.cluster.name(), desk.is_pending_full, trouble);
        }
        Ok(())
    }

    /// Takes the roster from the ledger. Orders that nobody launches, of an earlier life or of somebody who died, are named.
    async fn renew(&self, desk: &mut Desk) -> Result<(), ledger::Error> {
        let running = self.ledger.running().await?;
        let ours = |running: &&Running| running.launching && running.cluster == self.cluster.name();
        for running in running.iter().filter(ours).filter(|running| !desk.launcher.has(&running.id)) {
            self.bell.mark(running.id.clone());
        }
        desk.roster.renew(running);
        desk.hands.clear();
        desk.renewed = Some(Instant::now());
        Ok(())
    }

    async fn release_ended(&self, desk: &mut Desk) -> Result<(), ledger::Error> {
        let ended = self.ledger.unreleased(self.cluster.name(), &desk.ended_after, RELEASES).await?;
        let last = ended.last().filter(|_| ended.len() == RELEASES);
        desk.ended_after = last.map(|order| order.id.job.clone()).unwrap_or_default();
        for order in &ended {
            desk.roster.remove(&order.id);
            desk.launcher.withdraw(&order.id);
        }
        self.release(&ended).await
    }

    /// Looks at attempts that were named, at those that somebody wants cancelled, and at the next slice.
    async fn look(&self, desk: &mut Desk, is_tick: bool) -> Result<(), ledger::Error> {
        let cluster = self.cluster.name();
        let since = Millis(ledger::now().0 - i64::try_from(CANCEL_SEEN.as_millis()).unwrap_or(i64::MAX));
        let cancelled: HashSet<AttemptId> = self.ledger.cancelled_since(since).await?.into_iter().collect();
        let mut ids: HashSet<AttemptId> = self.bell.take(NAMED).into_iter().collect();
        let slice = match desk.roster.len() {
            few @ ..=FEW => few,
            many if is_tick => many.div_ceil(TICKS_ROUND).max(FEW),
            _ => 0,
        };
        ids.extend(desk.roster.slice(cluster, slice));
        // Their orders are on their way: what becomes of them is told there.
        ids.retain(|id| !desk.launcher.has(id));
        for id in cancelled {
            desk.launcher.withdraw(&id);
            if !desk.launcher.has(&id) {
                ids.insert(id);
            }
        }
        let mut ids: Vec<AttemptId> = ids.into_iter().filter(|id| !desk.roster.is_elsewhere(id, cluster)).collect();
        ids.sort_unstable();
        let live = self.ledger.live_attempts(cluster, &ids).await?;
        let alive: HashSet<&AttemptId> = live.iter().map(|attempt| &attempt.order.id).collect();
        ids.iter().filter(|id| !alive.contains(id)).for_each(|id| desk.roster.remove(id));
        self.reconcile(&live).await?;
        let missing = std::mem::take(&mut *self.missing.lock().unwrap_or_else(PoisonError::into_inner));
        missing.into_iter().for_each(|order| desk.launcher.push(order));
        Ok(())
    }

    /// Admits until there is no room or nobody is left who may go, best first.
    async fn admit(&self, desk: &mut Desk) -> Result<(), ledger::Error> {
        let pauses = Pauses::new(&self.ledger.pauses().await?);
        let mut below = i64::MAX;
        while let Some(room) = self.room(desk).await? {
            let Some(priority) = self.ledger.next_priority(below).await? else { break };
            if self.admit_of(desk, priority, &pauses, room).await? == 0 {
                below = i64::from(priority);
            }
        }
        Ok(())
    }

    /// How many may be committed now, if any.
    async fn room(&self, desk: &mut Desk) -> Result<Option<usize>, ledger::Error> {
        let cluster = self.cluster.name();
        let room = self.limits.room(desk.roster.counts(), cluster).min(desk.launcher.room()).min(TOGETHER);
        desk.is_pending_full = false;
        let room = match self.limits.max_pending {
            Some(most) if room > 0 => {
                let left = most.saturating_sub(self.ledger.pending(cluster).await?);
                desk.is_pending_full = left == 0;
                room.min(left)
            }
            _ => room,
        };
        Ok((room > 0).then_some(room))
    }

    /// Admits jobs of one priority, and says how many left the queue.
    async fn admit_of(
        &self,
        desk: &mut Desk,
        priority: i32,
        pauses: &Pauses,
        room: usize,
    ) -> Result<usize, ledger::Error> {
        let now = ledger::now();
        let mut turns: Vec<_> = self.ledger.lines(priority).await?;
        let none = Counts::default();
        let policy = Policy { limits: &self.limits, pauses, counts: desk.roster.counts(), given: &none };
        turns.retain(|line| line.ready_at <= now && policy.takes(&line.tenant));
        turns.sort_by_cached_key(|line| (policy.turn(&desk.fair, &line.tenant), line.ready_at));
        let heads = (2 * room).div_ceil(turns.len().max(1)).clamp(1, HEADS);
        // As many lines as there is room for, and further ones while those have nobody who may go.
        for lines in turns.chunks(room) {
            let mut waiting = Vec::with_capacity(lines.len());
            for line in lines {
                waiting.push(self.heads(desk, priority, &line.tenant, pauses, heads).await?);
            }
            let counts = desk.roster.counts();
            let permits = admit::admit(waiting, &self.limits, pauses, counts, &mut desk.fair, room);
            if !permits.is_empty() {
                return self.commit(desk, permits).await;
            }
        }
        Ok(0)
    }

    /// The first jobs of a line who may go, as far as this pass reads.
    async fn heads(
        &self,
        desk: &mut Desk,
        priority: i32,
        tenant: &str,
        pauses: &Pauses,
        most: usize,
    ) -> Result<Vec<Waiting>, ledger::Error> {
        let line = (priority, tenant.to_owned());
        let mut after = desk.hands.remove(&line);
        for _ in 0..PAGES {
            let page = self.ledger.heads(priority, tenant, after.as_ref(), most).await?;
            let last = page.last().map(|job| (job.not_before, job.id.clone()));
            let is_whole = page.len() < most;
            let given = Counts::default();
            let policy = Policy { limits: &self.limits, pauses, counts: desk.roster.counts(), given: &given };
            let free: Vec<Waiting> = page.into_iter().filter(|job| policy.is_free(job)).collect();
            if !free.is_empty() || is_whole {
                return Ok(free);
            }
            after = last;
        }
        after.into_iter().for_each(|after| {
            desk.hands.insert(line.clone(), after);
        });
        Ok(vec![])
    }

    /// Commits permits together, and gives the orders on.
    async fn commit(&self, desk: &mut Desk, permits: Vec<admit::Permit>) -> Result<usize, ledger::Error> {
        let count = permits.len();
        let jobs = permits.into_iter().map(admit::Permit::into_job);
        let jobs: HashMap<String, Waiting> = jobs.map(|job| (job.id.clone(), job)).collect();
        let launch = |job: &String| Launch { job: job.clone(), uid: self.cluster.choose_uid() };
        let launches: Vec<Launch> = jobs.keys().map(launch).collect();
        let cluster = self.cluster.name();
        for order in self.ledger.begin_launches(&launches, cluster, None, &|job| self.caps.check(job)).await? {
            if let Some(job) = jobs.get(&order.id.job) {
                desk.roster.add(Running {
                    id: order.id.clone(),
                    cluster: cluster.to_owned(),
                    launching: true,
                    tenant: job.tenant.clone(),
                    definition: job.definition.clone(),
                    incremental: job.incremental,
                });
            }
            desk.launcher.push(order);
        }
        self.start_creating(&mut desk.launcher);
        Ok(count)
    }
}
