//! What a running supervisor takes from its container: memory, threads, wake-ups.

use crate::env::{
    image::{Container, Image},
    names::{NameServer, RESOLV_CONF, in_a_cluster, silent},
    wait_for,
    wrong_ledger::{Authority, Reply, WrongLedger},
};
use std::fs;

/// kB at its highest, with reports over TLS: there are as many supervisors as transfers.
const MEMORY_WITH_A_JOB: u64 = 5_000;
/// kB of its own at rest, as a plain init. The rest of its RSS is the file, shared by all that run it, and how much of that a kernel
/// maps is the page cache's business (whole folios since Linux 6.18).
const OWN_MEMORY_AS_INIT: u64 = 400;
/// The loop's and the reporter's.
const THREADS_WITH_A_JOB: usize = 2;
/// Of both threads for one beat: a timer, a connection, a handshake, an answer. Measured: 9 with a new connection for each beat.
const WAKE_UPS_FOR_A_BEAT: u64 = 16;

const LEDGER: &str = "ledger.example";
const QUIET: &str = "echo ready; exec /bin/busybox sleep 1000";
/// Sleeps and wakes all the time, which is not to concern its supervisor.
const RESTLESS: &str = "echo ready; while :; do /bin/busybox sleep 0.01; done";

/// A job that reports over TLS to a ledger that has a name and closes each connection.
fn job(script: &str, heartbeat: &str) -> (Container, WrongLedger) {
    let authority = Authority::new();
    let ledger = WrongLedger::start_tls(&authority, LEDGER, Reply::to);
    let image = Image::new("").file("etc/hosts", &format!("127.0.0.1 {LEDGER}\n")).file("ca.pem", &authority.pem());
    let variables = [("SENDO_CA_FILE", "/ca.pem"), ("SENDO_HEARTBEAT", heartbeat)];
    let container = image.run_job(&ledger.url.replace("127.0.0.1", LEDGER), script, &variables);
    container.says("ready");
    (container, ledger)
}

fn init(script: &str) -> Container {
    let container = Image::new("").run(&["/sendo-supervisor", "--", "/bin/busybox", "sh", "-c", script], &[]);
    container.says("ready");
    container
}

/// How many beats were acknowledged.
fn beats(ledger: &WrongLedger) -> usize {
    let asked = ledger.asked();
    let taken = asked.iter().filter(|asked| asked.taken).flat_map(|asked| asked.records());
    taken.filter(|record| record["record"] == "usage").count()
}

/// A number in a `status` file of proc(5).
fn status(path: &str, name: &str) -> u64 {
    let status = fs::read_to_string(path).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    value.trim().trim_end_matches(" kB").parse().unwrap()
}

fn peak_memory(pid: i32) -> u64 {
    status(&format!("/proc/{pid}/status"), "VmHWM")
}

/// Anonymous: what one more of it costs a node.
fn own_memory(pid: i32) -> u64 {
    status(&format!("/proc/{pid}/status"), "RssAnon")
}

fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

/// How often the threads went to sleep, and so were woken: being pushed off a busy processor is no wake-up. Threads that exist only
/// for a lookup come and go and are not counted.
fn wake_ups(pid: i32) -> u64 {
    let of = |thread: &str| {
        let name = fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm")).ok()?;
        let path = format!("/proc/{pid}/task/{thread}/status");
        (name.trim_end() != "resolver").then(|| status(&path, "voluntary_ctxt_switches"))
    };
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.filter_map(|thread| of(thread.unwrap().file_name().to_str().unwrap())).sum()
}

#[test]
fn with_a_job_and_tls_it_keeps_to_its_memory_and_to_two_threads() {
    let (container, ledger) = job(QUIET, "100ms");
    wait_for("ten beats", || (beats(&ledger) >= 10).then_some(()));
    let pid = container.init();
    let memory = peak_memory(pid);
    assert!(memory <= MEMORY_WITH_A_JOB, "{memory} kB");
    // Each beat looks the name up; in between nothing of that is left.
    wait_for("threads to be gone", || (threads(pid) <= THREADS_WITH_A_JOB).then_some(()));
    // The control: this is more than a plain init may have, and this test takes more than both.
    assert!(own_memory(pid) > OWN_MEMORY_AS_INIT, "{} kB", own_memory(pid));
    assert!(peak_memory(std::process::id().try_into().unwrap()) > MEMORY_WITH_A_JOB);
}

#[test]
fn a_lookup_has_a_thread_that_is_gone_with_the_answer() {
    in_a_cluster(|| {
        let ledger = WrongLedger::start(Reply::to);
        let silence = silent();
        let url = ledger.url.replace("127.0.0.1", "sendo");
        let container = Image::new(RESOLV_CONF).run_job(&url, QUIET, &[]);
        silence.recv(&mut [0; 512]).unwrap();
        // The control of the count: there is one more thread than at rest.
        assert_eq!(threads(container.init()), THREADS_WITH_A_JOB + 1);
        drop(silence);
        let _server = NameServer::start(&[("sendo.default.svc.cluster.local", "127.0.0.1")]);
        container.says("ready");
        wait_for("ten beats", || (beats(&ledger) >= 10).then_some(()));
        wait_for("threads to be gone", || (threads(container.init()) == THREADS_WITH_A_JOB).then_some(()));
    });
}

#[test]
fn a_plain_init_is_one_thread_and_small() {
    let container = init(QUIET);
    let (memory, threads) = (own_memory(container.init()), threads(container.init()));
    assert!(memory <= OWN_MEMORY_AS_INIT, "{memory} kB");
    assert_eq!(threads, 1);
}

#[test]
fn a_plain_init_sleeps_while_its_child_works() {
    let container = init(RESTLESS);
    let child = container.transfer();
    let mut from = (wake_ups(container.init()), wake_ups(child));
    // The control is the child: the same count sees it wake.
    wait_for("a hundred wake-ups of the child's and none of ours", || {
        let now = (wake_ups(container.init()), wake_ups(child));
        if now.0 > from.0 {
            from = now;
        }
        (now.1 >= from.1 + 100).then_some(())
    });
}

#[test]
fn between_beats_nothing_wakes_it() {
    let (container, ledger) = job(RESTLESS, "1s");
    let (supervisor, transfer) = (container.init(), container.transfer());
    wait_for("the first beats", || (beats(&ledger) >= 2).then_some(()));
    let count = || (beats(&ledger) as u64, wake_ups(supervisor), wake_ups(transfer));
    let before = count();
    // The control is the transfer, which wakes all the time: counted like us, it is over our limit.
    let (beats, ours) = wait_for("five beats, and a transfer that wakes more than we may", || {
        let now = count();
        let (beats, ours, its) = (now.0 - before.0, now.1 - before.1, now.2 - before.2);
        (beats >= 5 && its > (beats + 1) * WAKE_UPS_FOR_A_BEAT).then_some((beats, ours))
    });
    // One more beat may be under way.
    assert!(ours <= (beats + 1) * WAKE_UPS_FOR_A_BEAT, "{ours} wake-ups for {beats} beats");
}
