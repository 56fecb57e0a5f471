//! Takes ended Pods away once people have had their time to look at them. What is still held for the ledger stays.

use super::{
    name,
    seen::{Container, Seen},
    store::Store,
};
use crate::{ledger, record::Millis};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use std::{sync::Arc, time::Duration};

/// For side containers that still run beside an ended worker.
const GRACE_SECONDS: u32 = 30;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Sweeps until its task is ended.
pub async fn run(pods: Api<Pod>, store: Arc<Store>, ttl: Duration) {
    loop {
        tokio::time::sleep((ttl / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
        let now = ledger::now();
        for seen in store.select(|seen| is_due(seen, ttl, now)) {
            let conditions = Preconditions { uid: Some(seen.uid.clone()), resource_version: None };
            let params = DeleteParams::default().grace_period(GRACE_SECONDS).preconditions(conditions);
            let name = name::pod(&seen.id);
            match pods.delete(&name, &params).await {
                Ok(_) => tracing::debug!(pod = name, "ended long enough ago; taken away"),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(why) => {
                    tracing::warn!(pod = name, why = %why, "cannot be taken away now; tried again");
                    break;
                }
            }
        }
    }
}

/// The ledger has let go of it, and its time is over.
fn is_due(seen: &Seen, ttl: Duration, now: Millis) -> bool {
    let ended = match &seen.worker {
        Container::Terminated(ended) => ended.finished.unwrap_or(seen.created),
        _ => seen.scheduled.unwrap_or(seen.created),
    };
    !seen.held && seen.deletion.is_none() && seen.is_over() && now.since(ended) >= ttl
}
