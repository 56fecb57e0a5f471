//! What a Pod says of its job, for a ledger that was restored to a time before it: the job's rules. What it loads stands nowhere but in the
//! ledger and at the scheduler.

use super::{name, seen::Seen};
use crate::{
    cluster::Described,
    ledger::Foundling,
    record::job::{Embulk, Job},
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

/// Of the annotation; all of them together may have 256 KiB.
const LIMIT: usize = 16 * 1024;

/// The annotation; `None` for a job with more rules than fit.
pub fn spec(job: &Job) -> Option<String> {
    let embulk = job.embulk.as_ref().map(|embulk| Embulk { config: json!({}), incremental: embulk.incremental });
    let rules = Job { embulk, env: Default::default(), command: None, ..job.clone() };
    serde_json::to_string(&rules).ok().filter(|text| text.len() <= LIMIT)
}

/// And back.
pub fn described(pod: Pod) -> Described {
    let spec = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(name::SPEC));
    let job = match spec.map(|spec| serde_json::from_str::<Job>(spec)) {
        Some(Ok(job)) => job,
        Some(Err(why)) => return Described::Unreadable(format!("its annotation {}: {why}", name::SPEC)),
        None => return Described::Unreadable(format!("it has no annotation {}", name::SPEC)),
    };
    match Seen::of(pod) {
        Some(seen) => Described::Found(Box::new(Foundling { id: seen.id, uid: seen.uid, job })),
        None => Described::Gone,
    }
}
