//! From the queue in the ledger to attempts on a cluster, and back to their ends: admit, launch, reconcile.
//!
//! Level-triggered, and driven by events: a bell says that something happened and to whom, that is looked at at once; everything is looked at
//! again on a timer, in slices, whatever was or was not notified. Everything it does is committed in the ledger before it is done outside,
//! so it may die between any two lines.
//!
//! Of the control programs on one ledger one dispatches for a cluster: the owner of its lease. The others stand by.

pub mod admit;
pub mod bell;
mod breaker;
pub mod caps;
mod fair;
mod jitter;
mod kept_out;
mod launch;
mod pace;
mod pass;
mod pending;
pub mod proof;
mod reconcile;
pub mod retry;
mod roster;
pub mod wait;

use crate::{
    cluster::{Cluster, key::Key},
    ledger::{self, Fence, Ledger, Order},
};
use admit::Limits;
use bell::Bell;
use caps::Caps;
use pass::Desk;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::watch, time::sleep_until};
use tokio_util::sync::CancellationToken;
use wait::Waits;

/// The longest time between two passes.
const PASS_EVERY: Duration = Duration::from_secs(1);
/// And the shortest: bells that ring all the time are answered together.
const PASS_AFTER: Duration = Duration::from_millis(20);
/// What another control program has to tell comes by the ledger, and is looked for so often. It tells at the most so often.
const NEWS_EVERY: Duration = Duration::from_millis(100);
/// Who stands by looks so often at what another does, for those who ask why jobs wait.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After an error of the ledger.
const REST: Duration = Duration::from_secs(1);

/// One dispatcher for one cluster.
pub struct Dispatcher {
    ledger: Ledger,
    cluster: Arc<dyn Cluster>,
    key: Arc<Key>,
    limits: Limits,
    caps: Caps,
    bell: Arc<Bell>,
    waits: Arc<Waits>,
    /// Places that reconcile found missing.
    missing: Mutex<Vec<Order>>,
}

/// What it is told.
pub struct Rules {
    pub limits: Limits,
    pub caps: Caps,
}

impl Dispatcher {
    pub fn new(
        ledger: Ledger,
        cluster: Arc<dyn Cluster>,
        key: Arc<Key>,
        rules: Rules,
        bell: Arc<Bell>,
        waits: Arc<Waits>,
    ) -> Self {
        let Rules { limits, caps } = rules;
        Self { ledger, cluster, key, limits, caps, bell, waits, missing: Mutex::default() }
    }

    /// Works until `shutdown` says so, whenever `holder` owns the cluster's lease; running attempts are left running.
    pub async fn run(self, holder: &str, shutdown: CancellationToken) {
        let (owner, mut owned) = watch::channel(None);
        let worked = CancellationToken::new();
        let lease = format!("dispatch {}", self.cluster.name());
        let ledger = self.ledger.clone();
        let work = async {
            while let Some(fence) = self.stand_by(&lease, &mut owned, &shutdown).await {
                self.own(fence, &mut owned, &shutdown).await;
            }
            // Given up last: whoever follows finds everything written.
            worked.cancel();
        };
        tokio::join!(ledger.keep_lease(&lease, holder, owner, worked.clone()), work);
    }

    /// Waits for the lease, and passes on to its owner what happens here; `None` if we are to stop.
    async fn stand_by(
        &self,
        lease: &str,
        owned: &mut watch::Receiver<Option<Fence>>,
        shutdown: &CancellationToken,
    ) -> Option<Fence> {
        let mut look = Instant::now() + PASS_EVERY;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                fence = async { owned.wait_for(Option::is_some).await.ok()?.clone() } => return fence,
                () = sleep_until(look.into()) => {
                    look = Instant::now() + LOOK_EVERY;
                    if let Err(error) = self.look_on(lease).await {
                        tracing::warn!("{error}");
                    }
                }
                () = self.bell.rung() => {
                    self.bell.clear();
                    if let Err(error) = self.ledger.ring(lease).await {
                        tracing::warn!("{error}; the owner finds it out by itself");
                    }
                    tokio::time::sleep(NEWS_EVERY).await;
                }
            }
        }
    }

    /// Works as the owner, for as long as we are.
    async fn own(&self, fence: Fence, owned: &mut watch::Receiver<Option<Fence>>, shutdown: &CancellationToken) {
        let mut desk = Desk::new(fence);
        let (mut tick, mut earliest) = (Instant::now(), Instant::now());
        let mut news = tokio::time::interval(NEWS_EVERY);
        news.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !shutdown.is_cancelled() && owned.borrow_and_update().as_ref() == Some(&desk.fence) {
            self.start_creating(&mut desk);
            let (due, is_hungry) = (desk.launcher.due(), desk.is_hungry());
            let now = Instant::now();
            let done = tokio::select! {
                () = shutdown.cancelled() => break,
                _ = owned.changed() => Ok(()),
                _ = news.tick(), if self.ledger.is_shared() => self.hear(&mut desk).await,
                tries = desk.launcher.next() => self.settle(&mut desk, tries).await,
                () = until(due), if due.is_some() => self.mark(&mut desk.launcher, false).await,
                () = sleep_until(tick.into()) => {
                    tick = now.max(tick) + PASS_EVERY;
                    let passed = self.pass(&mut desk, true).await;
                    earliest = Instant::now() + PASS_AFTER;
                    passed
                }
                () = self.called(is_hungry), if earliest <= now => {
                    let passed = self.pass(&mut desk, false).await;
                    earliest = Instant::now() + PASS_AFTER;
                    passed
                }
                () = sleep_until(earliest.into()), if earliest > now => Ok(()),
            };
            if let Err(error) = done {
                desk.steady = Instant::now();
                tracing::error!("{error}; tried again");
                tokio::select! {
                    () = tokio::time::sleep(REST) => {}
                    () = shutdown.cancelled() => break,
                }
            }
        }
        // Not needed for anything, and it saves the next one a look.
        if let Err(error) = self.mark(&mut desk.launcher, true).await {
            tracing::warn!("{error}");
        }
    }

    /// Waits until there is something for a pass to do.
    async fn called(&self, is_hungry: bool) {
        if !is_hungry {
            self.bell.rung().await;
        }
    }

    /// Has others' news looked at in the next pass.
    async fn hear(&self, desk: &mut Desk) -> Result<(), ledger::Error> {
        let rung = self.ledger.rung(&desk.fence).await?;
        if std::mem::replace(&mut desk.rung, rung) != rung {
            self.bell.notify().notify_one();
        }
        Ok(())
    }

    /// Has the place of a committed order made; the place that exists counts.
    fn create(&self, order: &Order) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).push(order.clone());
    }
}

async fn until(due: Option<Instant>) {
    if let Some(due) = due {
        sleep_until(due.into()).await;
    }
}
