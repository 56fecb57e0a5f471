//! The cursor comes from a file that the transfer owns: whatever it puts there, the supervisor reads a plain file of the transfer's or
//! nothing.

use super::worker::{Worker, ending};
use crate::env::wrong_ledger::{Asked, KEY, Reply, WrongLedger};
use serde_json::{Value, json};

/// The script finds its configuration in `$0`, and its cursor in `$2`.
fn ended(script: &str) -> (Worker, Value) {
    let ledger = WrongLedger::start(|asked: &Asked| {
        let key: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
        let cursor = json!({"generation": 4, "diff": "in: {last_record: [1]}\n"});
        let grant =
            json!({"answer": "granted", "key": key, "report_every_ms": 100, "embulk_config": {}, "cursor": cursor});
        if asked.is_grant() { Reply::Well(grant) } else { Reply::go_on() }
    });
    let mut worker = Worker::start(&ledger.url, script, &[]);
    assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
    let asked = ledger.asked();
    let nonce = asked[0].body["nonce"].as_str().unwrap();
    assert!(!worker.text("stdout").contains(nonce), "the transfer sees the nonce among its arguments");
    (worker, ending(&asked))
}

#[test]
fn what_the_transfer_writes_there_travels_with_its_success() {
    let (worker, ending) = ended("echo $0 $2; cat $2; echo 'in: {last_record: [2]}' >$2");
    assert!(worker.text("stdout").contains("last_record: [1]"));
    assert_eq!(ending["cursor"], json!({"from_generation": 4, "diff": "in: {last_record: [2]}\n"}));
}

#[test]
fn a_pipe_a_link_and_what_never_ends_are_no_cursor() {
    for put in
        ["mkfifo $2", "ln -s /etc/passwd $2", "ln -s /dev/zero $2", "mkdir $2", ":", "head -c 70000 /dev/zero >$2"]
    {
        let (_, ending) = ended(&format!("rm $2; {put}"));
        assert_eq!((&ending["outcome"]["kind"], &ending["cursor"]), (&json!("succeeded"), &Value::Null), "{put}");
        let evidence = ending["verdict"]["evidence"].to_string();
        assert!(evidence.contains("config diff"), "{put}: {evidence}");
    }
}
