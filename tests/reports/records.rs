//! Records survive a ledger that is not well, and the transfer does not notice.

use super::worker::{READY, Worker, ending};
use crate::env::{
    self, wait_for,
    wrong_ledger::{Asked, KEY, Reply, WrongLedger},
};
use nix::sys::signal::Signal;
use sendo::record::{outcome::Outcome, phase::Phase};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};

/// The records as the ledger has them in the end, after it was seen that none came in another form or out of order.
#[track_caller]
fn delivered(asked: &[Asked]) -> Vec<Value> {
    let batches = || asked.iter().filter(|asked| !asked.is_grant());
    let nonce = &asked.iter().find(|asked| asked.is_grant()).unwrap().body["nonce"];
    let mut contents = BTreeMap::new();
    for asked in batches() {
        assert_eq!(&asked.body["source"], nonce, "the grant's source");
        let seqs: Vec<u64> = asked.records().iter().map(|record| record["seq"].as_u64().unwrap()).collect();
        assert!(!seqs.is_empty() && seqs.is_sorted_by(|one, next| one < next), "{seqs:?}");
        for (seq, record) in seqs.iter().zip(asked.records()) {
            assert_eq!(contents.entry(*seq).or_insert_with(|| record.clone()), record, "one content a number");
        }
    }
    let mut taken: Vec<Value> = vec![];
    for record in batches().filter(|asked| asked.taken).flat_map(Asked::records) {
        let last = taken.last().map_or(0, |last| last["seq"].as_u64().unwrap());
        if record["seq"].as_u64().unwrap() > last {
            taken.push(record.clone());
        } else {
            assert!(taken.contains(record), "{record} came after {last}");
        }
    }
    let readings = taken.iter().filter(|record| record["record"] == "usage");
    assert!(readings.is_sorted_by_key(|record| record["at"].as_i64().unwrap()), "{taken:#?}");
    taken
}

/// The records without the readings, by name.
fn story(records: &[Value]) -> Vec<String> {
    let told = records.iter().filter(|record| record["record"] != "usage");
    told.map(|record| record["phase"].as_str().or(record["record"].as_str()).unwrap().to_owned()).collect()
}

/// The ledger answers the first batches like this, and the transfer's end comes in the middle of it.
#[track_caller]
fn arrives_after(answers: Vec<Reply>) {
    let (wrong, mut answers) = (answers.len(), answers.into_iter());
    let ledger = WrongLedger::start(move |asked| {
        let next = if asked.is_grant() { None } else { answers.next() };
        next.unwrap_or_else(|| Reply::to(asked))
    });
    let mut worker = Worker::start(&ledger.url, &format!("{READY}; echo went on; exit 3"), &[]);
    ledger.wait("the first report", |asked| asked.brings("phase"));
    worker.says("ready");
    worker.open();
    assert_eq!(worker.end(), Some(3), "{}", worker.text("stderr"));
    let asked = ledger.asked();
    assert_eq!(story(&delivered(&asked)), ["executing", "ending"]);
    assert_eq!(ending(&asked)["outcome"], json!({"kind": "failed", "exit_code": 3}));
    assert!(asked.iter().filter(|asked| !asked.is_grant()).take(wrong).all(|asked| !asked.taken));
    assert_eq!(worker.text("stdout"), "ready\nwent on\n");
}

#[test]
fn errors_and_refused_tokens_lose_nothing() {
    arrives_after(vec![Reply::Wrong(500, "", "?"), Reply::Wrong(401, "", ""), Reply::Wrong(409, "", "{}")]);
}

#[test]
fn too_many_requests_redirects_and_noise_lose_nothing() {
    let location = "location: /v1/elsewhere";
    arrives_after(vec![Reply::Wrong(429, "retry-after: 1", ""), Reply::Wrong(308, location, ""), Reply::Noise]);
}

#[test]
fn garbage_and_half_an_answer_lose_nothing() {
    let receipt = json!({"directive": "superseded", "report_every_ms": 100});
    let garbage = Reply::Wrong(200, "", r#"{"directive": "explode"}"#);
    arrives_after(vec![Reply::Wrong(200, "", "OK"), garbage, Reply::CutShort(receipt)]);
}

#[test]
fn numbers_out_of_all_bounds_harm_nothing() {
    let huge =
        r#"{"directive": "continue", "report_every_ms": 18446744073709551615, "stop_within_ms": 9223372036854775807}"#;
    let ledger = WrongLedger::start(move |asked| match (asked.is_grant(), asked.nth) {
        (true, _) => Reply::granted(),
        (false, 0) => Reply::Wrong(503, "retry-after: x", ""),
        (false, 1) => Reply::Well(serde_json::from_str(huge).unwrap()),
        (false, _) => Reply::go_on(),
    });
    let mut worker = Worker::start(&ledger.url, READY, &[]);
    // A time to stop by, however far, begins a drain.
    ledger.wait("the drain", |asked| asked.records().iter().any(|record| record["phase"] == "stopping"));
    worker.open();
    assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
    assert_eq!(story(&delivered(&ledger.asked())), ["executing", "stopping", "ending"]);
}

#[test]
fn a_batch_that_is_refused_for_its_readings_arrives_without_them() {
    let ledger = WrongLedger::start(|asked| {
        if asked.brings("usage") { Reply::Wrong(422, "", "no such field") } else { Reply::to(asked) }
    });
    let mut worker = Worker::start(&ledger.url, READY, &[]);
    ledger.wait("a reading", |asked| asked.brings("usage"));
    worker.open();
    assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
    let asked = ledger.asked();
    assert_eq!(story(&delivered(&asked)), ["executing", "ending"]);
    assert!(asked.iter().all(|asked| !asked.brings("usage") || !asked.taken));
}

#[test]
fn a_silent_ledger_holds_nothing_up() {
    let ledger = WrongLedger::start(|asked| if asked.is_grant() { Reply::granted() } else { Reply::Silence });
    let script = r#"trap 'echo usr1' USR1; trap 'echo asked; exit 7' TERM
        sh -c 'sh -c "trap : USR1; echo orphan \$\$; until [ -e gate ]; do sleep 0.05; done" &'
        echo ready; until false; do sleep 0.05; done"#;
    let mut worker = Worker::start(&ledger.url, script, &[("SENDO_ON_TERM", "stop"), ("SENDO_LINGER", "1s")]);
    ledger.wait("the report that gets no answer", |asked| !asked.is_grant());
    worker.says("ready");
    let orphan = worker.says("orphan ");
    env::kill(worker.pid(), Signal::SIGUSR1);
    worker.says("usr1");
    worker.open();
    wait_for("the orphan to be reaped", || (!Path::new("/proc").join(&orphan).exists()).then_some(()));
    env::kill(worker.pid(), Signal::SIGTERM);
    assert_eq!(worker.end(), Some(7), "{}", worker.text("stderr"));
    assert!(
        worker.text("stdout").ends_with("asked\n")
            && ledger.asked().iter().all(|asked| asked.is_grant() || !asked.taken)
    );
    assert_eq!(worker.last_word().unwrap().ending.unwrap().outcome, Outcome::Drained);
}

#[test]
fn a_ledger_gone_for_good_finds_the_signed_ending_in_the_termination_log() {
    let ledger = WrongLedger::start(Reply::to);
    let script = format!("{READY}; echo the last line; exit 3");
    let mut worker = Worker::start(&ledger.url, &script, &[("SENDO_LINGER", "1s")]);
    ledger.wait("the report", |asked| asked.brings("phase"));
    ledger.leave();
    worker.open();
    assert_eq!(worker.end(), Some(3), "{}", worker.text("stderr"));
    assert!(ledger.asked().iter().all(|asked| !asked.brings("ending")));
    let word = worker.last_word().expect("a signed word");
    let grant = &ledger.asked()[0].body;
    assert_eq!((word.id.job.as_str(), word.id.attempt), ("a", 1));
    // Everybody in the container may read the file; with the nonce the ledger would give them the key.
    assert!(!worker.text("word").contains(grant["nonce"].as_str().unwrap()));
    let ending = word.ending.unwrap();
    assert_eq!((ending.outcome, ending.exit_code), (Outcome::Failed { exit_code: 3 }, Some(3)));
    assert_eq!(ending.last_lines.last().map(String::as_str), Some("the last line"));
    // The control: under another key it is no word at all.
    let mut other = KEY;
    other[0] ^= 1;
    assert!(worker.word_under(&other).is_none());
}

#[test]
fn asked_to_go_while_it_lingers_it_goes() {
    let ledger = WrongLedger::start(|asked| if asked.is_grant() { Reply::granted() } else { Reply::Silence });
    let mut worker = Worker::start(&ledger.url, "exit 3", &[("SENDO_LINGER", "1h")]);
    wait_for("the ending", || worker.last_word()?.ending);
    env::kill(worker.pid(), Signal::SIGTERM);
    assert_eq!(worker.end(), Some(3), "{}", worker.text("stderr"));
}

#[test]
fn a_supervisor_that_is_killed_leaves_the_story_so_far() {
    let ledger = WrongLedger::start(|asked| if asked.is_grant() { Reply::granted() } else { Reply::Silence });
    let mut worker = Worker::start(&ledger.url, READY, &[]);
    let executing = |worker: &Worker| worker.last_word().is_some_and(|word| word.phase == Phase::Executing);
    wait_for("the first word", || executing(&worker).then_some(()));
    env::kill(worker.pid(), Signal::SIGKILL);
    assert_eq!(worker.end(), None);
    let word = worker.last_word().expect("a signed word");
    assert!(word.usage.is_some() && word.ending.is_none());
}

#[test]
fn a_request_that_hangs_does_not_keep_the_ending() {
    let ledger = WrongLedger::start(|asked| match (asked.is_grant(), asked.nth) {
        (false, 0) => Reply::Silence,
        _ => Reply::to(asked),
    });
    let mut worker = Worker::start(&ledger.url, READY, &[("SENDO_LINGER", "5s")]);
    ledger.wait("the report that gets no answer", |asked| !asked.is_grant());
    worker.open();
    assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
    assert_eq!(story(&delivered(&ledger.asked())), ["executing", "ending"]);
}

#[test]
fn asked_to_go_while_leftovers_end_it_goes() {
    let ledger = WrongLedger::start(|asked| if asked.is_grant() { Reply::granted() } else { Reply::Silence });
    let script = r#"sh -c 'trap "" TERM; echo left; until false; do sleep 0.05; done' & echo pid $$; until [ -e gate ]; do sleep 0.05; done; exit 3"#;
    let mut worker = Worker::start(&ledger.url, script, &[("SENDO_LINGER", "1h")]);
    worker.says("left");
    let transfer: i32 = worker.says("pid ").parse().unwrap();
    worker.open();
    wait_for("the transfer's end", || (!env::is_alive(transfer)).then_some(()));
    env::kill(worker.pid(), Signal::SIGTERM);
    assert_eq!(worker.end(), Some(3), "{}", worker.text("stderr"));
}
