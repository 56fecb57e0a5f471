//! With a job: what a supervisor takes while its transfer runs, with reports over TLS to a ledger that is well.

use crate::{
    env::{
        image::{Container, Image},
        supervisor, wait_for,
        wrong_ledger::{Authority, Reply, WrongLedger},
    },
    figures::as_f64,
    peers::only_child,
};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

const LEDGER: &str = "ledger.example";
/// Beats of a second each over which we count.
const BEATS: usize = 20;
/// The beat of a job that says nothing else.
const USUAL_BEAT: Duration = Duration::from_secs(10);
/// With what the JVM starts by itself, some sixty.
const GC_THREADS: usize = 48;

/// The table.
pub fn report() -> String {
    let mut report = String::from(
        "\n## With a job\n\nReports over TLS, a new connection for each. The JVM is one of many threads that waits; the figures are the supervisor's.\n\n\
         | | | goal |\n| --- | --- | --- |\n",
    );
    let authority = Authority::new();
    let ledger = WrongLedger::start_tls(&authority, LEDGER, Reply::to);
    let (container, pid) = in_a_container(&authority, &ledger, "100ms");
    wait_for_beats(&ledger, 10);
    let peak = status(pid, "VmHWM:");
    report.push_str(&format!("| peak RSS after ten beats | {peak} kB | ≤ 5,000 kB |\n"));
    report.push_str(&format!("| of it its own | {} kB | - |\n", status(pid, "RssAnon:")));
    report.push_str(&format!("| threads at rest | {} | ≤ 2 |\n", status(pid, "Threads:")));
    drop(container);

    let ledger = WrongLedger::start_tls(&authority, LEDGER, Reply::to);
    let (container, pid) = in_a_container(&authority, &ledger, "1s");
    let (woken, beats) = over_beats(&ledger, || wake_ups(pid));
    report.push_str(&format!("| wake-ups a beat, of both threads | {:.1} | - |\n", as_f64(woken) / as_f64(beats)));
    drop(container);
    let idle = Command::new(supervisor()).args(["--", "sleep", "1000"]).spawn().expect("start");
    let mut idle = Idle(idle);
    let pid = i32::try_from(idle.0.id()).expect("a pid");
    wait_for("it to settle", || (status(pid, "State:").starts_with('S')).then_some(()));
    let before = wake_ups(pid);
    std::thread::sleep(USUAL_BEAT);
    let woken = wake_ups(pid) - before;
    report.push_str(&format!("| wake-ups of a plain init in {} s | {woken} | 0 |\n", USUAL_BEAT.as_secs()));
    idle.end();

    let ledger = WrongLedger::start(Reply::to);
    let (jvm, pid) = beside_a_jvm(&ledger);
    let (threads, (cpu, beats)) = (jvm_threads(pid), over_beats(&ledger, || cpu(pid)));
    let beat = Duration::from_nanos(cpu / beats);
    let share = beat.as_secs_f64() / USUAL_BEAT.as_secs_f64() * 100.0;
    report.push_str(&format!("| CPU for a beat, over a JVM of {threads} threads | {} µs | - |\n", beat.as_micros()));
    report.push_str(&format!("| at a beat every {} s, of one core | {share:.3} % | ≤ 0.1 % |\n", USUAL_BEAT.as_secs()));
    drop(jvm);
    report
}

/// Ends with the bench.
struct Idle(Child);

impl Idle {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.end();
    }
}

fn in_a_container(authority: &Authority, ledger: &WrongLedger, heartbeat: &str) -> (Container, i32) {
    let image = Image::new("").file("etc/hosts", &format!("127.0.0.1 {LEDGER}\n")).file("ca.pem", &authority.pem());
    let variables = [("SENDO_CA_FILE", "/ca.pem"), ("SENDO_HEARTBEAT", heartbeat)];
    let url = ledger.url.replace("127.0.0.1", LEDGER);
    let container = image.run_job(&url, "echo ready; exec /bin/busybox sleep 1000", &variables);
    container.says("ready");
    let pid = container.init();
    (container, pid)
}

/// As PID 1 of a PID namespace, as in a Pod: /proc holds the attempt's own processes.
fn beside_a_jvm(ledger: &WrongLedger) -> (Idle, i32) {
    let folder = crate::env::scratch().keep();
    fs::write(folder.join("token"), "t").expect("write a token");
    let mut command = Command::new("unshare");
    command.args(["--fork", "--pid", "--mount-proc", "--kill-child", "--"]).arg(supervisor());
    command.args(["--job", "a", "--attempt", "1", "--heartbeat", "1s", "--ledger-url", &ledger.url, "--token-file"]);
    command.arg(folder.join("token")).arg("--termination-log").arg(folder.join("word"));
    command.args(["--", "rmiregistry", "-J-XX:+UseParallelGC", "-J-XX:-UseDynamicNumberOfGCThreads"]);
    command.args([&format!("-J-XX:ParallelGCThreads={GC_THREADS}"), "0"]);
    let running = Idle(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("start"));
    wait_for_beats(ledger, 2);
    let pid = only_child(i32::try_from(running.0.id()).expect("a pid"));
    (running, pid)
}

fn jvm_threads(supervisor: i32) -> String {
    status(only_child(supervisor), "Threads:")
}

fn beats(ledger: &WrongLedger) -> usize {
    let asked = ledger.asked();
    let taken = asked.iter().filter(|asked| asked.taken).flat_map(|asked| asked.records());
    taken.filter(|record| record["record"] == "usage").count()
}

fn wait_for_beats(ledger: &WrongLedger, count: usize) {
    wait_for("beats", || (beats(ledger) >= count).then_some(()));
}

/// How far a count rises over some beats, and over how many.
fn over_beats(ledger: &WrongLedger, count: impl Fn() -> u64) -> (u64, u64) {
    wait_for_beats(ledger, 3);
    let (before, first) = (count(), beats(ledger));
    wait_for_beats(ledger, first + BEATS);
    (count() - before, (beats(ledger) - first) as u64)
}

fn status(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?");
    value.trim().trim_end_matches(" kB").to_owned()
}

/// The sum over the threads that it has at rest.
fn of_threads(pid: i32, read: impl Fn(&Path) -> Option<u64>) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    threads.filter_map(|thread| read(&thread.ok()?.path())).sum()
}

fn wake_ups(pid: i32) -> u64 {
    of_threads(pid, |thread| {
        let status = fs::read_to_string(thread.join("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
    })
}

/// Nanoseconds on a processor.
fn cpu(pid: i32) -> u64 {
    of_threads(pid, |thread| fs::read_to_string(thread.join("schedstat")).ok()?.split(' ').next()?.parse().ok())
}
