//! One message, while nothing else is to be done: from before the request to SQS until the Pod is there.

use crate::{
    env::kubernetes::Cluster,
    plane::{LIMIT, at, changes, millis},
    program::{Program, Site},
    source,
    spike::Surroundings,
};
use std::time::{Duration, Instant};

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

pub fn run(surroundings: &Surroundings) -> Times {
    let cluster = Cluster::without_scheduler();
    let namespace = cluster.namespace();
    let (ledger, queue) = (surroundings.ledger(), source::queue());
    let program = Program::start(&queue, &ledger.url, &Site::unmanned(&namespace), 1_000_000);
    surroundings.runtime.block_on(async {
        let mut seen = changes(&cluster, &namespace.name).await;
        let sender = source::client();
        let (mut whole, mut parts) = (Vec::new(), [vec![], vec![], vec![]]);
        for number in 0..FIRST + MESSAGES {
            let id = source::id(number);
            let body = source::body(&id, number);
            let (asked, asked_ms) = (Instant::now(), millis());
            sender.send_message().queue_url(&queue.url).message_body(body).send().await.expect("sent");
            let found = tokio::time::timeout(LIMIT, seen.recv()).await;
            let found = found.unwrap_or_else(|_| panic!("no Pod: {}", program.log())).expect("a watch");
            assert_eq!(found.job, id, "one after the other, each once");
            tokio::time::sleep(PAUSE).await;
            if number < FIRST {
                continue;
            }
            whole.push((found.at - asked).as_secs_f64() * 1e3);
            let column = |column: &str| {
                format!("SELECT {column} FROM jobs j JOIN attempts a ON a.job_id = j.id WHERE j.id = '{id}'")
            };
            let received = ledger.count(&column("received_at_ms")).await;
            let launching = ledger.count(&column("launching_at_ms")).await;
            let times = [received - asked_ms, launching - received, found.at_ms - launching];
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
