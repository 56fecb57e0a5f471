//! From committed order to place: many at the same time, as many as the cluster takes well, and each until it is known what became of it.
//!
//! ```text
//!   permits ──commit──> queue ──> creating (pace, breaker) ──> made ──mark──> launched
//!                         ^  later <── not now ──┤    └──> refused: the attempt has ended
//!                         └─ kept out <── no room ┘
//! ```
//! The ledger has every order before it is here. Whatever interrupts this, reconcile finds the committed order and gives it again; a place
//! that exists counts.

use super::{
    Dispatcher,
    breaker::Breaker,
    jitter::jittered,
    kept_out::{Due, KeptOut, Standings},
    pace::Pace,
    pass::Desk,
    proof,
};
use crate::{
    cluster::{Hindrance, LaunchError},
    ledger::{self, Order, Place},
    record::wire::AttemptId,
};
use futures::FutureExt as _;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque, hash_map::Entry},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// A cluster that has not answered by then is away, whatever it still does.
const CREATE_LIMIT: Duration = Duration::from_secs(30);
/// While more are coming, marks and commits go by so many: each piece costs as many statements as a whole one.
const PIECE: usize = ledger::PIECE;
/// A place that exists waits no longer for its mark, and once more if the piece had no room for it.
const MARK_WITHIN: Duration = Duration::from_millis(100);
/// Committed orders beyond the window at the most.
const AHEAD: usize = 256;
/// No more are committed while there are so many: enough to keep the window full during the next commit, which then is worth its statements.
const ENOUGH: usize = 128;
/// Orders that may wait for a quota. Beyond [`ENOUGH`] only what is more urgent than all of its tenant's that are there, so that everybody's first has its turn.
const AT_THE_DOOR: usize = 1024;
/// Between two tries of one order: doubled each time, with jitter.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// An order and how often it was tried.
pub struct Tried {
    pub order: Order,
    tries: u32,
    /// Who came first is first, among equals.
    pub arrival: u64,
}

impl Tried {
    pub fn new(order: Order, arrival: u64) -> Self {
        Self { order, tries: 0, arrival }
    }

    pub fn tenant(&self) -> &str {
        self.order.job.tenant.as_deref().unwrap_or_default()
    }
}

/// What became of a try.
pub struct Tries {
    tried: Tried,
    sent: Instant,
    result: Result<String, LaunchError>,
}

/// Orders on their way.
#[derive(Default)]
pub struct Launcher {
    queue: VecDeque<Tried>,
    /// Told to come again; by when, then by arrival.
    later: BTreeMap<Due, Tried>,
    kept_out: KeptOut,
    /// So many more of those may go now.
    places: usize,
    arrivals: u64,
    creating: JoinSet<Tries>,
    under_way: HashSet<AttemptId>,
    made: Vec<Place>,
    made_at: Option<Instant>,
    pace: Pace,
    breaker: Breaker,
    /// Why the cluster took nothing when it was last asked, for people.
    trouble: Option<String>,
    /// Each order here, wherever it stands.
    known: HashMap<AttemptId, Known>,
}

/// What is kept of an order beside the order.
struct Known {
    tenant: String,
    priority: i32,
    /// Somebody has named it meanwhile: it is looked at once it is made.
    is_named: bool,
    /// It found no room at its last try: a quota.
    is_kept_out: bool,
    /// Its attempt ended while it was under way: it is not tried again.
    is_over: bool,
}

impl Launcher {
    /// Takes an order that is committed, once.
    pub fn push(&mut self, order: Order) {
        if let Entry::Vacant(entry) = self.known.entry(order.id.clone()) {
            let (tenant, priority) = (order.job.tenant.clone().unwrap_or_default(), order.job.priority);
            entry.insert(Known { tenant, priority, is_named: false, is_kept_out: false, is_over: false });
            self.arrivals += 1;
            self.queue.push_back(Tried::new(order, self.arrivals));
        }
    }

    /// How many more orders may be committed now: none while the cluster is sick.
    pub fn room(&self) -> usize {
        match self.ahead() {
            _ if !self.breaker.is_closed() => 0,
            ahead @ ..ENOUGH => (AHEAD - ahead) / PIECE * PIECE,
            ahead if self.is_crowded() => (AT_THE_DOOR.saturating_sub(ahead)).min(PIECE),
            _ => 0,
        }
    }

    fn ahead(&self) -> usize {
        self.queue.len() + self.later.len() + self.kept_out.len()
    }

    /// Whether there is room for those alone who do not wait [here](Self::lines) yet: a quota is full.
    pub fn is_crowded(&self) -> bool {
        !self.kept_out.is_empty() && self.ahead() >= ENOUGH
    }

    /// The tenants of the orders here, each with its highest priority.
    pub fn lines(&self) -> HashMap<&str, i32> {
        let mut lines = HashMap::new();
        for known in self.known.values() {
            let highest = lines.entry(&*known.tenant).or_insert(known.priority);
            *highest = known.priority.max(*highest);
        }
        lines
    }

    /// Whether the order is being made at this moment: then nobody else may decide about it.
    pub fn is_under_way(&self, id: &AttemptId) -> bool {
        self.under_way.contains(id)
    }

    /// Whether the order will be made by and by.
    pub fn has(&self, id: &AttemptId) -> bool {
        self.known.contains_key(id)
    }

    /// The same of an order that was named: what it was named for is looked at once it is made.
    pub fn keeps(&mut self, id: &AttemptId) -> bool {
        self.known.get_mut(id).map(|known| known.is_named = true).is_some()
    }

    /// Takes an order back, so that its end can be written; one that is under way once it has come back.
    pub fn withdraw(&mut self, id: &AttemptId) {
        let is_under_way = self.is_under_way(id);
        let Some(known) = self.known.get_mut(id) else { return };
        known.is_over = is_under_way;
        if !is_under_way {
            self.queue.retain(|tried| tried.order.id != *id);
            self.later.retain(|_, tried| tried.order.id != *id);
            self.kept_out.remove(id);
            self.forget(id);
        }
    }

    /// So many places have ended: as many of those kept out may go now.
    pub fn room_is_made(&mut self, places: usize) {
        self.places += places;
    }

    /// Lets go whose turn it is of those kept out: as many as there are places for, or one at a time, to find out whether there are.
    fn let_in(&mut self, now: Instant, standings: Standings<'_>) {
        let places = std::mem::take(&mut self.places);
        if self.kept_out.is_empty() {
            return;
        }
        let next = match (places, self.kept_out_under_way()) {
            (0, 0) => self.kept_out.take_due(now, standings).into_iter().collect(),
            (places, _) => self.kept_out.take(places, standings),
        };
        // Before those who have just come.
        next.into_iter().rev().for_each(|tried| self.queue.push_front(tried));
    }

    /// How many of those that were kept out are tried again.
    fn kept_out_under_way(&self) -> usize {
        self.known.values().filter(|known| known.is_kept_out).count() - self.kept_out.len()
    }

    /// Its order goes on elsewhere, or nowhere. Says whether somebody has named it.
    fn forget(&mut self, id: &AttemptId) -> bool {
        let known = self.known.remove(id);
        if self.known.is_empty() {
            self.breaker.trust_once();
        }
        known.is_some_and(|known| known.is_named)
    }

    /// Why orders are not made, while the cluster is sick or has told some of them to come again.
    pub fn trouble(&self) -> Option<&str> {
        let is_well = self.breaker.is_closed() && self.later.is_empty() && self.kept_out.is_empty();
        if is_well { None } else { self.trouble.as_deref() }
    }

    /// When there is something to do without anybody's call.
    pub fn due(&self) -> Option<Instant> {
        let marks = self.made_at.map(|at| at + MARK_WITHIN);
        let later = self.later.keys().next().map(|(at, _)| *at);
        let held = if self.queue.is_empty() {
            None
        } else {
            self.breaker.open_until().max(self.pace.held_until(Instant::now()))
        };
        let kept_out = self.kept_out.due().filter(|_| self.kept_out_under_way() == 0);
        [marks, later, kept_out, held].into_iter().flatten().min()
    }

    /// Waits for the next place; for ever while none is under way. May be dropped while it waits.
    pub async fn next(&mut self) -> Tries {
        loop {
            match self.creating.join_next().await {
                Some(Ok(tries)) => return tries,
                Some(Err(error)) => tracing::error!("a launch broke down: {error}"),
                None => std::future::pending().await,
            }
        }
    }

    /// When an order may be tried again, and the order, tried once more.
    fn again(&mut self, mut tried: Tried, retry_after: Option<Duration>, now: Instant) -> (Due, Tried) {
        tried.tries += 1;
        let wait = FIRST_WAIT.saturating_mul(1 << (tried.tries - 1).min(10)).min(LONGEST_WAIT);
        let wait = jittered(wait.max(retry_after.unwrap_or_default()), random());
        self.arrivals += 1;
        ((now + wait, self.arrivals), tried)
    }
}

impl Dispatcher {
    /// Gives as many orders to the cluster as it takes now.
    pub(super) fn start_creating(&self, desk: &mut Desk) {
        let (launcher, now) = (&mut desk.launcher, Instant::now());
        launcher.let_in(now, Standings { limits: &self.limits, counts: desk.roster.counts() });
        while let Some(entry) = launcher.later.first_entry().filter(|entry| entry.key().0 <= now) {
            launcher.queue.push_back(entry.remove());
        }
        while !launcher.queue.is_empty() {
            let window = launcher.pace.window(now).min(launcher.breaker.window(now));
            if launcher.under_way.len() >= window {
                return;
            }
            let Some(tried) = launcher.queue.pop_front() else { return };
            launcher.under_way.insert(tried.order.id.clone());
            let cluster = Arc::clone(&self.cluster);
            launcher.creating.spawn(async move {
                let sent = Instant::now();
                // A launch that breaks down must not take its order along.
                let launch = AssertUnwindSafe(cluster.launch(&tried.order)).catch_unwind();
                let result = match tokio::time::timeout(CREATE_LIMIT, launch).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err(LaunchError::away("the launch broke down")),
                    Err(_) => Err(LaunchError::away(format!("no answer in {CREATE_LIMIT:?}"))),
                };
                Tries { tried, sent, result }
            });
        }
    }

    /// Settles what became of a place, and of all others that are ready: the marks of those that exist in one transaction.
    pub(super) async fn settle(&self, desk: &mut Desk, first: Tries) -> Result<(), ledger::Error> {
        let mut settled = vec![first];
        while let Some(Ok(tries)) = desk.launcher.creating.try_join_next() {
            settled.push(tries);
        }
        let mut refused = Vec::new();
        for tries in settled {
            refused.extend(self.sort(&mut desk.launcher, tries));
        }
        self.start_creating(desk);
        let launcher = &mut desk.launcher;
        for (id, _) in &refused {
            launcher.forget(id);
        }
        for (id, why) in refused {
            // One that has leave all the same was made by an earlier try: looked at, like all that is marked.
            self.ledger.end_ungranted(&id, proof::refused(&why, ledger::now())).await?;
            self.bell.mark(id);
        }
        self.mark(launcher, false).await
    }

    /// Writes down which places exist, once it is worth it.
    pub(super) async fn mark(&self, launcher: &mut Launcher, at_once: bool) -> Result<(), ledger::Error> {
        let is_due = launcher.made_at.is_some_and(|at| at.elapsed() >= MARK_WITHIN);
        let all = launcher.made.len();
        let count = if is_due || at_once || launcher.under_way.is_empty() { all } else { all / PIECE * PIECE };
        if count == 0 {
            return Ok(());
        }
        self.ledger.launched_all(&launcher.made[..count]).await?;
        launcher.made_at = (count < all).then(Instant::now);
        for (id, _) in launcher.made.drain(..count).collect::<Vec<_>>() {
            if launcher.forget(&id) {
                self.bell.mark(id);
            }
        }
        Ok(())
    }

    /// What a try says of the cluster, and where its order goes on. Gives back an order that the cluster will never have, and why.
    fn sort(&self, launcher: &mut Launcher, tries: Tries) -> Option<(AttemptId, String)> {
        let (now, Tries { tried, sent, result }) = (Instant::now(), tries);
        let id = tried.order.id.clone();
        launcher.under_way.remove(&id);
        let is_full = matches!(result, Err(LaunchError::NotNow { hindrance: Hindrance::Full, .. }));
        if let Some(known) = launcher.known.get_mut(&id) {
            known.is_kept_out = is_full;
        }
        match result {
            Ok(uid) => {
                launcher.pace.answered(now - sent);
                launcher.breaker.answered();
                launcher.made.push((id, (uid != tried.order.uid).then_some(uid)));
                launcher.made_at = launcher.made_at.or(Some(now));
            }
            Err(LaunchError::Refused(why)) => {
                launcher.pace.answered(now - sent);
                launcher.breaker.answered();
                return Some((id, why));
            }
            Err(LaunchError::NotNow { why, hindrance, retry_after }) => {
                tracing::warn!(job = id.job, attempt = id.attempt, why, "cannot be launched now; tried again");
                match hindrance {
                    Hindrance::Full => launcher.breaker.answered(),
                    Hindrance::Busy => {
                        launcher.breaker.answered();
                        launcher.pace.too_much(sent, now, retry_after);
                    }
                    Hindrance::Away => {
                        launcher.pace.too_much(sent, now, retry_after);
                        launcher.breaker.failed(now, random());
                    }
                }
                if !launcher.breaker.is_closed() {
                    tracing::warn!(cluster = self.cluster.name(), why, "the cluster is let be for a while");
                }
                launcher.trouble = Some(why);
                let (due, tried) = launcher.again(tried, retry_after, now);
                if launcher.known.get(&id).is_none_or(|known| known.is_over) {
                    launcher.forget(&id);
                } else if is_full {
                    launcher.kept_out.insert(due, tried);
                } else {
                    launcher.later.insert(due, tried);
                }
            }
        }
        None
    }
}

/// For spreading: nothing hangs on its quality.
fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}
