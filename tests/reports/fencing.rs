//! `fencing: strict`: without the ledger nothing of the attempt outlives its lease, and with it the transfer goes on.

use super::worker::{READY, Worker, ending};
use crate::env::{
    is_alive, scratch, wait_for,
    wrong_ledger::{Asked, Reply, WrongLedger},
};
use sendo::record::outcome::Outcome;
use std::{fs, process::Command, time::Duration};

/// Long enough for a busy machine to renew it.
const LEASE: Duration = Duration::from_secs(8);
/// A slow answer, and still within the lease.
const LATE: Duration = Duration::from_millis(600);
const STRICT: (&str, &str) = ("SENDO_FENCING", "strict");
/// Where the ending will not arrive, and where it will.
const BRIEF: (&str, &str) = ("SENDO_LINGER", "1s");
const PATIENT: (&str, &str) = ("SENDO_LINGER", "1h");

/// A ledger that is well, and grants leases.
fn well(asked: &Asked) -> Reply {
    if asked.is_grant() { Reply::leased(LEASE) } else { Reply::go_on() }
}

/// A transfer that leaves a child in another session, which has a child, and hears no TERM. Both go with the folder.
const BURDENED: &str = r#"trap 'echo asked' TERM
    setsid sh -c 'trap "echo asked" TERM; sh -c "trap : TERM; echo grandchild \$\$; while [ -e stdout ]; do sleep 0.05; done" & echo child $$; while [ -e stdout ]; do sleep 0.05; done' &
    echo transfer $$; echo ready; until [ -e gate ]; do sleep 0.05; done"#;

/// Waits until a lease that is held from now on is over: that of another attempt, whose ledger has gone silent.
#[track_caller]
fn outlast_a_lease() {
    let silent = WrongLedger::start(|asked| if asked.is_grant() { well(asked) } else { Reply::Silence });
    let mut other = Worker::start(&silent.url, READY, &[STRICT, BRIEF]);
    assert_eq!(other.end(), Some(137), "{}", other.text("stderr"));
}

/// In the outage that `turn` brings about a strict transfer is killed with all that it has started; a patient one goes on.
#[track_caller]
fn fenced_in(turn: impl Fn(&WrongLedger)) {
    let strict_ledger = WrongLedger::start(well);
    let patient_ledger = WrongLedger::start(Reply::to);
    let mut strict = Worker::start(&strict_ledger.url, BURDENED, &[STRICT, PATIENT]);
    let mut patient = Worker::start(&patient_ledger.url, READY, &[PATIENT]);
    let pids = ["transfer ", "child ", "grandchild "].map(|who| strict.says(who).parse::<i32>().unwrap());
    for (ledger, worker) in [(&strict_ledger, &strict), (&patient_ledger, &patient)] {
        worker.says("ready");
        ledger.wait("a report", |asked| !asked.is_grant() && asked.taken);
        turn(ledger);
    }
    let last = wait_for("its last word", || strict.last_word()?.ending);
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "nothing of it runs any more");
    assert!(!strict.text("stdout").contains("asked"), "there was no time to ask");
    assert_eq!((last.outcome, last.signal), (Outcome::Fenced, Some(9)));
    assert!(last.verdict.evidence.iter().any(|seen| seen.contains("lease 8s, margin 2s")), "{:?}", last.verdict);
    // The control: without a lease the same outage harms nothing.
    assert!(patient.is_running());
    for (ledger, worker, code, outcome) in
        [(strict_ledger, &mut strict, 137, "fenced"), (patient_ledger, &mut patient, 0, "succeeded")]
    {
        ledger.leave();
        let back = WrongLedger::start_at(&ledger.url, Reply::to);
        worker.open();
        assert_eq!(worker.end(), Some(code), "{}", worker.text("stderr"));
        assert_eq!(ending(&back.asked())["outcome"]["kind"], outcome);
    }
}

#[test]
fn a_ledger_that_goes_silent_ends_a_strict_transfer_and_no_patient_one() {
    fenced_in(|ledger| ledger.turn(|_| Reply::Silence));
}

#[test]
fn a_ledger_that_fails_ends_a_strict_transfer_and_no_patient_one() {
    fenced_in(|ledger| ledger.turn(|_| Reply::Wrong(503, "retry-after: 3600", "")));
}

#[test]
fn a_ledger_that_is_gone_ends_a_strict_transfer_and_no_patient_one() {
    fenced_in(WrongLedger::leave);
}

#[test]
fn a_reporter_that_hangs_cannot_prevent_the_kill() {
    let ledger = WrongLedger::start(well);
    let mut strict = Worker::start(&ledger.url, BURDENED, &[STRICT, BRIEF]);
    let pids = ["transfer ", "child ", "grandchild "].map(|who| strict.says(who).parse::<i32>().unwrap());
    // Its thread opens the token's file before each request, and nobody will ever write to this one.
    assert!(Command::new("mkfifo").arg(strict.file("next")).status().unwrap().success());
    fs::rename(strict.file("next"), strict.file("token")).unwrap();
    assert_eq!(strict.end(), Some(137), "{}", strict.text("stderr"));
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert!(strict.text("stderr").contains("fenced"), "{}", strict.text("stderr"));
    assert!(strict.last_word().unwrap().ending.is_none(), "the reporter hung: it would have left the ending");
}

#[test]
fn a_ledger_that_comes_back_in_time_finds_the_transfer_and_renews_its_lease() {
    let ledger = WrongLedger::start(|asked| match (asked.is_grant(), asked.nth) {
        (true, _) => well(asked),
        (false, 1) => Reply::Silence,
        (false, 2) => Reply::Wrong(500, "", ""),
        (false, _) => Reply::go_on(),
    });
    let mut worker = Worker::start(&ledger.url, READY, &[STRICT, PATIENT]);
    ledger.wait("the ledger to be back", |asked| asked.nth == 3);
    outlast_a_lease();
    worker.open();
    assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
    assert_eq!(ending(&ledger.asked())["outcome"]["kind"], "succeeded");
}

#[test]
fn a_slow_ledger_harms_nothing_as_long_as_it_answers() {
    let ledger = WrongLedger::start(|asked| {
        let Reply::Well(body) = well(asked) else { unreachable!() };
        Reply::Late(LATE, body)
    });
    let mut worker = Worker::start(&ledger.url, READY, &[STRICT, PATIENT]);
    worker.says("ready");
    outlast_a_lease();
    worker.open();
    assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
    assert_eq!(ending(&ledger.asked())["outcome"]["kind"], "succeeded");
}

#[test]
fn with_nothing_to_tell_a_strict_attempt_still_renews_its_lease() {
    // As rare as can be: readings, and the ledger's wish for them.
    let rare = |asked: &Asked| {
        let Reply::Well(mut body) = well(asked) else { unreachable!() };
        body["report_every_ms"] = 3_600_000.into();
        Reply::Well(body)
    };
    let (strict_ledger, patient_ledger) = (
        WrongLedger::start(rare),
        WrongLedger::start(move |asked| {
            let Reply::Well(mut body) = rare(asked) else { unreachable!() };
            body.as_object_mut().unwrap().remove("lease_ms");
            Reply::Well(body)
        }),
    );
    let seldom = ("SENDO_HEARTBEAT", "1h");
    let mut strict = Worker::start(&strict_ledger.url, READY, &[STRICT, PATIENT, seldom]);
    let mut patient = Worker::start(&patient_ledger.url, READY, &[PATIENT, seldom]);
    let empty = |asked: &Asked| !asked.is_grant() && asked.records().is_empty();
    strict_ledger.wait("an empty batch", empty);
    outlast_a_lease();
    for (worker, ledger) in [(&mut strict, &strict_ledger), (&mut patient, &patient_ledger)] {
        worker.open();
        assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
        assert_eq!(ending(&ledger.asked())["outcome"]["kind"], "succeeded");
    }
    assert!(!patient_ledger.has(empty), "the control: without a lease there is nothing to say");
}

#[test]
fn a_strict_order_is_not_run_without_a_lease() {
    let ledger = WrongLedger::start(Reply::to);
    let mut worker = Worker::start(&ledger.url, "echo ran > ran", &[STRICT]);
    assert_eq!(worker.end(), Some(75), "{}", worker.text("stderr"));
    assert!(!worker.file("ran").exists() && worker.text("word").contains("brings no lease"), "{}", worker.text("word"));
}

#[test]
fn a_lease_holds_whom_it_was_granted_to_whatever_the_order_says() {
    let ledger = WrongLedger::start(|asked| if asked.is_grant() { well(asked) } else { Reply::Silence });
    let worker = Worker::start(&ledger.url, READY, &[("SENDO_FENCING", "patient"), PATIENT]);
    let last = wait_for("its last word", || worker.last_word()?.ending);
    assert_eq!((last.outcome, last.signal), (Outcome::Fenced, Some(9)));
}

#[test]
fn what_could_not_start_within_its_lease_is_not_started() {
    // Its secret comes from a disk that is slow: a pipe that nobody has written to yet.
    let secrets = scratch();
    let secret = secrets.path().join("slow");
    assert!(Command::new("mkfifo").arg(&secret).status().unwrap().success());
    let granted = || {
        let Reply::Well(mut grant) = Reply::leased(LEASE) else { unreachable!() };
        grant["embulk_config"] = serde_json::json!({"password": "${secret:slow}"});
        Reply::Well(grant)
    };
    let place = ("SENDO_SECRETS_DIR", secrets.path().to_str().unwrap());
    for (renews, code) in [(false, 75), (true, 0)] {
        let ledger = WrongLedger::start(move |asked| match (asked.is_grant(), renews) {
            (true, _) => granted(),
            (false, true) => Reply::go_on(),
            (false, false) => Reply::Silence,
        });
        let mut worker = Worker::start(&ledger.url, "echo ran > ran", &[STRICT, BRIEF, place]);
        ledger.wait("the first renewal", |asked| !asked.is_grant());
        outlast_a_lease();
        let write = format!("echo password > {}", secret.display());
        assert!(Command::new("timeout").args(["60", "sh", "-c", &write]).status().unwrap().success());
        assert_eq!(worker.end(), Some(code), "{}", worker.text("stderr"));
        assert_eq!(worker.file("ran").exists(), renews);
        assert!(renews || worker.text("word").contains("its leave was over"), "{}", worker.text("word"));
        let left = fs::read_dir(worker.file("")).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(!left.into_iter().any(|name| name.to_string_lossy().starts_with("sendo-")), "the password goes too");
    }
}
