//! One message, until its transfer runs on the real kubelet, in the worker image, and with the scheduler there.

use crate::{
    env::kubernetes::{cluster, node},
    plane::{LIMIT, at, changes, millis},
    program::{Program, Site},
    source,
    spike::Surroundings,
};
use serde_json::json;
use std::time::{Duration, Instant};

const MESSAGES: usize = 20;
/// Before them: the image is unpacked, connections are made.
const FIRST: usize = 2;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The last is the whole.
const PARTS: [&str; 7] = [
    "send until it is being written to the ledger",
    "from there until its attempt is being written",
    "from there until its Pod is seen",
    "from there until the scheduler has bound it",
    "from there until its supervisor has leave: the kubelet, containerd, runc, the supervisor's start",
    "from there until the transfer is spawned",
    "**SQS send to transfer spawned**",
];

/// Milliseconds of each part, a row for each message.
pub struct Times(Vec<[i64; 7]>);

impl Times {
    pub fn table(&self) -> String {
        let mut text = format!(
            "\n{} messages one after the other whose transfer is `true`; the node's kubelet, containerd and runc are real, and its image is there already. \
             Goal: as measured, with the parts named.\n\n| | p50 | p99 |\n| --- | --- | --- |\n",
            self.0.len()
        );
        for (part, name) in PARTS.iter().enumerate() {
            let times: Vec<f64> = self.0.iter().map(|times| times[part] as f64).collect();
            text.push_str(&format!("| {name} | {:.0} ms | {:.0} ms |\n", at(&times, 50), at(&times, 99)));
        }
        text
    }
}

pub fn run(surroundings: &Surroundings) -> Times {
    let node = node::real();
    let namespace = node.namespace.beside();
    let (ledger, queue) = (surroundings.ledger(), source::queue());
    let site = Site::real(node, &namespace);
    let program = Program::start(&queue, &ledger.url, &site, 100);
    surroundings.runtime.block_on(async {
        let mut pods = changes(cluster(), &namespace.name).await;
        let sender = source::client();
        let mut all = Vec::new();
        for number in 0..FIRST + MESSAGES {
            let id = format!("true-{number}");
            let body =
                json!({"version": 1, "id": id, "command": ["true"], "resources": {"cpu": "100m", "memory": "64Mi"}});
            let sent = millis();
            sender.send_message().queue_url(&queue.url).message_body(body.to_string()).send().await.expect("sent");
            let (mut seen, mut bound) = (None, None);
            while bound.is_none() {
                let change = tokio::time::timeout(LIMIT, pods.recv()).await;
                let change = change.unwrap_or_else(|_| panic!("no bound Pod: {}", program.log())).expect("a watch");
                if change.job == id {
                    seen = seen.or(Some(change.at_ms));
                    bound = change.pod.spec.and_then(|spec| spec.node_name).map(|_| change.at_ms);
                }
            }
            let until = Instant::now() + LIMIT;
            let ended = format!("SELECT COUNT(*) FROM jobs WHERE id = '{id}' AND phase = 'succeeded'");
            while ledger.count(&ended).await == 0 {
                assert!(Instant::now() < until, "{id} has not succeeded: {}", program.log());
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let column = async |column: &str| {
                let from = "FROM jobs j JOIN attempts a ON a.job_id = j.id";
                ledger.count(&format!("SELECT {column} {from} WHERE j.id = '{id}'")).await
            };
            let moments = [
                sent,
                column("received_at_ms").await,
                column("launching_at_ms").await,
                seen.expect("it was seen"),
                bound.expect("it was bound"),
                column("granted_at_ms").await,
                column("executing_at_ms").await,
            ];
            let parts = std::array::from_fn(|part| match moments.get(part + 1) {
                Some(end) => end - moments[part],
                None => moments[part] - sent,
            });
            if number >= FIRST {
                all.push(parts);
            }
        }
        Times(all)
    })
}
