//! The create at start-up that makes nothing: a job without anything of its own, and what the API server's answer means.

use super::{
    answer::{self, Answer},
    settings::Settings,
};
use crate::{
    cluster::{Hindrance, LaunchError},
    ledger::Order,
    record::{job::Job, wire::AttemptId},
};
use anyhow::Context as _;
use serde_json::json;

/// An order that only the settings and the template shape.
pub fn order(settings: &Settings) -> anyhow::Result<Order> {
    let tag = settings.default_tag.as_deref().unwrap_or("rehearsal");
    let job: Job =
        serde_json::from_value(json!({"version": 1, "id": "rehearsal", "image_tag": tag})).context("make up a job")?;
    let id = AttemptId { job: job.id.clone(), attempt: 1 };
    Ok(Order { id, uid: String::new(), job, avoid_node: None })
}

/// Why it could not be rehearsed now; an error where no job's Pod would ever be made.
pub fn meaning(error: &kube::Error) -> anyhow::Result<String> {
    let is_ours = matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404));
    match answer::meaning(error) {
        Answer::No(LaunchError::Refused(why)) => anyhow::bail!("the API server would have none of our Pods: {why}"),
        Answer::No(LaunchError::NotNow { why, hindrance, .. }) if is_ours && hindrance == Hindrance::Away => {
            anyhow::bail!("the API server lets us make no Pods; docker/kubernetes/rbac.yaml has the roles: {why}")
        }
        Answer::No(why) | Answer::Unclear(why) => Ok(why.to_string()),
        Answer::Exists => Ok("a job called `rehearsal` has its Pod there".into()),
    }
}
