//! A control plane of a part's own, and a plain way to its API server.

use crate::env::kubernetes::{Cluster, Namespace};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Config,
    api::{WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use reqwest::{Certificate, Client, RequestBuilder};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::mpsc;

/// No part may take longer.
pub const LIMIT: Duration = Duration::from_secs(300);
/// How often Pods are counted at the beginning and at the end: often enough for a part of a percent.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// And in between, where counting would only cost what is measured.
const LOOK_SELDOM: Duration = Duration::from_secs(1);

/// Over HTTP/1.1, with a service account's token.
#[derive(Clone)]
pub struct Way {
    client: Client,
    token: String,
    pub url: String,
    pub namespace: String,
}

impl Way {
    /// As whom the kubeconfig says.
    pub fn new(namespace: &Namespace<'_>, kubeconfig: &Path) -> Self {
        let config: Value =
            serde_json::from_slice(&fs::read(kubeconfig).expect("a kubeconfig")).expect("as we wrote it");
        let token = config["users"][0]["user"]["token"].as_str().expect("a token").to_owned();
        let authority =
            PathBuf::from(config["clusters"][0]["cluster"]["certificate-authority"].as_str().expect("a file"));
        let authority = Certificate::from_pem(&fs::read(authority).expect("a certificate")).expect("a certificate");
        let client = Client::builder().tls_certs_only([authority]).no_proxy().build().expect("a client");
        Self { client, token, url: namespace.cluster.url.clone(), namespace: namespace.name.clone() }
    }

    pub fn post(&self, path: &str, body: String) -> RequestBuilder {
        let request = self.client.post(self.address(path)).bearer_auth(&self.token);
        request.header("content-type", "application/json").body(body)
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(self.address(path)).bearer_auth(&self.token).send().await.expect("an answer");
        let text = answer.error_for_status().expect("what was asked for").bytes().await.expect("the answer's body");
        serde_json::from_slice(&text).expect("JSON")
    }

    fn address(&self, path: &str) -> String {
        let group = if path.starts_with("jobs") { "apis/batch/v1" } else { "api/v1" };
        format!("{}/{group}/namespaces/{}/{path}", self.url, self.namespace)
    }

    /// How many Pods there are, at the cost of one.
    pub async fn pods(&self) -> usize {
        let list = self.get("pods?limit=1").await;
        let shown = list["items"].as_array().expect("items").len();
        shown + usize::try_from(list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0)).expect("a count")
    }

    /// When there was a Pod, and when there were so many; or how many there were at the end of `limit`.
    pub async fn watch_pods(
        &self,
        started: Instant,
        pods: usize,
        limit: Duration,
    ) -> (Option<Duration>, usize, Duration) {
        let mut first = None;
        loop {
            let count = self.pods().await;
            let now = started.elapsed();
            if count > 0 {
                first = first.or(Some(now));
            }
            assert!(count <= pods, "there are {count} Pods for {pods} jobs");
            if count == pods || now > limit {
                return (first, count, now);
            }
            // At the pace so far, half of the way to the last.
            let ahead = now.mul_f64((pods - count) as f64 / count.max(1) as f64 / 2.0);
            let pause = if count == 0 { LOOK_EVERY } else { ahead.clamp(LOOK_EVERY, LOOK_SELDOM) };
            tokio::time::sleep(pause).await;
        }
    }
}

/// A Pod that is new or has changed, and when we heard of it.
pub struct Change {
    pub job: String,
    pub pod: Pod,
    pub at: Instant,
    pub at_ms: i64,
}

/// A namespace's Pods from now on.
pub async fn changes(cluster: &Cluster, namespace: &str) -> mpsc::UnboundedReceiver<Change> {
    let admin = Kubeconfig::read_from(cluster.admin()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(admin, &KubeConfigOptions::default()).await.expect("a config");
    let pods: Api<Pod> = Api::namespaced(kube::Client::try_from(config).expect("a client"), namespace);
    let (tell, changes) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let params = WatchParams::default().timeout(290);
        let mut events = pods.watch(&params, "0").await.expect("a watch").boxed();
        while let Some(event) = events.try_next().await.expect("an event") {
            if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event {
                let (at, at_ms) = (Instant::now(), millis());
                let env = pod.spec.as_ref().expect("a spec").containers[0].env.iter().flatten();
                let job = env.filter(|one| one.name == "SENDO_JOB").find_map(|one| one.value.clone());
                let _ = tell.send(Change { job: job.expect("a job's id"), pod, at, at_ms }); // nobody waits for the last
            }
        }
    });
    changes
}

/// Since 1970, as the ledger counts.
pub fn millis() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("before the end of time")
}

/// What so many percent of them took at the most.
pub fn at(times: &[f64], share: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * share / 100]
}

/// The number of requests that the API server has answered, by verb, for what a dispatcher asks for.
pub fn requests(cluster: &Cluster) -> (f64, f64) {
    let metrics = cluster.run(&["get", "--raw", "/metrics"]);
    let (mut creates, mut others) = (0.0, 0.0);
    for line in metrics.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let Some((labels, count)) = line.rsplit_once(' ') else { continue };
        let count: f64 = count.parse().expect("a number");
        // Other programs' lists and watches of Pods are a handful; single nodes are nobody's else.
        let is = |name: &str, value: &str| labels.contains(&format!("{name}=\"{value}\""));
        if is("resource", "pods") && is("verb", "POST") {
            creates += count;
        } else if is("resource", "pods") && !is("verb", "LIST") && !is("verb", "WATCH")
            || is("resource", "nodes") && is("verb", "GET")
        {
            others += count;
        }
    }
    (creates, others)
}
