//! One message, while nothing else is to be done: from before the request to SQS until the Pod is there.

use crate::{env::kubernetes::Cluster, plane::LIMIT, program::Program, source, spike::Surroundings};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config,
    api::{WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

const MESSAGES: usize = 200;
/// Before them: connections are made, plans are prepared, ElasticMQ is warm.
const FIRST: usize = 20;
/// Between two: what the last one has left to be done is done by then. Not a divisor of anybody's timer.
const PAUSE: Duration = Duration::from_millis(137);
const GOALS: [&str; 2] = ["≤ 50 ms", "≤ 200 ms"];

/// How long it took, and where it went.
pub struct Times {
    whole: Vec<f64>,
    /// By the ledger's columns and our clock, which is the same machine's.
    parts: [(&'static str, Vec<f64>); 3],
}

impl Times {
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} messages one after the other, a long poll open, an idle dispatcher. The parts are whole milliseconds of the ledger's columns.\n\n\
             | | p50 | p99 |\n| --- | --- | --- |\n",
            self.whole.len()
        );
        for (name, times) in &self.parts {
            text.push_str(&format!("| {name} | {:.0} ms | {:.0} ms |\n", at(times, 50), at(times, 99)));
        }
        let [middle, late] = GOALS;
        text.push_str(&format!(
            "| **SQS send to Pod seen** | {:.1} ms | {:.1} ms |\n",
            at(&self.whole, 50),
            at(&self.whole, 99)
        ));
        text.push_str(&format!("| goal | {middle} | {late} |\n"));
        text
    }
}

fn at(times: &[f64], share: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * share / 100]
}

pub fn run(surroundings: &Surroundings) -> Times {
    let cluster = Cluster::without_scheduler();
    let namespace = cluster.namespace();
    let kubeconfig = namespace.dispatcher();
    let (ledger, queue) = (surroundings.ledger(), source::queue());
    let program = Program::start(&queue, &ledger.url, &kubeconfig, &namespace.name, 1_000_000);
    surroundings.runtime.block_on(async {
        let admin = Kubeconfig::read_from(cluster.admin()).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(admin, &KubeConfigOptions::default()).await.expect("a config");
        let pods: Api<Pod> = Api::namespaced(Client::try_from(config).expect("a client"), &namespace.name);
        let (saw, mut seen) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let params = WatchParams::default().timeout(290);
            let mut events = pods.watch(&params, "0").await.expect("a watch").boxed();
            while let Some(event) = events.try_next().await.expect("an event") {
                if let WatchEvent::Added(pod) = event {
                    let env = pod.spec.expect("a spec").containers.swap_remove(0).env.expect("an environment");
                    let job = env.into_iter().find(|one| one.name == "SENDO_JOB").and_then(|one| one.value);
                    let _ = saw.send((job.expect("a job's id"), Instant::now(), millis())); // nobody waits for the last
                }
            }
        });
        let sender = source::client();
        let (mut whole, mut parts) = (Vec::new(), [vec![], vec![], vec![]]);
        for number in 0..FIRST + MESSAGES {
            let id = source::id(number);
            let body = source::body(&id, number);
            let (asked, asked_ms) = (Instant::now(), millis());
            sender.send_message().queue_url(&queue.url).message_body(body).send().await.expect("sent");
            let found = tokio::time::timeout(LIMIT, seen.recv()).await;
            let (job, at, at_ms) = found.unwrap_or_else(|_| panic!("no Pod: {}", program.log())).expect("a watch");
            assert_eq!(job, id, "one after the other, each once");
            tokio::time::sleep(PAUSE).await;
            if number < FIRST {
                continue;
            }
            whole.push((at - asked).as_secs_f64() * 1e3);
            let column = |column: &str| {
                format!("SELECT {column} FROM jobs j JOIN attempts a ON a.job_id = j.id WHERE j.id = '{id}'")
            };
            let received = ledger.count(&column("received_at_ms")).await;
            let launching = ledger.count(&column("launching_at_ms")).await;
            let times = [received - asked_ms, launching - received, at_ms - launching];
            for (part, time) in parts.iter_mut().zip(times) {
                part.push(time as f64);
            }
        }
        assert!(seen.try_recv().is_err(), "each job has one Pod");
        let [received, admitted, created] = parts;
        Times {
            whole,
            parts: [
                ("send until it is being written to the ledger", received),
                ("from there until its attempt is being written", admitted),
                ("from there until its Pod is seen", created),
            ],
        }
    })
}

fn millis() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("before the end of time")
}
