//! A Kubernetes cluster: one Pod an attempt, in one namespace.
//!
//! ```text
//!   order ── pod (pure) ──> one create ──> Pod <── watch ── store ── status (pure) ──> observation
//!                              │            │
//!                            answer (pure)  └── token ── identity
//! ```
//! The Pod's name is a hash of (job, attempt), so that it cannot be there twice; its UID is what the ledger binds the attempt to. Our
//! finalizer keeps its object until its end is in the ledger.

mod adoption;
mod answer;
mod identity;
mod name;
mod pod;
mod rehearsal;
mod seen;
pub mod settings;
mod status;
mod store;
mod sweep;
mod template;
mod watch;

pub use name::pod as pod_name;
pub use pod::Told;
pub use settings::Settings;

use super::{Cluster, Described, LaunchError, Observation, Stranger, Wait, WaitCause, Witness};
use crate::{
    dispatch::bell::Bell,
    ledger::{self, Order},
    record::wire::AttemptId,
};
use answer::Answer;
use anyhow::Context as _;
use axum::http::{HeaderValue, header::ACCEPT};
use futures::future::BoxFuture;
use identity::Identity;
use k8s_openapi::api::core::v1::{Event, Node as NodeObject, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    config::{KubeConfigOptions, Kubeconfig},
    core::Request,
};
use seen::{Seen, Trimmed};
use serde_json::{Value, json};
use status::Node;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use store::{Found, Store};
use template::Template;
use tokio::task::JoinSet;

/// One request to the API server that makes something. Whether it was made is still to be read back, within what a launch may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(18);
/// One of those that a pass may wait for, all of which may be made again: a look, a deletion, a finalizer.
const SHORT_LIMIT: Duration = Duration::from_secs(10);
/// What is known of a node is looked at again after this.
const NODE_AGE: Duration = Duration::from_secs(5);
/// A Pod that has ended and is still held after this has been forgotten by somebody.
const STRAYS_EVERY: Duration = Duration::from_secs(10);
const STRAY_AGE: Duration = Duration::from_secs(60);
/// For `Accept`: of an object its metadata.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The cluster.
pub struct Kubernetes {
    settings: Settings,
    template: Template,
    told: Told,
    pods: Api<Pod>,
    events: Api<Event>,
    nodes: Api<NodeObject>,
    store: Arc<Store>,
    identity: Identity,
    known_nodes: Mutex<HashMap<String, (Node, Instant)>>,
    strays_looked: Mutex<Option<Instant>>,
    /// Watching and sweeping; they end with us.
    _tasks: JoinSet<()>,
}

impl Kubernetes {
    /// Checks the settings and the template, the latter by the API server's own dry run, and begins to watch.
    pub async fn connect(settings: Settings, told: Told, bell: Arc<Bell>) -> anyhow::Result<Self> {
        settings.check()?;
        let template = settings.template.as_deref().map(Template::read).transpose()?.unwrap_or_default();
        let client = client(&settings).await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), &settings.namespace);
        let store = Arc::new(Store::default());
        let mut tasks = JoinSet::new();
        let label = name::label(&settings.name);
        tasks.spawn(watch::run(pods.clone(), label, Arc::clone(&store), settings.watch_limit.0, bell));
        tasks.spawn(sweep::run(pods.clone(), Arc::clone(&store), settings.ended_ttl.0));
        let cluster = Self {
            events: Api::namespaced(client.clone(), &settings.namespace),
            nodes: Api::all(client.clone()),
            identity: Identity::new(client, settings.namespace.clone()),
            known_nodes: Mutex::default(),
            strays_looked: Mutex::default(),
            _tasks: tasks,
            settings,
            template,
            told,
            pods,
            store,
        };
        cluster.rehearse().await?;
        Ok(cluster)
    }

    /// A create that makes nothing: what would fail each job fails the start.
    async fn rehearse(&self) -> anyhow::Result<()> {
        let order = rehearsal::order(&self.settings)?;
        let pod = self.pod(&order).map_err(anyhow::Error::msg)?;
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let cluster = self.settings.name.as_str();
        let why = match tokio::time::timeout(REQUEST_LIMIT, self.post(&pod, &params)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(why)) => rehearsal::meaning(&why).with_context(|| format!("cluster {cluster}"))?,
            Err(_) => "the API server does not answer".into(),
        };
        // It may be away or full for minutes, and that is no reason not to serve.
        tracing::warn!(cluster, why, "no Pod can be rehearsed now");
        Ok(())
    }

    fn pod(&self, order: &Order) -> Result<Value, String> {
        pod::pod(&self.settings, &self.template, self.told, order)
    }

    async fn create(&self, order: &Order) -> Result<String, LaunchError> {
        let pod = self.pod(order).map_err(LaunchError::Refused)?;
        let created = tokio::time::timeout(REQUEST_LIMIT, self.post(&pod, &PostParams::default())).await;
        let answer = match created {
            Ok(Ok(uid)) => return uid.ok_or_else(|| LaunchError::away("the API server names no UID")),
            Ok(Err(why)) => answer::meaning(&why),
            Err(_) => Answer::Unclear(LaunchError::away("the API server does not answer in time")),
        };
        match answer {
            // Quota and policy speak before anybody looks whether it is there: an earlier create, whose answer was lost, may have made it.
            Answer::No(why) => self.seen_standing(order).ok_or(why),
            Answer::Exists => self.read_back(order).await?.ok_or_else(|| LaunchError::away("its Pod has just gone")),
            Answer::Unclear(why) => match self.read_back(order).await {
                Ok(Some(uid)) => Ok(uid),
                // Not there, or not to be seen: should the create still arrive, the next one will find its Pod.
                Ok(None) | Err(LaunchError::NotNow { .. }) => Err(why),
                Err(refused) => Err(refused),
            },
        }
    }

    /// The UID of the attempt's Pod, if the watch has told of it.
    fn seen_standing(&self, order: &Order) -> Option<String> {
        let seen = self.store.last(&order.id)?;
        (order.uid.is_empty() || order.uid == seen.uid).then_some(seen.uid)
    }

    /// Creates it, and gives back its UID. Of the answer nothing else is of use: what is not asked for is neither written there nor read here.
    async fn post(&self, pod: &Value, params: &PostParams) -> kube::Result<Option<String>> {
        let body = serde_json::to_vec(pod).map_err(kube::Error::SerdeError)?;
        let request = Request::new(self.pods.resource_url()).create(params, body);
        let mut request = request.map_err(kube::Error::BuildRequest)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA));
        let Trimmed(created) = self.pods.clone().into_client().request(request).await?;
        Ok(created.metadata.uid)
    }

    /// The UID of the Pod that has the attempt's name, if it is the attempt's.
    async fn read_back(&self, order: &Order) -> Result<Option<String>, LaunchError> {
        let name = name::pod(&order.id);
        let found = self.get(&name).await.map_err(|why| LaunchError::away(format!("{why:#}")))?;
        let Some(pod) = found else { return Ok(None) };
        match Seen::of(pod) {
            Some(seen) if seen.id == order.id && (order.uid.is_empty() || order.uid == seen.uid) => Ok(Some(seen.uid)),
            Some(seen) if seen.id == order.id => Err(LaunchError::away(format!(
                "another Pod ({}) has taken the name {name} of this attempt's",
                seen.uid
            ))),
            _ => Err(LaunchError::Refused(format!("there is a Pod {name} that is not Sendo's; take it away"))),
        }
    }

    async fn get(&self, name: &str) -> anyhow::Result<Option<Pod>> {
        let request = Request::new(self.pods.resource_url()).get(name, &GetParams::default())?;
        let client = self.pods.clone().into_client();
        let found = tokio::time::timeout(SHORT_LIMIT, client.request(request)).await;
        match found.context("the API server does not answer in time")? {
            Ok(Trimmed(pod)) => Ok(Some(pod)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(why) => Err(why.into()),
        }
    }

    async fn look(&self, order: &Order) -> anyhow::Result<Observation> {
        let (seen, vanished) = match self.store.find(&order.id, self.settings.watch_limit.0) {
            Found::Unknown(why) => return Ok(Observation::Unknown(why)),
            Found::Pod(seen) => (*seen, false),
            Found::Vanished(seen) => (*seen, true),
            // The watch may lag behind what we have made ourselves.
            Found::Nothing => match self.get(&name::pod(&order.id)).await?.and_then(Seen::of) {
                Some(seen) => (seen, false),
                None => return Ok(Observation::Absent),
            },
        };
        if !order.uid.is_empty() && seen.uid != order.uid {
            return Ok(Observation::Absent);
        }
        let node = match status::asks_for_node(&seen) {
            Some(node) => self.node(node).await,
            None => Node::Fine,
        };
        let observation = status::observation(&seen, &node, &self.settings, ledger::now());
        Ok(match observation {
            ended @ Observation::Ended(_) => ended,
            _ if vanished => Observation::Absent,
            Observation::Waiting { uid, wait } => Observation::Waiting { uid, wait: self.ask_why(&seen, wait).await },
            other => other,
        })
    }

    /// What is known of the node; what cannot be seen proves nothing.
    async fn node(&self, name: &str) -> Node {
        let known = || self.known_nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((node, at)) = known().get(name)
            && at.elapsed() < NODE_AGE
        {
            return node.clone();
        }
        let node = match tokio::time::timeout(SHORT_LIMIT, self.nodes.get_opt(name)).await {
            Ok(Ok(None)) => Node::Gone,
            Ok(Ok(Some(node))) => {
                let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
                if taints.iter().any(|taint| taint.key == OUT_OF_SERVICE) { Node::OutOfService } else { Node::Fine }
            }
            Ok(Err(why)) => {
                tracing::warn!(node = name, why = %why, "the node cannot be seen");
                Node::Fine
            }
            Err(_) => Node::Fine,
        };
        let mut known = known();
        known.retain(|_, (_, at)| at.elapsed() < NODE_AGE);
        known.insert(name.to_owned(), (node.clone(), Instant::now()));
        node
    }

    /// The status does not say why a Pod is still being set up; the kubelet's events do. Asked once it has waited for too long.
    async fn ask_why(&self, seen: &Seen, mut wait: Wait) -> Wait {
        if wait.cause != WaitCause::Creating || wait.waited <= wait.limit {
            return wait;
        }
        let params = ListParams::default().fields(&format!("involvedObject.uid={},type=Warning", seen.uid)).limit(50);
        let events = tokio::time::timeout(SHORT_LIMIT, self.events.list(&params)).await;
        if let Ok(Ok(events)) = events
            && let Some(last) = events.items.into_iter().max_by_key(|event| event.last_timestamp.clone().map(|at| at.0))
        {
            let words = [last.reason, last.message];
            wait.words = words.into_iter().flatten().collect::<Vec<_>>().join(": ");
        }
        wait
    }

    async fn delete(&self, order: &Order, grace: Duration) -> anyhow::Result<()> {
        let seconds = u32::try_from(grace.as_secs()).unwrap_or(u32::MAX);
        let last = self.store.last(&order.id);
        let asked = last.as_ref().and_then(|seen| seen.deletion.as_ref());
        if asked.is_some_and(|deletion| deletion.grace_seconds <= i64::from(seconds)) {
            return Ok(());
        }
        let uid = Some(order.uid.clone()).filter(|uid| !uid.is_empty()).or(last.map(|seen| seen.uid));
        let conditions = Preconditions { uid, resource_version: None };
        let params = DeleteParams::default().grace_period(seconds).preconditions(conditions);
        let name = name::pod(&order.id);
        let deleted = tokio::time::timeout(SHORT_LIMIT, self.pods.delete(&name, &params)).await;
        match deleted.context("the API server does not answer in time")? {
            // Another Pod has the name: ours is gone.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("delete the Pod {name}")),
        }
    }

    async fn let_go(&self, id: &AttemptId) -> anyhow::Result<()> {
        let name = name::pod(id);
        let seen = match self.store.last(id) {
            Some(seen) => Some(seen),
            None => self.get(&name).await?.and_then(Seen::of),
        };
        if let Some(seen) = seen.filter(|seen| seen.held) {
            // By strategic merge: other people's finalizers stay, and nobody has to know where in the list ours stands.
            let patch =
                json!({"metadata": {"uid": seen.uid, "$deleteFromPrimitiveList/finalizers": [name::FINALIZER]}});
            let params = PatchParams::default();
            let patch = Patch::Strategic(patch);
            let patched = tokio::time::timeout(SHORT_LIMIT, self.pods.patch_metadata(&name, &params, &patch)).await;
            match patched.context("the API server does not answer in time")? {
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                other => {
                    other.with_context(|| format!("take the finalizer off the Pod {name}"))?;
                }
            }
        }
        self.store.forget(id);
        Ok(())
    }
}

impl Cluster for Kubernetes {
    fn name(&self) -> &str {
        &self.settings.name
    }

    fn choose_uid(&self) -> String {
        String::new()
    }

    fn launch<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<String, LaunchError>> {
        Box::pin(self.create(order))
    }

    fn observe<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let looked = self.look(order).await;
            looked.unwrap_or_else(|why| Observation::Unknown(format!("{why:#}")))
        })
    }

    fn stop<'a>(&'a self, order: &'a Order, grace: Duration) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.delete(order, grace))
    }

    fn release<'a>(&'a self, id: &'a AttemptId) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.let_go(id))
    }

    fn vouch<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Witness, Stranger>> {
        Box::pin(self.identity.vouch(token))
    }

    fn gone_within(&self, id: &AttemptId) -> Option<Duration> {
        status::gone_within(&self.store.last(id)?, ledger::now())
    }

    fn unreleased(&self) -> Vec<AttemptId> {
        let mut looked = self.strays_looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|at| at.elapsed() < STRAYS_EVERY) {
            return Vec::new();
        }
        *looked = Some(Instant::now());
        // An end that is news is reconcile's business, and soon done with.
        let now = ledger::now();
        let stray = |seen: &Seen| seen.held && (seen.is_over() || !seen.runs()) && now.since(seen.created) > STRAY_AGE;
        self.store.select(stray).into_iter().map(|seen| seen.id).collect()
    }

    fn places(&self) -> Option<Vec<AttemptId>> {
        self.store.all(self.settings.watch_limit.0)
    }

    fn describe<'a>(&'a self, id: &'a AttemptId) -> BoxFuture<'a, anyhow::Result<Described>> {
        Box::pin(async move { Ok(self.get(&name::pod(id)).await?.map_or(Described::Gone, adoption::described)) })
    }

    fn output_file(&self, _: &AttemptId, _: &str) -> Option<PathBuf> {
        None
    }
}

async fn client(settings: &Settings) -> anyhow::Result<Client> {
    // Somebody else in the program may have chosen it already: it is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    let config = match &settings.kubeconfig {
        Some(file) => {
            let understood = async {
                let read = Kubeconfig::read_from(file)?;
                kube::Config::from_custom_kubeconfig(read, &options).await
            };
            understood.await.map_err(|why| format!("`kubeconfig` {}: {why}", file.display()))
        }
        None if settings.context.is_some() => {
            kube::Config::from_kubeconfig(&options).await.map_err(|why| format!("read the kubeconfig: {why}"))
        }
        None => kube::Config::infer()
            .await
            .map_err(|why| format!("find the API server: name a file in `kubeconfig`, or run in a Pod: {why}")),
    };
    // kube's errors say their causes themselves: as an error with causes each would be said twice.
    let mut config = config.map_err(|why| anyhow::anyhow!("cluster {}: {why}", settings.name))?;
    // The dispatcher waits and tries again by itself, and wants to hear of a 429.
    config.default_retry = false;
    Client::try_from(config).with_context(|| format!("cluster {}", settings.name))
}
