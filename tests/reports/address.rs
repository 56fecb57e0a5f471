//! The way to the ledger: paths, proxies, and whom to trust.

use super::worker::Worker;
use crate::env::{
    self,
    wrong_ledger::{Authority, Reply, WrongLedger},
};
use nix::sys::signal::Signal;
use std::fs;

const RUN: &str = "echo ran > ran";
const NO_SYSTEM_TRUST: [(&str, &str); 2] = [("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")];

/// A supervisor that trusts this authority alone.
fn trusting(authority: &Authority, ledger: &str, more: &[(&str, &str)]) -> (Worker, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), authority.pem()).unwrap();
    let more = [more, &[("SENDO_CA_FILE", file.path().to_str().unwrap())]].concat();
    (Worker::start(ledger, RUN, &more), file)
}

/// It does not trust that ledger, and says so.
#[track_caller]
fn distrusted(authority: &Authority, ledger: &WrongLedger) {
    not_reached(authority, &ledger.url, "invalid peer certificate");
    assert!(ledger.asked().is_empty());
}

/// It says why it reaches no ledger, and ran nothing.
#[track_caller]
fn not_reached(authority: &Authority, ledger: &str, why: &str) {
    let (mut worker, _file) = trusting(authority, ledger, &[]);
    worker.logs(why);
    env::kill(worker.pid(), Signal::SIGTERM);
    assert_eq!(worker.end(), Some(75), "{}", worker.text("stderr"));
    assert!(!worker.file("ran").exists());
}

#[test]
fn a_ledger_may_live_below_a_path() {
    for end in ["", "/"] {
        let ledger = WrongLedger::start(Reply::to);
        let mut worker = Worker::start(&format!("{}/sendo{end}", ledger.url), RUN, &[]);
        assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
        let mut paths: Vec<_> = ledger.asked().into_iter().map(|asked| asked.path).collect();
        paths.dedup();
        assert_eq!(paths, ["/sendo/v1/grants", "/sendo/v1/records"]);
    }
}

#[test]
fn a_proxy_is_the_transfers_and_not_ours() {
    let (ledger, proxy) = (WrongLedger::start(Reply::to), WrongLedger::start(Reply::to));
    let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"];
    let proxies: Vec<_> = names.into_iter().map(|name| (name, proxy.url.as_str())).collect();
    let mut worker = Worker::start(&ledger.url, "echo $HTTP_PROXY $all_proxy", &proxies);
    assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
    assert_eq!(worker.text("stdout"), format!("{0} {0}\n", proxy.url));
    assert!(proxy.asked().is_empty() && ledger.asked().len() >= 2);
}

#[test]
fn a_certificate_of_the_given_authority_is_trusted_without_the_systems() {
    let authority = Authority::new();
    let ledger = WrongLedger::start_tls(&authority, "127.0.0.1", Reply::to);
    let (mut worker, _file) = trusting(&authority, &ledger.url, &NO_SYSTEM_TRUST);
    assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
    assert!(worker.file("ran").exists() && ledger.asked().last().unwrap().brings("ending"));
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    distrusted(&authority, &WrongLedger::start_tls(&other, "127.0.0.1", Reply::to));
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    distrusted(&authority, &WrongLedger::start_tls(&authority, "127.0.0.2", Reply::to));
    distrusted(&authority, &WrongLedger::start_tls(&authority, "ledger.example", Reply::to));
}

#[test]
fn a_ledger_without_tls_is_no_https_ledger() {
    let ledger = WrongLedger::start(Reply::to);
    not_reached(&Authority::new(), &ledger.url.replace("http://", "https://"), "no grant yet");
    assert!(ledger.asked().is_empty());
}

#[test]
fn with_nobody_to_trust_it_says_what_is_missing() {
    let ledger = WrongLedger::start_tls(&Authority::new(), "127.0.0.1", Reply::to);
    let mut worker = Worker::start(&ledger.url, RUN, &NO_SYSTEM_TRUST);
    assert_eq!(worker.end(), Some(71), "{}", worker.text("stderr"));
    assert!(!worker.file("ran").exists());
    assert!(worker.text("stderr").contains("give --ca-file"), "{}", worker.text("stderr"));
    // Plain HTTP needs nobody's word.
    let ledger = WrongLedger::start(Reply::to);
    assert_eq!(Worker::start(&ledger.url, RUN, &NO_SYSTEM_TRUST).end(), Some(0));
}

#[test]
fn a_file_that_vouches_for_nobody_is_named() {
    let ledger = WrongLedger::start(Reply::to);
    for content in ["", "no PEM"] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        let path = file.path().to_str().unwrap();
        let mut worker = Worker::start(&ledger.url, RUN, &[("SENDO_CA_FILE", path)]);
        assert_eq!(worker.end(), Some(71), "{}", worker.text("stderr"));
        assert!(!worker.file("ran").exists() && worker.text("stderr").contains(path), "{}", worker.text("stderr"));
    }
}
