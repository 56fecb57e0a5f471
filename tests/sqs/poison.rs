//! What is no job among what are jobs: the nine go in, the tenth is kept with its reason and goes the queue's own way.

use super::served::{Served, waiting};
use crate::env::{
    elasticmq::{Depth, EMPTY, elasticmq},
    stderr, stdout, wait_for,
};
use serde_json::json;

#[test]
fn nine_good_ones_go_in_beside_each_kind_of_poison() {
    let mq = elasticmq();
    let queue = mq.queue("", 1, 2);
    let url = &queue.url;
    let poison = [
        (r#"{"version": 1, "id": "nul", "command": ["tr\u0000ue"]}"#, "command[0]: holds U+0000"),
        (r#"{"version": 1, "id": "n\u0000l", "command": ["true"]}"#, "id: `n\\u0000l`"),
        (r#"{"version": 1, "id": "lone", "command": ["\ud800"]}"#, "half a character"),
        (r#"{"version": 2, "id": "future", "command": ["true"]}"#, "2 is not spoken by this release"),
        (r#"{"version": 1, "id": "half", "command": ["#, "is not JSON: EOF"),
        (r#"{"version": 1, "id": "misspelt", "comand": ["true"]}"#, "did you mean `command`?"),
        ("[]", "must be a JSON object"),
    ];
    for number in 0..9 {
        mq.send(url, &waiting(&format!("good-{number}")).to_string());
    }
    for (body, _) in poison {
        mq.send(url, body);
    }
    // Not even UTF-8; whether the queue takes it is the queue's business.
    let status =
        mq.send_raw(url, b"{\\\"version\\\": 1, \\\"id\\\": \\\"\xff\xfe\\\", \\\"command\\\": [\\\"true\\\"]}");
    let bytes = usize::from(status == 200);
    let served = Served::start(url, "");
    served.wait_jobs(9);
    let dead = queue.dead.as_ref().unwrap();
    let all = u32::try_from(poison.len() + bytes).unwrap();
    mq.wait_depth(dead, Depth { visible: all, in_flight: 0 });
    mq.wait_depth(url, EMPTY);
    let refusals = served.sql("SELECT * FROM refusals");
    assert_eq!(refusals.len(), poison.len() + bytes);
    for (body, reason) in poison {
        let found = refusals.iter().filter(|row| row["reason"].as_str().unwrap().contains(reason));
        assert_eq!(found.count(), 1, "{body}: {reason} in {refusals:#?}");
    }
    for refusal in &refusals {
        // Once for each time that the queue handed it out, by the queue's own name and number for it.
        assert_eq!((&refusal["times"], &refusal["queue"]), (&json!(2), &json!(url)), "{refusal}");
        assert_eq!(refusal["digest"].as_str().unwrap().len(), 64);
    }
    assert_eq!(served.jobs().len(), 9);
    let letters = mq.drain(dead);
    for letter in &letters {
        assert!(refusals.iter().any(|row| row["message_id"] == letter["id"]), "{letter}");
    }
}

#[test]
fn an_id_that_is_taken_by_another_content_is_refused_and_leaves_the_first() {
    let mq = elasticmq();
    let queue = mq.queue("", 30, 5);
    let served = Served::start(&queue.url, "");
    mq.send(&queue.url, &waiting("a").to_string());
    served.wait_jobs(1);
    let mut other = waiting("a");
    other["command"] = json!(["false"]);
    mq.send(&queue.url, &other.to_string());
    let refusal = wait_for("the refusal", || served.sql("SELECT * FROM refusals").pop());
    assert_eq!(refusal["job_id"], "a");
    assert!(refusal["reason"].as_str().unwrap().contains("another content"), "{refusal}");
    assert_eq!(served.json(&["show", "a"])["spec"]["command"], json!(["true"]));
    mq.wait_depth(&queue.url, Depth { visible: 0, in_flight: 1 });
}

#[test]
fn what_is_refused_is_deleted_only_where_the_settings_say_so() {
    let mq = elasticmq();
    for (more, left) in [("reject = \"delete\"", 0), ("reject = \"redrive\"", 1)] {
        let queue = mq.queue("", 600, 5);
        mq.send(&queue.url, "nonsense");
        mq.send(&queue.url, &waiting("a").to_string());
        let served = Served::start(&queue.url, more);
        served.wait_jobs(1);
        wait_for("the refusal", || served.sql("SELECT * FROM refusals").pop());
        mq.wait_depth(&queue.url, Depth { visible: 0, in_flight: left });
        assert_eq!(mq.depth(queue.dead.as_ref().unwrap()), EMPTY);
    }
}

/// A trigger stands for whatever a database may have against one row.
fn trigger(served: &Served, body: &str) {
    let trigger = format!("CREATE TRIGGER cursed BEFORE INSERT ON jobs WHEN NEW.id = 'cursed' BEGIN {body}; END");
    served.sql(&trigger);
}

/// Ten messages, the sixth of which has the id `cursed`.
fn ten(queue: &str) {
    for number in 0..10 {
        let id = if number == 5 { "cursed".to_owned() } else { format!("job-{number}") };
        elasticmq().send(queue, &waiting(&id).to_string());
    }
}

#[test]
fn one_that_the_ledger_does_not_take_harms_no_other_in_its_batch() {
    let mq = elasticmq();
    let queue = mq.queue("", 1, 2);
    let dead = queue.dead.as_ref().unwrap();
    let served = Served::start(&queue.url, "pollers = 1");
    trigger(&served, "SELECT RAISE(ABORT, 'not this one')");
    ten(&queue.url);
    assert!(!served.wait_jobs(9).contains(&"cursed".into()));
    mq.wait_depth(dead, Depth { visible: 1, in_flight: 0 });
    let refused = stdout(&served.run(&["jobs", "--refused"]));
    for part in ["cursed", "the ledger does not take it", "not this one"] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    // The control: without the trigger it is a job like any other.
    served.sql("DROP TRIGGER cursed");
    let replayed = served.run(&["dlq", "replay", "--yes", dead]);
    assert_eq!(replayed.status.code(), Some(0), "{}", stderr(&replayed));
    assert!(served.wait_jobs(10).contains(&"cursed".into()));
}

#[test]
fn an_error_that_may_be_the_ledgers_own_never_deletes_a_message() {
    let mq = elasticmq();
    let queue = mq.queue("", 2, 100);
    let served = Served::start(&queue.url, "pollers = 1\nreject = \"delete\"");
    // An error without a class that names the value: "malformed JSON".
    trigger(&served, "SELECT json(NEW.id)");
    ten(&queue.url);
    wait_for("the refusal", || served.sql("SELECT * FROM refusals WHERE job_id = 'cursed'").pop());
    assert_eq!(served.wait_jobs(9).len(), 9);
    // The control: where a message is deleted for certain, this one is not; mended, the ledger takes it.
    served.sql("DROP TRIGGER cursed");
    assert!(served.wait_jobs(10).contains(&"cursed".into()));
    mq.wait_depth(&queue.url, EMPTY);
}
