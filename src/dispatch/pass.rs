//! One pass: look at what was named, release what has ended, and admit who may go.

use super::{
    Dispatcher,
    admit::{self, Pauses, Policy},
    fair::Fair,
    launch::Launcher,
    roster::{Counts, Roster},
};
use crate::{
    cluster::Described,
    ledger::{self, Fence, Launch, Running, Standing, Waiting},
    record::{Millis, wire::AttemptId},
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Bound,
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
/// Commits of one pass: the rest of its work must not wait for a whole queue.
const COMMITS: usize = 16;
/// Ended attempts whose release one pass tries.
const RELEASES: usize = 256;
/// A request to cancel is found within seconds, whoever wrote it; later than this the slices see to it.
const CANCEL_SEEN: Duration = Duration::from_secs(600);
/// Permits that are committed together.
const TOGETHER: usize = 256;
/// Attempts that one pass adopts.
const ADOPTED: usize = 256;
/// Jobs of one tenant that are read at once.
const HEADS: usize = 64;
/// And so many times in one pass, if all of them may not go: the next pass reads on behind them.
const PAGES: usize = 16;

/// What the dispatcher's task keeps from pass to pass: nothing that the ledger does not know better.
pub struct Desk {
    /// By which we own the cluster.
    pub fence: Fence,
    /// Since when we are the owner, and the ledger has answered: before that silence means nothing.
    pub steady: Instant,
    /// How often others had rung when we last looked.
    pub rung: i64,
    pub launcher: Launcher,
    pub roster: Roster,
    renewed: Option<Instant>,
    /// What runs on the cluster is in the ledger: before that is known nothing new may run.
    is_surveyed: bool,
    fair: Fair,
    /// Behind which one the ended ones are looked through next.
    ended_after: Option<AttemptId>,
    /// Behind which of those that are to be cancelled the next are looked at.
    cancelled_after: Option<AttemptId>,
    /// Places that could not be taken into the ledger.
    strange: HashSet<AttemptId>,
    /// Behind which job a line is read next, where its head may not go.
    hands: HashMap<(i32, String), Standing>,
    /// What those who stand by were told last of our trouble; `None` before anything was.
    told: Option<Option<String>>,
    /// Nothing but `max_pending` keeps the next job back.
    is_pending_full: bool,
    /// Nothing but the orders that were still to be made kept the next job back.
    is_kept_back: bool,
}

impl Desk {
    pub fn new(fence: Fence) -> Self {
        Self {
            fence,
            steady: Instant::now(),
            rung: 0,
            launcher: Launcher::default(),
            roster: Roster::default(),
            renewed: None,
            is_surveyed: false,
            fair: Fair::default(),
            ended_after: None,
            cancelled_after: None,
            strange: HashSet::new(),
            hands: HashMap::new(),
            told: None,
            is_pending_full: false,
            is_kept_back: false,
        }
    }

    /// The next of those that somebody wants cancelled, round and round: each may be a request to the cluster.
    fn next_cancelled(&mut self, cancelled: &BTreeSet<AttemptId>) -> Vec<AttemptId> {
        let behind = self.cancelled_after.take().map_or(Bound::Unbounded, Bound::Excluded);
        let next: Vec<AttemptId> = cancelled.range((behind, Bound::Unbounded)).take(NAMED).cloned().collect();
        self.cancelled_after = next.last().filter(|_| next.len() == NAMED).cloned();
        next
    }

    /// Whether more may be committed than in the last pass.
    pub fn is_hungry(&self) -> bool {
        self.is_kept_back && self.launcher.room() > 0 && !self.launcher.is_crowded()
    }
}

impl Dispatcher {
    /// Says why jobs wait, by what the ledger shows of another's work.
    pub(super) async fn look_on(&self, lease: &str) -> Result<(), ledger::Error> {
        let mut roster = Roster::default();
        roster.renew(self.ledger.running().await?);
        let is_pending_full = self.pending_room().await? == Some(0);
        let trouble = self.ledger.trouble_of(lease).await?;
        self.waits.look(&self.limits, roster.counts(), self.cluster.name(), is_pending_full, trouble.as_deref());
        Ok(())
    }

    pub(super) async fn pass(&self, desk: &mut Desk, is_tick: bool) -> Result<(), ledger::Error> {
        desk.is_kept_back = false;
        if desk.renewed.is_none_or(|at| at.elapsed() >= RENEW_EVERY) {
            self.renew(desk).await?;
        }
        self.release_ended(desk).await?;
        self.look(desk, is_tick).await?;
        if !desk.is_surveyed {
            desk.is_surveyed = self.survey(desk).await?;
        }
        if desk.is_surveyed
            && let Err(error) = self.admit(desk).await
        {
            // What was committed all the same, and its answer lost, is found at once.
            desk.renewed = None;
            return Err(error);
        }
        if is_tick || desk.roster.len() <= FEW {
            let unseen = (!desk.is_surveyed).then_some("what runs there has not been seen yet");
            let (counts, trouble) = (desk.roster.counts(), desk.launcher.trouble().or(unseen));
            self.waits.look(&self.limits, counts, self.cluster.name(), desk.is_pending_full, trouble);
            let trouble = trouble.map(str::to_owned);
            if self.ledger.is_shared() && desk.told.as_ref() != Some(&trouble) {
                self.ledger.tell_trouble(&desk.fence, trouble.as_deref()).await?;
                desk.told = Some(trouble);
            }
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
        desk.is_surveyed = false;
        Ok(())
    }

    /// Takes into the ledger what runs on the cluster and is not in it: a ledger that was restored from a backup must neither end it nor start
    /// it again. False while that cannot be told.
    async fn survey(&self, desk: &mut Desk) -> Result<bool, ledger::Error> {
        let Some(places) = self.cluster.places() else { return Ok(false) };
        let mut unknown = self.ledger.unknown(places).await?;
        let known: HashSet<&AttemptId> = unknown.iter().collect();
        desk.strange.retain(|id| known.contains(id));
        // A job's last attempt is the one that counts; and those that could not be taken in come last, for nobody may have to wait for them.
        unknown.sort_unstable_by_key(|id| (desk.strange.contains(id), std::cmp::Reverse(id.attempt)));
        let mut is_whole = unknown.len() - desk.strange.len() <= ADOPTED;
        for id in unknown.into_iter().take(ADOPTED) {
            let AttemptId { job, attempt } = &id;
            let found = match self.cluster.describe(&id).await {
                Ok(Described::Found(found)) => found,
                Ok(Described::Gone) => continue,
                Ok(Described::Unreadable(why)) => {
                    tracing::error!(job, attempt, why, "has a place, and cannot be taken into the ledger");
                    desk.strange.insert(id);
                    continue;
                }
                Err(why) => {
                    tracing::warn!(job, why = format!("{why:#}"), "cannot be looked at now");
                    return Ok(false);
                }
            };
            match self.ledger.adopt(&found, self.cluster.name()).await {
                Ok(true) => {
                    tracing::warn!(job, attempt, "adopted: the ledger did not know it");
                    // It counts for the limits from the next renewal on: nothing is admitted before that.
                    (desk.renewed, is_whole) = (None, false);
                    self.bell.mark(id);
                }
                Ok(false) => {
                    desk.strange.insert(id);
                }
                // One job's trouble is not the others'.
                Err(error) if error.is_of_one_job() => {
                    tracing::error!(job, attempt, "{error}; it cannot be taken into the ledger");
                    desk.strange.insert(id);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(is_whole)
    }

    async fn release_ended(&self, desk: &mut Desk) -> Result<(), ledger::Error> {
        let after = desk.ended_after.take();
        let (ended, next) = self.ledger.unreleased(self.cluster.name(), after.as_ref(), RELEASES).await?;
        desk.ended_after = next;
        for attempt in &ended {
            desk.roster.remove(&attempt.order.id);
            desk.launcher.withdraw(&attempt.order.id);
        }
        let released = self.release(&ended).await?;
        desk.launcher.room_is_made(released);
        let mut strays = self.cluster.unreleased();
        strays.retain(|id| !desk.roster.has(id));
        self.release_strays(&strays).await
    }

    /// Looks at attempts that were named, at those that somebody wants cancelled, and at the next slice.
    async fn look(&self, desk: &mut Desk, is_tick: bool) -> Result<(), ledger::Error> {
        let cluster = self.cluster.name();
        let since = Millis(ledger::now().0 - i64::try_from(CANCEL_SEEN.as_millis()).unwrap_or(i64::MAX));
        let cancelled: BTreeSet<AttemptId> = self.ledger.cancelled_since(since).await?.into_iter().collect();
        let mut ids: HashSet<AttemptId> = self.bell.take(NAMED).into_iter().collect();
        let slice = match desk.roster.len() {
            few @ ..=FEW => few,
            many if is_tick => many.div_ceil(TICKS_ROUND).max(FEW),
            _ => 0,
        };
        cancelled.iter().for_each(|id| desk.launcher.withdraw(id));
        ids.extend(desk.next_cancelled(&cancelled));
        // Their orders are on their way: what becomes of them is told there.
        ids.retain(|id| !desk.launcher.keeps(id));
        ids.extend(desk.roster.slice(cluster, slice).into_iter().filter(|id| !desk.launcher.has(id)));
        let mut ids: Vec<AttemptId> = ids.into_iter().filter(|id| !desk.roster.is_elsewhere(id, cluster)).collect();
        ids.sort_unstable();
        let looked = self.look_at(desk, &ids).await;
        if looked.is_err() {
            // What they were named for has still to be seen.
            ids.into_iter().for_each(|id| self.bell.mark(id));
        }
        let missing = std::mem::take(&mut *self.missing.lock().unwrap_or_else(PoisonError::into_inner));
        missing.into_iter().for_each(|order| desk.launcher.push(order));
        looked
    }

    async fn look_at(&self, desk: &mut Desk, ids: &[AttemptId]) -> Result<(), ledger::Error> {
        let live = self.ledger.live_attempts(self.cluster.name(), ids).await?;
        let alive: HashSet<&AttemptId> = live.iter().map(|attempt| &attempt.order.id).collect();
        ids.iter().filter(|id| !alive.contains(id)).for_each(|id| desk.roster.remove(id));
        self.reconcile(&live, desk.steady.elapsed()).await
    }

    /// Admits until there is no room or nobody is left who may go, best first.
    async fn admit(&self, desk: &mut Desk) -> Result<(), ledger::Error> {
        let pauses = Pauses::new(&self.ledger.pauses().await?);
        let (mut below, mut commits) = (i64::MAX, 0);
        while let Some(room) = self.room(desk).await? {
            if commits == COMMITS {
                desk.is_kept_back = true;
                break;
            }
            let Some(priority) = self.ledger.next_priority(below).await? else { break };
            match self.admit_of(desk, priority, &pauses, room).await? {
                0 => below = i64::from(priority),
                _ => commits += 1,
            }
        }
        Ok(())
    }

    /// How many may be committed now, if any.
    async fn room(&self, desk: &mut Desk) -> Result<Option<usize>, ledger::Error> {
        let cluster = self.cluster.name();
        let room = self.limits.room(desk.roster.counts(), cluster);
        let may_be_made = desk.launcher.room().min(TOGETHER);
        desk.is_kept_back = room > 0 && (may_be_made == 0 || desk.launcher.is_crowded());
        desk.is_pending_full = false;
        let room = room.min(may_be_made);
        if room == 0 {
            return Ok(None);
        }
        let left = self.pending_room().await?;
        desk.is_pending_full = left == Some(0);
        let room = left.map_or(room, |left| room.min(left));
        Ok((room > 0).then_some(room))
    }

    /// How many more places may wait for their nodes, images and starts, where that has a limit.
    async fn pending_room(&self) -> Result<Option<usize>, ledger::Error> {
        let Some(most) = self.limits.max_pending else { return Ok(None) };
        Ok(Some(most.saturating_sub(self.ledger.pending(self.cluster.name()).await?)))
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
        let is_crowded = desk.launcher.is_crowded();
        if is_crowded {
            let here = desk.launcher.lines();
            turns.retain(|line| here.get(&*line.tenant).is_none_or(|highest| *highest < priority));
        }
        turns.sort_by_cached_key(|line| (policy.turn(&desk.fair, &line.tenant), line.ready_at));
        let heads = (2 * room).div_ceil(turns.len().max(1)).clamp(1, HEADS);
        // As many lines as there is room for, and further ones while those have nobody who may go.
        for lines in turns.chunks(room) {
            let mut waiting = Vec::with_capacity(lines.len());
            for line in lines {
                let mut heads = self.heads(desk, priority, &line.tenant, pauses, heads).await?;
                heads.truncate(if is_crowded { 1 } else { heads.len() });
                waiting.push(heads);
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
        for order in self.ledger.begin_launches(&desk.fence, &launches, cluster, &|job| self.caps.check(job)).await? {
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
        self.start_creating(desk);
        Ok(count)
    }
}
