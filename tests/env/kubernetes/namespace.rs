//! A test's own part of a cluster: its namespace, its nodes, and a dispatcher with the shipped roles.

use super::Cluster;
use crate::env::wait_for;
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// The roles as they are shipped.
const RBAC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/kubernetes/rbac.yaml");
/// On all that is the namespace's and not in it.
const OWNER: &str = "sendo.test/namespace";

/// It enforces Pod Security `restricted`, and its Pods run on its own nodes alone, or on another's. Gone when dropped.
pub struct Namespace<'a> {
    pub name: String,
    pub cluster: &'a Cluster,
    nodes: AtomicU32,
}

impl<'a> Namespace<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        Self::on_nodes_of(cluster, None)
    }

    /// Another one, whose Pods run on this one's nodes.
    pub fn beside(&self) -> Self {
        Self::on_nodes_of(self.cluster, Some(&self.name))
    }

    fn on_nodes_of(cluster: &'a Cluster, owner: Option<&str>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let namespace = Self { name, cluster, nodes: AtomicU32::new(0) };
        let (name, level) = (&namespace.name, "pod-security.kubernetes.io/enforce");
        cluster.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": name, "labels": {level: "restricted"},
            "annotations": {"scheduler.alpha.kubernetes.io/node-selector": format!("{OWNER}={}", owner.unwrap_or(name))},
        }}));
        // A Pod is refused until its namespace has this.
        wait_for("the service account `default`", || namespace.get("serviceaccount", "default"));
        namespace
    }

    /// A dispatcher's kubeconfig: its service account has the shipped roles and nothing else.
    pub fn dispatcher(&self) -> PathBuf {
        self.dispatcher_by(&self.cluster.url)
    }

    /// The same, with another way to the API server.
    pub fn dispatcher_by(&self, url: &str) -> PathBuf {
        let rendered = self.cluster.run(&["create", "--dry-run=client", "-o", "json", "-f", RBAC]);
        let shipped = serde_json::Deserializer::from_str(&rendered).into_iter::<Value>().map(Result::unwrap);
        let shipped: Vec<_> = shipped.filter(|object| object["kind"] != "Namespace").collect();
        let accounts = shipped.iter().filter(|object| object["kind"] == "RoleBinding");
        let account = accounts.map(|binding| binding["subjects"][0]["name"].as_str().unwrap().to_owned()).next();
        let account = account.unwrap_or_else(|| panic!("{RBAC} binds no role to anybody"));
        let items: Vec<_> = shipped.into_iter().map(|object| self.adopt(object)).collect();
        self.cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}));
        let own = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
        self.apply(&own);
        let token = self.kubectl(&["create", "token", &account, "--duration", "24h"]);
        let file = format!("{}-dispatcher", self.name);
        self.cluster.pki.kubeconfig(&file, url, &json!({"token": token.trim()}))
    }

    /// A shipped object, for this namespace in place of the one that it names.
    fn adopt(&self, mut object: Value) -> Value {
        let own = |name: &Value| json!(format!("{}-{}", self.name, name.as_str().unwrap()));
        let is_cluster_wide = object["kind"].as_str().unwrap().starts_with("Cluster");
        if is_cluster_wide {
            object["metadata"]["name"] = own(&object["metadata"]["name"]);
            object["metadata"]["labels"][OWNER] = json!(self.name);
        } else {
            object["metadata"]["namespace"] = json!(self.name);
        }
        // All but Kubernetes' own are shipped with it.
        let role = object["roleRef"]["name"].as_str().unwrap_or_default();
        if object["roleRef"]["kind"] == "ClusterRole" && !role.starts_with("system:") {
            object["roleRef"]["name"] = own(&object["roleRef"]["name"]);
        }
        for subject in object["subjects"].as_array_mut().into_iter().flatten() {
            subject["namespace"] = json!(self.name);
        }
        object
    }

    /// So many more nodes of kwok's, ready; gives back their names.
    #[track_caller]
    pub fn fake_nodes(&self, count: u32, cpu: &str, memory: &str) -> Vec<String> {
        self.nodes(count, "kwok", cpu, memory)
    }

    /// So many more nodes, ready as soon as somebody speaks for them.
    pub(super) fn nodes(&self, count: u32, kind: &str, cpu: &str, memory: &str) -> Vec<String> {
        let first = self.nodes.fetch_add(count, Ordering::Relaxed);
        let names: Vec<_> = (first..first + count).map(|number| format!("{}-{kind}-{number}", self.name)).collect();
        let room = json!({"cpu": cpu, "memory": memory, "pods": "1000", "ephemeral-storage": "100Gi"});
        let items = names.iter().map(|name| {
            let metadata = json!({"name": name, "labels": {
                "type": kind, OWNER: self.name,
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            }});
            let status = json!({"allocatable": room, "capacity": room});
            json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status})
        });
        self.cluster.feed(
            &["create", "-f", "-"],
            &json!({"apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>()}),
        );
        if kind == "kwok" {
            names.iter().for_each(|name| self.wait_for_node(name));
        }
        names
    }

    /// Waits until the scheduler may use it.
    pub fn wait_for_node(&self, name: &str) {
        let what = format!("node {name} to be ready");
        wait_for(&what, || {
            let node = self.get("node", name)?;
            is_ready(&node).then_some(())
        });
    }

    /// What a node carries whose Pods are this namespace's.
    pub(super) fn label(&self) -> String {
        format!("{OWNER}={}", self.name)
    }

    /// Runs kubectl here, as the administrator; gives back what it says.
    #[track_caller]
    pub fn kubectl(&self, words: &[&str]) -> String {
        self.cluster.run(&[&["--namespace", &self.name], words].concat())
    }

    /// One object, if it is there.
    #[track_caller]
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let text = self.kubectl(&["get", kind, name, "--ignore-not-found", "-o", "json"]);
        (!text.is_empty()).then(|| serde_json::from_str(&text).unwrap())
    }

    /// All objects of a kind.
    #[track_caller]
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.kubectl(&["get", kind, "-o", "json"])).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// Creates or changes an object here.
    #[track_caller]
    pub fn apply(&self, object: &Value) {
        self.cluster.feed(&["--namespace", &self.name, "apply", "-f", "-"], object);
    }

    /// The same where it may be refused; the error is the API server's.
    pub fn try_apply(&self, object: &Value) -> Result<(), String> {
        self.cluster.try_feed(&["--namespace", &self.name, "apply", "-f", "-"], object)
    }

    /// Waits until a Pod is such.
    #[track_caller]
    pub fn wait_for_pod<T>(&self, name: &str, what: &str, mut such: impl FnMut(&Value) -> Option<T>) -> T {
        wait_for(&format!("Pod {name}: {what}"), || such(&self.get("pod", name)?))
    }

    /// Waits until a Pod's phase is that one.
    #[track_caller]
    pub fn wait_for_phase(&self, pod: &str, phase: &str) -> Value {
        self.wait_for_pod(pod, phase, |pod| (pod["status"]["phase"] == phase).then(|| pod.clone()))
    }

    /// Waits until there is no such Pod.
    #[track_caller]
    pub fn wait_until_gone(&self, pod: &str) {
        wait_for(&format!("Pod {pod} to be gone"), || self.get("pod", pod).is_none().then_some(()));
    }
}

/// Whether the scheduler may use this node.
pub(super) fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    let is_ready = conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True");
    is_ready && node["spec"]["taints"].is_null()
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let label = self.label();
        let delete = |words: &[&str]| {
            let mut kubectl: Command = self.cluster.kubectl();
            let _ = kubectl.args(["delete", "--wait=false", "--ignore-not-found"]).args(words).output(); // all of it goes with the cluster
        };
        delete(&["namespace", &self.name]);
        delete(&["nodes,clusterroles,clusterrolebindings", "--selector", &label]);
    }
}
