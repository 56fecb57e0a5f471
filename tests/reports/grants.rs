//! No leave, no start; leave, one start.

use super::worker::Worker;
use crate::env::{
    self,
    wrong_ledger::{Asked, Reply, WrongLedger, grant},
};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;

const ONCE: &str = "echo ran >> ran";

/// The transfer ran once and after all of these answers; each request was the same process's.
#[track_caller]
fn starts_once_after(answers: Vec<Reply>) {
    let (wrong, mut answers) = (answers.len(), answers.into_iter());
    let ledger = WrongLedger::start(move |asked| {
        let next = if asked.is_grant() { answers.next() } else { None };
        next.unwrap_or_else(|| Reply::to(asked))
    });
    let mut worker = Worker::start(&ledger.url, ONCE, &[]);
    assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
    assert_eq!(worker.text("ran"), "ran\n");
    let asked = ledger.asked();
    let grants: Vec<_> = asked.iter().take_while(|asked| asked.is_grant()).collect();
    assert_eq!(grants.len(), wrong + 1, "{asked:#?}");
    assert_eq!(grants.iter().map(|asked| asked.body["nonce"].as_str().unwrap()).collect::<BTreeSet<_>>().len(), 1);
    assert!(grants.iter().all(|asked| asked.body["job"] == "a" && asked.body["attempt"] == 1));
    assert!(grants.iter().all(|asked| asked.path == "/v1/grants" && asked.token == "Bearer first"));
    assert!(asked[grants.len()..].iter().all(|asked| !asked.is_grant()), "asked again after the grant");
}

/// It ended without leave, and nothing ran.
#[track_caller]
fn runs_nothing(worker: &mut Worker, hint: &str) {
    assert_eq!(worker.end(), Some(75), "{}", worker.text("stderr"));
    assert!(!worker.file("ran").exists());
    assert!(worker.text("word").contains(hint), "{}", worker.text("word"));
}

#[test]
fn an_error_is_no_grant() {
    let body = r#"{"answer": "granted", "key": "0f", "report_every_ms": 100}"#;
    starts_once_after(vec![Reply::Wrong(500, "", body), Reply::Wrong(503, "retry-after: 1", ""), Reply::Noise]);
}

#[test]
fn an_answer_that_is_garbage_or_cut_short_is_no_grant() {
    let garbage = Reply::Wrong(200, "content-type: application/json", r#"{"answer": "perhaps"}"#);
    starts_once_after(vec![Reply::Wrong(200, "", "<html>"), garbage, Reply::CutShort(grant())]);
}

#[test]
fn an_answer_longer_than_any_is_no_grant() {
    let padded = format!("{}{}", " ".repeat(5 << 20), grant());
    starts_once_after(vec![Reply::Wrong(200, "", padded.leak())]);
}

#[test]
fn a_key_that_is_none_is_no_grant() {
    let key = r#"{"answer": "granted", "key": "no key", "report_every_ms": 100}"#;
    starts_once_after(vec![Reply::Wrong(200, "", key), Reply::Wrong(401, "", ""), Reply::Wrong(409, "", "")]);
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = WrongLedger::start(Reply::to);
    let location: &'static str = format!("location: {}/v1/grants", elsewhere.url).leak();
    starts_once_after(vec![Reply::Wrong(302, location, ""), Reply::Wrong(307, location, "")]);
    assert!(elsewhere.asked().is_empty());
}

#[test]
fn told_to_wait_it_asks_again() {
    let wait = || Reply::Wrong(200, "", r#"{"answer": "wait", "reason": "not yet in the ledger"}"#);
    starts_once_after(vec![wait(), wait()]);
}

#[test]
fn the_grant_waits_for_a_ledger_that_is_not_there_yet() {
    let before = WrongLedger::start(Reply::to);
    let url = before.url.clone();
    before.leave();
    let mut worker = Worker::start(&url, ONCE, &[]);
    worker.logs("no grant yet");
    let after = WrongLedger::start_at(&url, Reply::to);
    assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
    assert_eq!((worker.text("ran").as_str(), after.asked()[0].is_grant()), ("ran\n", true));
}

#[test]
fn superseded_it_runs_nothing() {
    let answer = r#"{"answer": "superseded", "reason": "another process has the grant"}"#;
    let ledger = WrongLedger::start(move |_| Reply::Wrong(200, "", answer));
    let mut worker = Worker::start(&ledger.url, ONCE, &[]);
    runs_nothing(&mut worker, "superseded: another process has the grant");
    assert_eq!(ledger.asked().len(), 1);
}

#[test]
fn a_request_that_will_never_be_taken_is_not_repeated() {
    let ledger = WrongLedger::start(|_| Reply::Wrong(422, "", "the body names another attempt"));
    let mut worker = Worker::start(&ledger.url, ONCE, &[]);
    runs_nothing(&mut worker, "the body names another attempt");
    assert_eq!(ledger.asked().len(), 1);
}

#[test]
fn without_a_grant_it_gives_up_at_the_limit() {
    let answers: [fn(&Asked) -> Reply; 2] = [|_| Reply::Wrong(503, "", ""), |_| Reply::Silence];
    for answer in answers {
        let ledger = WrongLedger::start(answer);
        let mut worker = Worker::start(&ledger.url, ONCE, &[("SENDO_GRANT_WAIT", "2s")]);
        runs_nothing(&mut worker, "no grant within the waiting time");
        assert!(!ledger.asked().is_empty());
    }
}

#[test]
fn a_name_that_does_not_resolve_is_no_grant() {
    let mut worker = Worker::start("http://ledger.invalid", ONCE, &[("SENDO_GRANT_WAIT", "2s")]);
    runs_nothing(&mut worker, "no grant within the waiting time");
}

#[test]
fn asked_to_go_while_the_ledger_is_silent_it_goes() {
    let ledger = WrongLedger::start(|_| Reply::Silence);
    let mut worker = Worker::start(&ledger.url, ONCE, &[]);
    ledger.wait("the request", Asked::is_grant);
    env::kill(worker.pid(), Signal::SIGTERM);
    runs_nothing(&mut worker, "asked to go before the grant");
}
