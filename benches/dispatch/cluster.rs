//! A fake: a cluster that answers at once and counts what it is asked. What is left is the dispatcher's and the ledger's own.

use futures::future::BoxFuture;
use sendo::{
    cluster::{Cluster, LaunchError, Observation, Stranger, Witness},
    ledger::Order,
    record::wire::AttemptId,
};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

#[derive(Default)]
pub struct AtOnce {
    pub calls: AtomicU64,
}

impl AtOnce {
    fn answer<'a, T: Send + 'a>(&self, answer: T) -> BoxFuture<'a, T> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(answer))
    }
}

impl Cluster for AtOnce {
    fn name(&self) -> &str {
        "at-once"
    }

    fn choose_uid(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }

    fn launch<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<String, LaunchError>> {
        self.answer(Ok(order.uid.clone()))
    }

    fn observe<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Observation> {
        // Seen in a cache, as a watch fills it: no call.
        Box::pin(std::future::ready(Observation::Alive { uid: order.uid.clone() }))
    }

    fn stop<'a>(&'a self, _order: &'a Order, _grace: Duration) -> BoxFuture<'a, anyhow::Result<()>> {
        self.answer(Ok(()))
    }

    fn release<'a>(&'a self, _id: &'a AttemptId) -> BoxFuture<'a, anyhow::Result<()>> {
        self.answer(Ok(()))
    }

    fn vouch<'a>(&'a self, _token: &'a str) -> BoxFuture<'a, Result<Witness, Stranger>> {
        self.answer(Err(Stranger::Unknown("nobody runs here".into())))
    }

    fn output_file(&self, _id: &AttemptId, _stream: &str) -> Option<PathBuf> {
        None
    }
}
