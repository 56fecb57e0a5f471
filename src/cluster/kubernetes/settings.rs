//! A `[[cluster]]` of kind `kubernetes`.

use crate::record::{
    quantity::{Bytes, MilliCpu},
    span::Span,
};
use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

const fn minutes(count: u64) -> Span {
    Span(Duration::from_secs(60 * count))
}

/// Its settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Its name in the ledger.
    pub name: String,
    /// Where the API server is found: this file, else `KUBECONFIG` or `~/.kube/config`, else the Pod that we run in.
    pub kubeconfig: Option<PathBuf>,
    /// Of the kubeconfig; its current one where absent.
    pub context: Option<String>,
    /// Where the Pods go.
    pub namespace: String,
    /// The worker image without its tag.
    pub image: String,
    /// For jobs without an `image_tag`.
    pub default_tag: Option<String>,
    /// Whole image references that jobs may name; a `*` at the end stands for anything.
    pub allow_images: Vec<String>,
    /// A person's parts of the Pod (YAML).
    pub template: Option<PathBuf>,
    /// Of the Pods; the namespace's `default` where absent. It needs no rights at all.
    pub service_account: Option<String>,
    /// Our address as the Pods see it.
    pub ledger_url: String,
    /// For jobs that do not say.
    pub cpu: Option<MilliCpu>,
    pub memory: Option<Bytes>,
    pub disk: Option<Bytes>,
    /// What a job may ask for.
    pub max_cpu: Option<MilliCpu>,
    pub max_memory: Option<Bytes>,
    pub max_disk: Option<Bytes>,
    /// No Pod is given more time than this to end in.
    pub max_grace: Span,
    /// A node that is gone from the API is off: its Pods have ended. True where nodes are virtual machines that their group terminates.
    pub trust_node_deletion: bool,
    /// How long a Pod may wait for a node, for its image, for its container, for anything else.
    pub schedule_within: Span,
    pub pull_within: Span,
    pub start_within: Span,
    pub create_within: Span,
    /// How long an ended Pod stays for people to look at.
    pub ended_ttl: Span,
    /// A watch that has told nothing for so long is not believed.
    pub watch_limit: Span,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "kubernetes".into(),
            kubeconfig: None,
            context: None,
            namespace: String::new(),
            image: String::new(),
            default_tag: None,
            allow_images: Vec::new(),
            template: None,
            service_account: None,
            ledger_url: String::new(),
            cpu: Some(MilliCpu(500)),
            memory: Some(Bytes(1 << 30)),
            disk: None,
            max_cpu: None,
            max_memory: None,
            max_disk: None,
            // The longest that a transfer runs by default: one that may finish is the point.
            max_grace: minutes(360),
            trust_node_deletion: false,
            // An autoscaler that has to find a machine takes minutes, one without capacity an hour.
            schedule_within: minutes(60),
            pull_within: minutes(15),
            start_within: minutes(15),
            create_within: minutes(30),
            ended_ttl: minutes(10),
            watch_limit: minutes(3),
        }
    }
}

impl Settings {
    /// What can be seen to be wrong without asking anybody.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.name.is_empty() && self.name.len() <= 64, "cluster: `name` needs 1 to 64 characters");
        let name = &self.name;
        ensure!(!self.namespace.is_empty(), "cluster {name}: `namespace` is missing; say where the Pods go");
        ensure!(!self.image.is_empty(), "cluster {name}: `image` is missing; name the worker image without its tag");
        let tagged = self.image.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
        ensure!(!tagged, "cluster {name}: `image` carries a tag; jobs bring theirs, `default_tag` is for the others");
        let url = &self.ledger_url;
        ensure!(!url.is_empty(), "cluster {name}: `ledger_url` is missing; give our address as the Pods see it");
        let parsed = reqwest::Url::parse(url).ok();
        ensure!(
            parsed.is_some_and(|parsed| matches!(parsed.scheme(), "http" | "https") && parsed.has_host()),
            "cluster {name}: `ledger_url`: `{url}` is no address; write it as https://sendo.example:8921/"
        );
        let bytes = [
            ("memory", self.memory),
            ("disk", self.disk),
            ("max_memory", self.max_memory),
            ("max_disk", self.max_disk),
        ];
        for (key, bytes) in bytes {
            if let Some(why) = bytes.and_then(Bytes::too_few) {
                bail!("cluster {name}: `{key}`: {why}");
            }
        }
        let bare = |pattern: &String| !pattern.trim_end_matches('*').is_empty();
        ensure!(self.allow_images.iter().all(bare), "cluster {name}: `allow_images` would allow every image there is");
        ensure!(self.watch_limit.0 >= Duration::from_secs(5), "cluster {name}: `watch_limit` needs 5s at least");
        Ok(())
    }
}
