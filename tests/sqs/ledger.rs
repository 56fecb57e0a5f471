//! A ledger that is away: the pollers hold what they have, ask for no more, and lose nothing.

use super::served::{Served, ask, waiting};
use crate::env::{
    elasticmq::{Depth, EMPTY, elasticmq},
    sqs_proxy::{Fate, Proxy},
    stderr, wait_for,
};
use serde_json::json;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
};

/// Keeps all writers from the ledger until it is dropped.
pub struct Lock(Child);

/// Takes the one write lock of SQLite.
pub fn lock(served: &Served) -> Lock {
    let mut session = Command::new("sqlite3");
    session.args(["-cmd", ".timeout 20000"]).arg(served.ledger()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut session = session.spawn().unwrap();
    session.stdin.as_mut().unwrap().write_all(b"BEGIN IMMEDIATE;\nSELECT 'locked';\n").unwrap();
    let mut said = String::new();
    BufReader::new(session.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said.trim(), "locked");
    Lock(session)
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait(); // its end is what counts
    }
}

/// Waits until a queue has handed out a message of its own so often, each time after so many seconds, and has given it up: what becomes
/// of one that nobody holds.
#[track_caller]
fn wait_given_up(seconds: u32, receives: u32) {
    let mq = elasticmq();
    let queue = mq.queue("", seconds, receives);
    let dead = queue.dead.unwrap();
    mq.send(&queue.url, "nobody's");
    wait_for("a message to be given up", || {
        ask("ReceiveMessage", &json!({"QueueUrl": queue.url}));
        (mq.depth(&dead) == Depth { visible: 1, in_flight: 0 }).then_some(())
    });
}

#[test]
fn while_the_ledger_takes_nothing_no_more_is_received_than_is_in_hand() {
    let mq = elasticmq();
    // A message that is received twice is given up: the queue counts, and we may not waste its patience.
    let queue = mq.queue("", 30, 2);
    let served = Served::start(&queue.url, "pollers = 1");
    let lock = lock(&served);
    for number in 0..30 {
        mq.send(&queue.url, &waiting(&format!("job-{number:02}")).to_string());
    }
    served.wait_log("the messages in hand are tried again");
    let depth = mq.depth(&queue.url);
    assert!(depth.visible + depth.in_flight == 30 && depth.visible >= 20, "{depth:?}");
    drop(lock);
    served.wait_jobs(30);
    mq.wait_depth(&queue.url, EMPTY);
    assert_eq!(mq.depth(queue.dead.as_ref().unwrap()), EMPTY);
    assert_eq!(served.sql("SELECT COUNT(*) AS n FROM refusals")[0]["n"], 0);
}

#[test]
fn a_ledger_that_answers_and_does_not_write_costs_no_message_its_receipts() {
    let mq = elasticmq();
    let (standard, fifo) = (mq.queue("", 2, 3), mq.queue(".fifo", 2, 3));
    let other = format!("[[queue]]\nurl = {:?}\nendpoint = {:?}", fifo.url, mq.endpoint());
    let served = Served::start(&standard.url, &other);
    let lock = lock(&served);
    for number in 0..3 {
        mq.send(&standard.url, &waiting(&format!("standard-{number}")).to_string());
        let (job, number) = (waiting(&format!("fifo-{number}")).to_string(), number.to_string());
        mq.send_with(&fifo.url, &job, &[], Some("group"), Some(&number));
    }
    for queue in [&standard, &fifo] {
        wait_for("messages in hand", || (mq.depth(&queue.url).in_flight > 0).then_some(()));
    }
    // The control: one that nobody holds is given up, after twice the receipts that ours have.
    wait_given_up(2, 6);
    assert_eq!(served.jobs(), Vec::<String>::new());
    drop(lock);
    served.wait_jobs(6);
    for queue in [&standard, &fifo] {
        mq.wait_depth(&queue.url, EMPTY);
        assert_eq!(mq.depth(queue.dead.as_ref().unwrap()), EMPTY, "{}", served.log());
    }
    assert_eq!(served.sql("SELECT COUNT(*) AS n FROM refusals")[0]["n"], 0);
}

#[test]
fn while_one_poller_cannot_bring_its_hand_in_the_others_ask_for_nothing() {
    const POLLERS: usize = 3;
    let (mq, proxy) = (elasticmq(), Proxy::start());
    let queue = mq.queue("", 4, 100);
    proxy.rule("ChangeMessageVisibilityBatch", Fate::FailFirstEntry, 1);
    let served = Served::start_at(&queue.url, &proxy.endpoint, &format!("pollers = {POLLERS}"));
    let lock = lock(&served);
    mq.send(&queue.url, &waiting("a").to_string());
    served.wait_log("the messages in hand are tried again");
    served.wait_log("not held");
    let asked = || proxy.seen("ReceiveMessage", Fate::Pass);
    let before = asked();
    // Longer than the long polls that were under way, of twenty seconds.
    wait_given_up(2, 11);
    assert_eq!(asked(), before, "{}", served.log());
    drop(lock);
    assert_eq!(served.wait_jobs(1), ["a"]);
    wait_for("all pollers to go on", || (asked() >= before + POLLERS).then_some(()));
    mq.wait_depth(&queue.url, EMPTY);
}

#[test]
fn a_stop_while_the_ledger_is_away_gives_back_what_is_in_hand() {
    let mq = elasticmq();
    // Hidden for longer than the test, unless it is given back.
    let queue = mq.queue("", 600, 5);
    let mut served = Served::start(&queue.url, "pollers = 1");
    let lock = lock(&served);
    mq.send(&queue.url, &waiting("a").to_string());
    mq.wait_depth(&queue.url, Depth { visible: 0, in_flight: 1 });
    assert_eq!(served.stop(), Some(0), "{}", served.log());
    assert_eq!(mq.depth(&queue.url), Depth { visible: 1, in_flight: 0 });
    drop(lock);
    served.start_again(&queue.url, &mq.endpoint(), "");
    served.wait_jobs(1);
    mq.wait_depth(&queue.url, EMPTY);
}

/// In a mount namespace of its own, with a small disk that goes with it.
#[test]
fn a_full_disk_keeps_the_message_in_the_queue_until_there_is_room() {
    let mq = elasticmq();
    let queue = mq.queue("", 600, 2);
    let home = crate::env::scratch();
    super::served::configure(home.path(), &queue.url, &mq.endpoint(), "pollers = 1");
    let mut large = waiting("large");
    large["labels"] = json!({"pad": "x".repeat(500_000)});
    // The disk is full before the message is there. Tried more often than the queue hands it out: it is held, not received again.
    let script = r#"
        set -eu
        mkdir state && mount -t tmpfs -o size=4m tmpfs state
        "$1" serve --config sendo.toml 2>serve.log & server=$!
        until grep -q address= serve.log; do kill -0 $server; sleep 0.02; done
        dd if=/dev/zero of=state/fill bs=4k 2>/dev/null || true
        "$1" submit --queue "$2" job.json
        until [ "$(grep -c 'disk is full.*tried again' serve.log)" -ge 4 ]; do kill -0 $server; sleep 0.02; done
        echo "before: $(sqlite3 state/ledger.db 'SELECT COUNT(*) FROM jobs')"
        rm state/fill
        until [ "$(sqlite3 state/ledger.db 'SELECT COUNT(*) FROM jobs')" = 1 ]; do kill -0 $server; sleep 0.02; done
        echo "refusals: $(sqlite3 state/ledger.db 'SELECT COUNT(*) FROM refusals')"
        kill $server; wait $server
    "#;
    std::fs::write(home.path().join("job.json"), large.to_string()).unwrap();
    let mut command = super::served::verb(&mq.endpoint());
    let environment: Vec<_> =
        command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    command = Command::new("timeout");
    for (name, value) in environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.args(["100", "unshare", "--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_sendo")]).arg(&queue.url);
    let output = command.current_dir(home.path()).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        stderr(&output),
        std::fs::read_to_string(home.path().join("serve.log")).unwrap()
    );
    let said = crate::env::stdout(&output);
    assert!(said.contains("before: 0") && said.contains("refusals: 0"), "{said}");
    mq.wait_depth(&queue.url, EMPTY);
}
