//! What is said of a queue before the first message is read, and when it is not as it was.

use super::served::{Served, ask, configure, serve, verb, waiting};
use crate::env::{
    self,
    elasticmq::{Depth, EMPTY, elasticmq},
    sqs_proxy::{Fate, Proxy},
    stderr, wait_for,
};
use serde_json::json;
use std::{fs, process::Child};

/// One that ends with the test, if it has not ended by itself as it should.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A `sendo serve` that is to fail at its start; gives back what it says.
#[track_caller]
fn refused(queue: &str, more: &str) -> String {
    let home = env::scratch();
    configure(home.path(), queue, &elasticmq().endpoint(), more);
    let said = home.path().join("said");
    let mut serve = Serving(serve(home.path()).stderr(fs::File::create(&said).unwrap()).spawn().unwrap());
    let status = wait_for("sendo serve to end", || serve.0.try_wait().unwrap());
    let said = fs::read_to_string(said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

#[test]
fn a_queue_without_a_redrive_policy_is_read_only_where_refusals_are_deleted() {
    let mq = elasticmq();
    let queue = mq.queue_without_redrive();
    let said = refused(&queue.url, "");
    for part in [&queue.url, "no redrive policy", "dead-letter queue", "reject = \"delete\""] {
        assert!(said.contains(part), "{part} in {said}");
    }
    mq.send(&queue.url, "nonsense");
    mq.send(&queue.url, &waiting("a").to_string());
    let served = Served::start(&queue.url, "reject = \"delete\"");
    served.wait_jobs(1);
    mq.wait_depth(&queue.url, EMPTY);
    assert_eq!(served.sql("SELECT COUNT(*) AS n FROM refusals")[0]["n"], 1);
}

#[test]
fn a_queue_that_does_not_exist_is_named() {
    let url = format!("{}/000000000000/nowhere", elasticmq().endpoint());
    let said = refused(&url, "");
    assert!(said.contains(&url) && said.contains("NonExistentQueue") || said.contains("QueueDoesNotExist"), "{said}");
}

#[test]
fn settings_of_a_queue_that_make_no_sense_are_told_before_anything_starts() {
    let url = format!("{}/000000000000/nowhere", elasticmq().endpoint());
    for (url, more, part) in [
        ("jobs", "", "looks like https://sqs."),
        (url.as_str(), "pollers = 0", "pollers"),
        (&url, "reject = \"drop\"", "`drop` is neither redrive nor delete"),
        (&url, "polers = 1", "did you mean `pollers`?"),
    ] {
        let said = refused(url, more);
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn without_a_region_the_start_says_where_one_may_stand() {
    let home = env::scratch();
    configure(home.path(), "http://127.0.0.1:9/000000000000/jobs", "http://127.0.0.1:9", "");
    let mut command = verb("http://127.0.0.1:9");
    command.env_remove("AWS_REGION").args(["serve", "--config"]).arg(home.path().join("sendo.toml"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("AWS_REGION"), "{}", stderr(&output));
}

#[test]
fn a_queue_that_cannot_be_reached_stops_nobody_and_is_read_once_it_can() {
    let (mq, proxy) = (elasticmq(), Proxy::start());
    let queue = mq.queue("", 30, 5);
    mq.send(&queue.url, &waiting("a").to_string());
    proxy.rule("GetQueueAttributes", Fate::Unavailable, u32::MAX);
    let served = Served::start_at(&queue.url, &proxy.endpoint, "pollers = 1");
    served.wait_log("cannot be looked at");
    let output = served.run(&["jobs", "--json"]);
    assert!(output.status.success(), "the control: the server answers: {}", stderr(&output));
    let file = served.home.path().join("job.json");
    fs::write(&file, waiting("by-http").to_string()).unwrap();
    assert!(served.run(&["submit", file.to_str().unwrap()]).status.success());
    assert_eq!(proxy.seen("ReceiveMessage", Fate::Pass), 0, "nothing is read of a queue that nobody has looked at");
    proxy.rule("GetQueueAttributes", Fate::Pass, 0);
    wait_for("both jobs", || (served.jobs() == ["a", "by-http"]).then_some(()));
    mq.wait_depth(&queue.url, EMPTY);
}

#[test]
fn a_queue_that_loses_its_redrive_policy_is_not_read_until_it_has_one_again() {
    let (mq, proxy) = (elasticmq(), Proxy::start());
    let queue = mq.queue("", 1, 2);
    let (url, dead) = (&queue.url, queue.dead.as_ref().unwrap());
    let served = Served::start_at(url, &proxy.endpoint, "pollers = 1");
    mq.send(url, &waiting("before").to_string());
    served.wait_jobs(1);
    mq.wait_depth(url, EMPTY);
    // ElasticMQ takes no policy away: the queue goes, and comes back without one.
    let policy = ask("GetQueueAttributes", &json!({"QueueUrl": url, "AttributeNames": ["RedrivePolicy"]}));
    ask("DeleteQueue", &json!({"QueueUrl": url}));
    let name = url.rsplit('/').next().unwrap();
    ask("CreateQueue", &json!({"QueueName": name, "Attributes": {"VisibilityTimeout": "1"}}));
    mq.send(url, "nonsense");
    for part in ["the queue is not read", "no redrive policy", "give the queue a dead-letter queue"] {
        served.wait_log(part);
    }
    let seen = |action| proxy.seen(action, Fate::Pass);
    let (received, looks) = (seen("ReceiveMessage"), seen("GetQueueAttributes"));
    mq.send(url, &waiting("after").to_string());
    wait_for("more looks", || (seen("GetQueueAttributes") >= looks + 3).then_some(()));
    assert_eq!((seen("ReceiveMessage"), served.jobs()), (received, vec!["before".to_owned()]));
    ask("SetQueueAttributes", &json!({"QueueUrl": url, "Attributes": policy["Attributes"]}));
    assert_eq!(served.wait_jobs(2), ["after", "before"]);
    mq.wait_depth(dead, Depth { visible: 1, in_flight: 0 });
    mq.wait_depth(url, EMPTY);
}
