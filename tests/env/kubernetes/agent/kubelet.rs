//! One node: its heartbeats, and the Pods that are bound to it, each in a task of its own.

use super::{Desk, Running, container, container::Container, status, status::State};
use futures::StreamExt as _;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use serde_json::{Value, json};
use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    process::Child,
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

/// Well within the time after which a silent node counts as not ready.
const BEAT: Duration = Duration::from_secs(3);
/// A kubelet tries again after a while, and so do we.
const AGAIN: Duration = Duration::from_millis(500);
/// Kubernetes' own, where a Pod names none.
const GRACE: Duration = Duration::from_secs(30);

/// What a Pod's task is told.
#[derive(Debug)]
pub enum Order {
    /// It is to end; each word may shorten the grace.
    End {
        grace: Duration,
    },
    StartAgain,
}

/// One Pod on this node.
struct Place {
    pods: Api<Pod>,
    client: Client,
    lost: watch::Receiver<bool>,
    desk: Arc<Desk>,
    folder: PathBuf,
    pod: Value,
    /// Its end is asked for.
    is_ending: bool,
    until: Option<Instant>,
    restarts: u32,
    /// Containers that were started twice; nobody reads their ends, and they go with the Pod.
    twins: Vec<Child>,
}

/// Speaks for the node until it is dropped.
pub async fn run(client: Client, node: String, lost: watch::Receiver<bool>, desk: Arc<Desk>) {
    tokio::task::spawn_local(beat(client.clone(), node.clone(), lost.clone()));
    let pods: Api<Pod> = Api::all(client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = std::pin::pin!(watcher::watcher(pods, config).default_backoff());
    let mut known: HashMap<String, mpsc::UnboundedSender<Order>> = HashMap::new();
    while let Some(event) = events.next().await {
        reachable(&lost).await;
        let (pod, is_gone) = match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => (pod, false),
            Ok(Event::Delete(pod)) => (pod, true),
            Ok(Event::Init | Event::InitDone) | Err(_) => continue, // an error is tried again by the watcher
        };
        let pod = serde_json::to_value(pod).unwrap();
        let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
        let grace = grace(&pod, is_gone);
        if let Some(task) = known.get(&uid) {
            let _ = grace.map(|grace| task.send(Order::End { grace })); // it may have ended
            continue;
        }
        if is_gone || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
            continue;
        }
        let (send, orders) = mpsc::unbounded_channel();
        let _ = grace.map(|grace| send.send(Order::End { grace }));
        let folder = desk.folder.path().join(&uid);
        let running = Running { folder: folder.clone(), inits: Vec::new(), again: send.clone() };
        desk.pods.lock().unwrap().insert(pod["metadata"]["name"].as_str().unwrap().to_owned(), running);
        known.insert(uid, send);
        let pods = Api::namespaced(client.clone(), pod["metadata"]["namespace"].as_str().unwrap());
        let (client, lost, desk) = (client.clone(), lost.clone(), Arc::clone(&desk));
        let place =
            Place { pods, client, lost, desk, folder, pod, is_ending: false, until: None, restarts: 0, twins: vec![] };
        tokio::task::spawn_local(place.live(orders));
    }
}

/// The grace of a Pod that is being deleted.
fn grace(pod: &Value, is_gone: bool) -> Option<Duration> {
    let is_deleted = !pod["metadata"]["deletionTimestamp"].is_null();
    let seconds = pod["metadata"]["deletionGracePeriodSeconds"].as_u64();
    let seconds = seconds.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_u64());
    (is_deleted || is_gone).then(|| seconds.map_or(GRACE, Duration::from_secs))
}

async fn reachable(lost: &watch::Receiver<bool>) {
    let _ = lost.clone().wait_for(|lost| !lost).await; // an error: the agent ends
}

/// The lease and the condition that the controllers look at.
async fn beat(client: Client, node: String, lost: watch::Receiver<bool>) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let nodes: Api<Node> = Api::all(client);
    loop {
        reachable(&lost).await;
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node},
            "spec": {"holderIdentity": node, "leaseDurationSeconds": 20, "renewTime": format!("{:.6}", jiff::Timestamp::now())},
        });
        if leases.patch(&node, &PatchParams::default(), &Patch::Merge(&lease)).await.is_err() {
            let lease = serde_json::from_value(lease).unwrap();
            let _ = leases.create(&PostParams::default(), &lease).await; // the next beat tries again
        }
        let ready = json!({"status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "the tests' agent is there",
            "lastHeartbeatTime": status::now(), "lastTransitionTime": status::now(),
        }], "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
        let _ = nodes.patch_status(&node, &PatchParams::default(), &Patch::Strategic(&ready)).await; // as above
        sleep(BEAT).await;
    }
}

impl Place {
    async fn live(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        self.write(&State::Waiting { reason: "ContainerCreating", message: String::new() }, None).await;
        if let Some(container) = self.prepare(&mut orders).await {
            self.contain(&container, &mut orders).await;
        } else {
            // Deleted before it ran: a kubelet says so in the same words.
            let state = State::Terminated {
                since: status::now(),
                code: 137,
                message: "The container could not be located when the pod was deleted".into(),
            };
            self.write(&state, None).await;
        }
        while !self.is_ending {
            match orders.recv().await {
                Some(Order::End { .. }) => self.is_ending = true,
                Some(Order::StartAgain) => {}
                None => return,
            }
        }
        self.remove().await;
    }

    async fn prepare(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>) -> Option<Container> {
        loop {
            let pause = match orders.try_recv() {
                Ok(Order::End { .. }) => {
                    self.is_ending = true;
                    return None;
                }
                _ => AGAIN,
            };
            reachable(&self.lost).await;
            match Container::prepare(&self.client, &self.pod, &self.folder).await {
                Ok(container) => return Some(container),
                Err(message) => self.write(&State::Waiting { reason: "ContainerCreating", message }, None).await,
            }
            sleep(pause).await;
        }
    }

    /// From the start of the process to its end.
    async fn contain(&mut self, container: &Container, orders: &mut mpsc::UnboundedReceiver<Order>) {
        let since = status::now();
        let mut child = container.start();
        let mut init = self.register(&child).await;
        self.write(&State::Running { since: since.clone() }, None).await;
        let deadline = self.pod["spec"]["activeDeadlineSeconds"].as_u64();
        let deadline = deadline.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut why = None;
        let exit = loop {
            let never = Instant::now() + Duration::from_secs(86_400);
            tokio::select! {
                exit = child.wait() => break exit.unwrap(),
                order = orders.recv() => match order {
                    Some(Order::End { grace }) => {
                        self.is_ending = true;
                        self.end(init, grace);
                    }
                    Some(Order::StartAgain) => {
                        let twin = container.start();
                        init = self.register(&twin).await;
                        // The kubelet that lost its record of the first knows the second alone.
                        self.twins.push(std::mem::replace(&mut child, twin));
                        self.restarts += 1;
                        self.write(&State::Running { since: since.clone() }, None).await;
                    }
                    None => return,
                },
                () = sleep_until(self.until.unwrap_or(never)) => {
                    signal(init, nix::sys::signal::Signal::SIGKILL);
                    self.until = Some(never);
                }
                () = sleep_until(deadline.unwrap_or(never)), if why.is_none() => {
                    why = Some("DeadlineExceeded");
                    let grace = self.pod["spec"]["terminationGracePeriodSeconds"].as_u64();
                    self.end(init, grace.map_or(GRACE, Duration::from_secs));
                }
            }
        };
        use std::os::unix::process::ExitStatusExt as _;
        let code = exit.code().or_else(|| exit.signal().map(|signal| 128 + signal)).unwrap();
        let message = container.message();
        self.write(&State::Terminated { since, code, message }, why).await;
    }

    /// TERM, the first time; the shortest grace counts.
    fn end(&mut self, init: Option<i32>, grace: Duration) {
        let until = Instant::now() + grace;
        if self.until.is_none() {
            signal(init, nix::sys::signal::Signal::SIGTERM);
        }
        self.until = Some(self.until.map_or(until, |earlier| earlier.min(until)));
    }

    async fn register(&self, child: &Child) -> Option<i32> {
        let parent = child.id()?;
        let init = container::init(parent).await;
        let name = self.pod["metadata"]["name"].as_str().unwrap();
        if let Some(running) = self.desk.pods.lock().unwrap().get_mut(name) {
            // One that was over before it could be seen was started all the same.
            running.inits.push(init.or(parent.try_into().ok())?);
        }
        init
    }

    async fn write(&self, state: &State, why: Option<&str>) {
        let metadata = &self.pod["metadata"];
        let status = status::of(&self.pod, state, self.restarts, why);
        // The UID keeps us from a Pod that has only the name in common.
        let patch = json!({"metadata": {"uid": metadata["uid"]}, "status": status});
        let name = metadata["name"].as_str().unwrap();
        loop {
            reachable(&self.lost).await;
            match self.pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                Ok(_) => return,
                Err(kube::Error::Api(why)) if matches!(why.code, 404 | 409 | 422) => return,
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    /// The object may go: nothing runs any more. Finalizers still hold it.
    async fn remove(&mut self) {
        for mut twin in std::mem::take(&mut self.twins) {
            let _ = twin.kill().await; // it may have ended
        }
        let metadata = &self.pod["metadata"];
        let uid = metadata["uid"].as_str().unwrap().to_owned();
        let preconditions = Some(Preconditions { uid: Some(uid), resource_version: None });
        let now = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
        loop {
            reachable(&self.lost).await;
            match self.pods.delete(metadata["name"].as_str().unwrap(), &now).await {
                Ok(_) => return,
                Err(kube::Error::Api(why)) if matches!(why.code, 404 | 409) => return,
                Err(_) => sleep(AGAIN).await,
            }
        }
    }
}

fn signal(pid: Option<i32>, signal: nix::sys::signal::Signal) {
    // One that has ended is waited for already.
    let _ = pid.map(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal));
}
