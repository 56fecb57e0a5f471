//! The verbs for people: send, look into a dead-letter queue, send back, and see what was refused.

use super::served::{Served, verb, waiting};
use crate::env::{
    elasticmq::{Depth, EMPTY, elasticmq},
    sqs_proxy::{Fate, Proxy},
    stderr, stdout, wait_for,
};
use serde_json::{Value, json};

#[test]
fn submit_checks_all_before_it_sends_any_and_says_what_became_of_each() {
    let mq = elasticmq();
    let queue = mq.queue("", 30, 5);
    let home = crate::env::scratch();
    let file = |name: &str, text: &str| {
        let file = home.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let submit = |files: &[String]| {
        let mut command = verb(&mq.endpoint());
        command.args(["submit", "--json", "--queue", &queue.url]).args(files).output().unwrap()
    };
    let good: Vec<_> = (0..12)
        .map(|number| file(&format!("{number}.json"), &waiting(&format!("job-{number:02}")).to_string()))
        .collect();
    let bad = file("bad.json", r#"{"version": 1, "id": "bad"}"#);
    let refused = submit(&[good.clone(), vec![bad]].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("bad.json") && stderr(&refused).contains("nothing to run"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(mq.depth(&queue.url), EMPTY, "not one was sent");
    let sent = submit(&good);
    assert_eq!(sent.status.code(), Some(0), "{}", stderr(&sent));
    let said: Value = serde_json::from_slice(&sent.stdout).unwrap();
    assert_eq!(said.as_array().unwrap().len(), 12);
    assert!(said[11]["id"] == "job-11" && said[11]["message_id"].is_string(), "{said}");
    assert_eq!(mq.depth(&queue.url).visible, 12);
    let served = Served::start(&queue.url, "");
    served.wait_jobs(12);
}

#[test]
fn the_dead_letter_queue_is_listed_with_reasons_and_sent_back() {
    let mq = elasticmq();
    let queue = mq.queue("", 1, 1);
    let dead = queue.dead.clone().unwrap();
    let served = Served::start(&queue.url, "");
    let id = mq.send(&queue.url, "{\"version\": 9,\n \"id\": \"future\"}");
    mq.wait_depth(&dead, Depth { visible: 1, in_flight: 0 });
    for which in [vec![dead.as_str()], vec!["--queue", &queue.url]] {
        let listed = served.json(&[vec!["dlq", "list"], which].concat());
        assert_eq!(listed.as_array().unwrap().len(), 1);
        assert_eq!((&listed[0]["message_id"], &listed[0]["job_id"]), (&json!(id), &json!("future")));
        assert_eq!(listed[0]["first_line"], "{\"version\": 9,");
        assert!(listed[0]["reason"].as_str().unwrap().contains("not spoken by this release"), "{listed}");
        assert_eq!(mq.depth(&dead), Depth { visible: 1, in_flight: 0 }, "a look takes nothing away");
    }
    let table = stdout(&served.run(&["dlq", "list", &dead]));
    assert!(table.contains("REASON") && table.contains(&id), "{table}");
    let dry = served.run(&["dlq", "replay", "--dry-run", &dead]);
    assert!(stdout(&dry).contains("1 messages"), "{}", stdout(&dry));
    assert_eq!(mq.depth(&dead).visible, 1);
    let times = || served.sql("SELECT times FROM refusals")[0]["times"].as_i64().unwrap();
    assert_eq!(times(), 1);
    let replayed = served.run(&["dlq", "replay", &dead]);
    assert_eq!(replayed.status.code(), Some(0), "{}", stderr(&replayed));
    wait_for("it to be refused again", || (times() == 2).then_some(()));
}

#[test]
fn a_replay_goes_by_hand_where_the_endpoint_has_no_move_of_its_own() {
    let (mq, proxy) = (elasticmq(), Proxy::start());
    for suffix in ["", ".fifo"] {
        let queue = mq.queue(suffix, 600, 1);
        let dead = queue.dead.clone().unwrap();
        let group = (suffix == ".fifo").then_some("g");
        for number in 0..12 {
            let body = waiting(&format!("job-{number:02}")).to_string();
            mq.send_with(
                &dead,
                &body,
                &[("traceparent", "x")],
                group,
                group.map(|_| body.as_str()).map(|_| &*Box::leak(number.to_string().into_boxed_str())),
            );
        }
        proxy.rule("StartMessageMoveTask", Fate::Unsupported, 1);
        let mut command = verb(&proxy.endpoint);
        let replayed = command.args(["dlq", "replay", "--json", &dead]).output().unwrap();
        assert_eq!(replayed.status.code(), Some(0), "{}", stderr(&replayed));
        let said: Value = serde_json::from_slice(&replayed.stdout).unwrap();
        assert_eq!(
            (&said["messages"], &said["to"], &said["under_way"]),
            (&json!(12), &json!(queue.url), &json!(false))
        );
        assert_eq!((mq.depth(&dead), mq.depth(&queue.url).visible), (EMPTY, 12), "{suffix}");
    }
    assert_eq!(proxy.seen("StartMessageMoveTask", Fate::Unsupported), 2);
}

#[test]
fn what_was_refused_is_listed_the_latest_first() {
    let mq = elasticmq();
    let queue = mq.queue("", 600, 5);
    let served = Served::start(&queue.url, "");
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(mq.send(&queue.url, &format!("nonsense {number}")));
        wait_for("the refusal", || {
            (served.json(&["jobs", "--refused"])["refusals"].as_array()?.len() > number).then_some(())
        });
    }
    let page = served.json(&["jobs", "--refused", "--limit", "2"]);
    assert_eq!((page["refusals"].as_array().unwrap().len(), &page["more"]), (2, &json!(true)));
    let listed: Vec<_> =
        page["refusals"].as_array().unwrap().iter().map(|refusal| refusal["message_id"].clone()).collect();
    assert_eq!(listed, [json!(ids[2]), json!(ids[1])]);
    let table = served.run(&["jobs", "--refused"]);
    let text = stdout(&table);
    let name = queue.url.rsplit('/').next().unwrap();
    for part in ["LAST", "QUEUE", "REASON", "is not JSON", name, &ids[0]] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(served.run(&["jobs", "--refused", "--phase", "queued"]).status.code(), Some(2));
}
