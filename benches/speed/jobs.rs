//! The same Pods through Kubernetes' own Jobs.

use crate::{
    env::kubernetes::Cluster,
    flood,
    plane::{LIMIT, Way},
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const CLIENTS: usize = 64;
/// At its defaults the controller would need twenty minutes.
const PATIENCE: Duration = Duration::from_secs(45);
/// As its makers ship it; the tests' cluster allows it more.
const DEFAULTS: [&str; 6] = ["--kube-api-qps", "20", "--kube-api-burst", "30", "--concurrent-job-syncs", "5"];
/// As much as it makes use of.
const TUNED: [&str; 6] = ["--kube-api-qps", "5000", "--kube-api-burst", "10000", "--concurrent-job-syncs", "64"];

/// How far it came.
pub struct Run {
    name: &'static str,
    jobs: usize,
    first: Duration,
    pods: usize,
    took: Duration,
}

impl Run {
    pub fn row(&self) -> String {
        let (first, took) = (self.first.as_secs_f64(), self.took.as_secs_f64());
        let last = if self.pods == self.jobs {
            format!("{took:.1} s")
        } else {
            format!("{} in {took:.0} s, stopped then", self.pods)
        };
        format!("| {} | {first:.1} s | {last} | {:.0} |\n", self.name, self.pods as f64 / took)
    }
}

/// Tuned, and at its defaults.
pub fn run(pod: &Value, jobs: usize) -> [Run; 2] {
    [
        through("Job controller, `--kube-api-qps 5000 --concurrent-job-syncs 64`", &TUNED, pod, jobs, LIMIT),
        through("Job controller as it is shipped", &DEFAULTS, pod, jobs, PATIENCE),
    ]
}

fn through(name: &'static str, flags: &[&str], pod: &Value, jobs: usize, limit: Duration) -> Run {
    let cluster = Cluster::with_manager(flags);
    let namespace = cluster.namespace();
    let kubeconfig = namespace.dispatcher();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "jobs"},
        "rules": [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "jobs"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "jobs"},
        "subjects": [{"kind": "ServiceAccount", "name": "sendo", "namespace": namespace.name}]});
    [role, binding].iter().for_each(|object| namespace.apply(object));
    let way = Way::new(&namespace, &kubeconfig);
    let bodies = flood::bodies(&job(&flood::plain(pod)), jobs);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (first, pods, took) = runtime.block_on(async {
        let started = Instant::now();
        let creating = tokio::spawn({
            let way = way.clone();
            async move { flood::post(&way, "jobs", bodies, CLIENTS).await }
        });
        let found = way.watch_pods(started, jobs, limit).await;
        creating.await.expect("all Jobs are created");
        found
    });
    assert!(pods == jobs || limit < LIMIT, "{name}: {pods} Pods after {took:?}");
    Run { name, jobs, first: first.expect("a Pod"), pods, took }
}

/// The Job whose one Pod is this one, never tried again.
fn job(pod: &Value) -> Value {
    let mut metadata = pod["metadata"].clone();
    let name = metadata["name"].take();
    // The controller names its Pods, and holds them by a finalizer of its own.
    ["name", "finalizers"].iter().for_each(|key| {
        metadata.as_object_mut().expect("an object").remove(*key);
    });
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"metadata": metadata, "spec": pod["spec"]}}})
}
