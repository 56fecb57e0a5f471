//! The raw rate: a plain client that floods an API server with Pods, and does nothing else.

use crate::{env::kubernetes::Cluster, plane::Way, source};
use serde_json::Value;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// What the API server and its admission have added to what was sent.
const ADDED: [&str; 10] = [
    "/metadata/uid",
    "/metadata/resourceVersion",
    "/metadata/creationTimestamp",
    "/metadata/generation",
    "/metadata/managedFields",
    "/metadata/namespace",
    "/spec/nodeSelector",
    "/spec/tolerations",
    "/spec/serviceAccount",
    "/status",
];

/// A flood that is over.
pub struct Flood {
    pods: usize,
    took: Duration,
}

impl Flood {
    /// Copies of a Pod, with so many requests at the same time.
    pub fn run(pod: &Value, pods: usize, clients: usize) -> Self {
        let cluster = Cluster::without_scheduler();
        let namespace = cluster.namespace();
        let way = Way::new(&namespace, &namespace.dispatcher());
        let bodies = bodies(&plain(pod), pods);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let took = runtime.block_on(async {
            let started = Instant::now();
            post(&way, "pods", bodies, clients).await;
            let took = started.elapsed();
            assert_eq!(way.pods().await, pods, "each Pod once");
            took
        });
        Self { pods, took }
    }

    pub fn rate(&self) -> f64 {
        self.pods as f64 / self.took.as_secs_f64()
    }
}

/// Creates all of them; an answer that is not 201 ends the benchmark.
pub async fn post(way: &Way, path: &'static str, bodies: Vec<String>, clients: usize) {
    let (bodies, next) = (Arc::new(bodies), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let (way, bodies, next) = (way.clone(), Arc::clone(&bodies), Arc::clone(&next));
            tokio::spawn(async move {
                while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let answer = way.post(path, body.clone()).send().await.expect("an answer");
                    let code = answer.status();
                    let text = answer.bytes().await.expect("the answer's body");
                    assert_eq!(code, 201, "{}", String::from_utf8_lossy(&text));
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client");
    }
}

/// The Pod as it was sent.
pub fn plain(pod: &Value) -> Value {
    let mut pod = pod.clone();
    for path in ADDED {
        let (parent, key) = path.rsplit_once('/').expect("a path");
        let parent = pod.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
        parent.remove(key);
    }
    pod
}

/// Its copies, each of another job and with another name.
pub fn bodies(pod: &Value, copies: usize) -> Vec<String> {
    let text = pod.to_string();
    let name = pod["metadata"]["name"].as_str().expect("a name");
    assert!(text.contains(&source::id(0)), "the Pod is the first job's");
    (0..copies)
        .map(|number| {
            let other = format!("{}{number:05}", &name[..name.len() - 5]);
            text.replace(name, &other).replace(&source::id(0), &source::id(number))
        })
        .collect()
}
