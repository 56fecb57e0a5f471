//! FIFO queues, message groups, and groups on standard queues.

use super::served::{Served, waiting};
use crate::env::{
    elasticmq::{Depth, EMPTY, elasticmq},
    stderr,
};
use serde_json::json;

#[test]
fn a_fifo_queue_comes_in_by_its_groups_in_their_order() {
    let mq = elasticmq();
    let queue = mq.queue(".fifo", 30, 5);
    for number in 0..30 {
        let id = format!("job-{number:02}");
        let group = format!("group-{}", number % 3);
        mq.send_with(&queue.url, &waiting(&id).to_string(), &[], Some(&group), Some(&id));
    }
    let served = Served::start(&queue.url, "");
    served.wait_jobs(30);
    mq.wait_depth(&queue.url, EMPTY);
    for group in 0..3 {
        let rows = served.sql(&format!(
            "SELECT id, received_at_ms FROM jobs WHERE CAST(substr(id, 5) AS INTEGER) % 3 = {group} ORDER BY id"
        ));
        let received: Vec<_> = rows.iter().map(|row| row["received_at_ms"].as_i64().unwrap()).collect();
        assert_eq!(received.len(), 10);
        assert!(received.is_sorted(), "{received:?}");
    }
}

#[test]
fn a_refused_message_holds_up_its_own_group_and_no_longer_than_its_redrive() {
    let mq = elasticmq();
    let queue = mq.queue(".fifo", 1, 2);
    mq.send_with(&queue.url, "nonsense", &[], Some("sick"), Some("1"));
    let served = Served::start(&queue.url, "");
    mq.send_with(&queue.url, &waiting("behind").to_string(), &[], Some("sick"), Some("2"));
    mq.send_with(&queue.url, &waiting("beside").to_string(), &[], Some("well"), Some("3"));
    assert_eq!(served.wait_jobs(2), ["behind", "beside"]);
    mq.wait_depth(&queue.url, EMPTY);
    // On its way from the one to the other it is in neither.
    mq.wait_depth(queue.dead.as_ref().unwrap(), Depth { visible: 1, in_flight: 0 });
}

#[test]
fn submit_groups_by_tenant_and_deduplicates_by_content() {
    let mq = elasticmq();
    for suffix in ["", ".fifo"] {
        let queue = mq.queue(suffix, 30, 5);
        let home = crate::env::scratch();
        let send = |name: &str, job: &serde_json::Value| {
            let file = home.path().join(name);
            std::fs::write(&file, job.to_string()).unwrap();
            let mut command = super::served::verb(&mq.endpoint());
            let output = command.args(["submit", "--queue", &queue.url]).arg(&file).output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
        };
        let mut owned = waiting("owned");
        owned["tenant"] = json!("acme");
        send("owned.json", &owned);
        send("again.json", &owned);
        owned["command"] = json!(["false"]);
        send("other.json", &owned);
        send("nobodys.json", &waiting("nobodys"));
        let groups: Vec<_> =
            mq.drain(&queue.url).iter().map(|sent| sent["attributes"]["MessageGroupId"].clone()).collect();
        // The same content twice is one on a FIFO queue; another content under the same id is the intake's to refuse.
        let expected = match suffix {
            ".fifo" => vec![json!("acme"), json!("acme"), json!("nobodys")],
            _ => vec![json!("acme"), json!("acme"), json!("acme"), json!(null)],
        };
        let sorted = |mut groups: Vec<serde_json::Value>| {
            groups.sort_by_key(ToString::to_string);
            groups
        };
        assert_eq!(sorted(groups), sorted(expected), "{suffix}");
    }
}
