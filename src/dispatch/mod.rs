//! From the queue in the ledger to attempts on a cluster, and back to their ends: admit, launch, reconcile.
//!
//! Level-triggered, and driven by events: a bell says that something happened and to whom, that is looked at at once; everything is looked at
//! again on a timer, in slices, whatever was or was not notified. Everything it does is committed in the ledger before it is done outside,
//! so it may die between any two lines.

pub mod admit;
pub mod bell;
mod breaker;
pub mod caps;
mod fair;
mod jitter;
mod launch;
mod pace;
mod pass;
mod pending;
mod proof;
mod reconcile;
pub mod retry;
mod roster;
pub mod slice;
pub mod wait;

use crate::{
    cluster::{Cluster, key::Key},
    ledger::{Ledger, Order},
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
use wait::Waits;

/// The longest time between two passes.
const PASS_EVERY: Duration = Duration::from_secs(1);
/// And the shortest: bells that ring all the time are answered together.
const PASS_AFTER: Duration = Duration::from_millis(5);
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

    /// Works until `shutdown` says so; running attempts are left running.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut desk = Desk::default();
        let (mut tick, mut earliest) = (Instant::now(), Instant::now());
        while !*shutdown.borrow() {
            self.start_creating(&mut desk.launcher);
            let due = desk.launcher.due();
            let now = Instant::now();
            let done = tokio::select! {
                _ = shutdown.changed() => break,
                tries = desk.launcher.next() => self.settle(&mut desk.launcher, tries).await,
                () = until(due), if due.is_some() => self.mark(&mut desk.launcher, false).await,
                () = sleep_until(tick.into()) => {
                    tick = now.max(tick) + PASS_EVERY;
                    let passed = self.pass(&mut desk, true).await;
                    earliest = Instant::now() + PASS_AFTER;
                    passed
                }
                () = self.bell.rung(), if earliest <= now => {
                    let passed = self.pass(&mut desk, false).await;
                    earliest = Instant::now() + PASS_AFTER;
                    passed
                }
                () = sleep_until(earliest.into()), if earliest > now => Ok(()),
            };
            if let Err(error) = done {
                tracing::error!("{error}; tried again");
                tokio::select! {
                    () = tokio::time::sleep(REST) => {}
                    _ = shutdown.changed() => break,
                }
            }
        }
        // Not needed for anything, and it saves the next one a look.
        if let Err(error) = self.mark(&mut desk.launcher, true).await {
            tracing::warn!("{error}");
        }
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
