//! Nodes on which the real supervisor runs as a process for each Pod: a kubelet without containers, for tests that want hundreds of
//! Pods that really report.
//!
//! It does what a kubelet does as far as Sendo can see: environment, mounted secrets and tokens (real ones, by TokenRequest), TERM, grace
//! and KILL, termination messages, statuses, heartbeats. A Pod's process is PID 1 of a PID namespace, so that nothing of it outlives it. What it
//! does not do: images, limits, mounts (a mounted path is replaced by the folder behind it, in variables and arguments), more than one
//! process a Pod (other containers only appear in the status), probes, init containers.

mod container;
mod kubelet;
mod status;

use super::Namespace;
use crate::env::{kill, scratch, wait_for};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use nix::sys::signal::Signal;
use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};

/// Gone when dropped, with all that it runs.
pub struct Agent {
    /// Its nodes.
    pub nodes: Vec<String>,
    desk: Arc<Desk>,
    lost: HashMap<String, watch::Sender<bool>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What the nodes and the test know of each other.
struct Desk {
    folder: TempDir,
    pods: Mutex<HashMap<String, Running>>,
}

/// A Pod that runs here, or ran.
struct Running {
    folder: PathBuf,
    /// Its PID 1, as this machine sees it; the last is the latest.
    inits: Vec<i32>,
    again: mpsc::UnboundedSender<kubelet::Order>,
}

impl Agent {
    /// So many nodes, ready.
    #[track_caller]
    pub fn start(namespace: &Namespace, nodes: u32) -> Self {
        Self::with_room(namespace, nodes, "64", "256Gi")
    }

    /// So many nodes with this capacity each, ready.
    #[track_caller]
    pub fn with_room(namespace: &Namespace, nodes: u32, cpu: &str, memory: &str) -> Self {
        let nodes = namespace.nodes(nodes, "agent", cpu, memory);
        let desk = Arc::new(Desk { folder: scratch(), pods: Mutex::default() });
        let (end, ended) = oneshot::channel();
        let (lost, seen): (HashMap<_, _>, Vec<_>) = nodes
            .iter()
            .map(|name| {
                let (lose, lost) = watch::channel(false);
                ((name.clone(), lose), (name.clone(), lost))
            })
            .unzip();
        let (admin, ours) = (namespace.cluster.admin().to_owned(), Arc::clone(&desk));
        // What it starts dies with the thread that starts it, so all of it is one thread.
        let run = move || {
            let _ = rustls::crypto::ring::default_provider().install_default(); // another test may have been first
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let all = tokio::task::LocalSet::new();
            all.block_on(&runtime, async move {
                let kubeconfig = Kubeconfig::read_from(admin).unwrap();
                let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
                let client = kube::Client::try_from(config).unwrap();
                for (name, lost) in seen {
                    tokio::task::spawn_local(kubelet::run(client.clone(), name, lost, Arc::clone(&ours)));
                }
                let _ = ended.await; // an error is an end, too
            });
        };
        let thread = thread::Builder::new().name("agent".into()).spawn(run).unwrap();
        nodes.iter().for_each(|node| namespace.wait_for_node(node));
        Self { nodes, desk, lost, end: Some(end), thread: Some(thread) }
    }

    /// From now on nobody hears of the node, and it hears nothing; what runs there runs on.
    pub fn lose(&self, node: &str) {
        self.lost[node].send_replace(true);
    }

    /// It is heard again.
    pub fn find(&self, node: &str) {
        self.lost[node].send_replace(false);
    }

    /// Starts a Pod's container once more while the first runs, as a kubelet does that has lost its record of it.
    #[track_caller]
    pub fn start_again(&self, pod: &str) {
        let before = self.inits(pod).len();
        self.of(pod, |running| running.again.send(kubelet::Order::StartAgain).unwrap());
        wait_for("the second start", || (self.inits(pod).len() > before).then_some(()));
    }

    /// Kills a Pod's PID 1, as the kernel does when memory runs out.
    #[track_caller]
    pub fn kill_init(&self, pod: &str) {
        kill(self.init(pod), Signal::SIGKILL);
    }

    /// A Pod's PID 1, the latest, as this machine sees it.
    #[track_caller]
    pub fn init(&self, pod: &str) -> i32 {
        wait_for(&format!("PID 1 of {pod}"), || self.inits(pod).last().copied())
    }

    /// All that were started for a Pod.
    pub fn inits(&self, pod: &str) -> Vec<i32> {
        self.desk.pods.lock().unwrap().get(pod).map(|running| running.inits.clone()).unwrap_or_default()
    }

    /// What a Pod's containers wrote.
    #[track_caller]
    pub fn output(&self, pod: &str) -> String {
        let folder = self.of(pod, |running| running.folder.clone());
        String::from_utf8_lossy(&fs::read(folder.join("output")).unwrap_or_default()).into_owned()
    }

    /// A Pod's folder: `volumes/NAME`, `work`, `output`, `termination-log`.
    #[track_caller]
    pub fn folder(&self, pod: &str) -> PathBuf {
        self.of(pod, |running| running.folder.clone())
    }

    #[track_caller]
    fn of<T>(&self, pod: &str, ask: impl Fn(&Running) -> T) -> T {
        wait_for(&format!("{pod} to be on this agent's nodes"), || self.desk.pods.lock().unwrap().get(pod).map(&ask))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(thread::JoinHandle::join); // it has told its panic already
    }
}
