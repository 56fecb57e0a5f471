//! As a plain init: start, signals, orphans, and what it takes at rest.

use crate::{
    figures::{as_f64, micros, millis, quantile},
    peers::{Peer, command, only_child},
};
use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::Read as _,
    os::fd::AsFd as _,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

const STARTS: usize = 200;
const SIGNALS: usize = 1000;
/// Milliseconds.
const LOST_AFTER: u16 = 5000;
const ORPHANS: usize = 10_000;
const ORPHAN_ROUNDS: usize = 3;

/// The table.
pub fn report(peers: &[Peer]) -> String {
    let (starts, signals, orphans) = (starts(peers), signals(peers), orphans(peers));
    let mut report = String::from(
        "\n## As an init\n\n\
         | | file | RSS at rest | of it its own | threads | start to end of `true`, wall p50 | CPU p50 | signal to child and answer, p50 | p99 | 10,000 orphans reaped |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for (index, peer) in peers.iter().enumerate() {
        let (wall, cpu) = &starts[index];
        let signal =
            |share| signals[index].as_ref().map_or_else(|| "lost".into(), |took| micros(quantile(took, share)));
        let orphans = orphans[index].map_or_else(|| "none".into(), millis);
        report.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} | {orphans} |\n",
            peer.name,
            at_rest(peer),
            micros(quantile(wall, 0.5)),
            micros(quantile(cpu, 0.5)),
            signal(0.5),
            signal(0.99),
        ));
    }
    report.push_str(
        "| goal | ≤ 4.5 MB | ≤ 2,000 kB | - | ≤ 2 | tini + 1,000 µs | bare + 1,500 µs | ≤ 30 µs | - | < 100 ms on a quiet machine, ≤ 2 × catatonit |\n\n\
         *Its own* is anonymous memory; the rest of the RSS is the file, mapped from the page cache and shared by all that run it. The kernel maps it in \
         folios of its own choice, up to the whole file (mm/filemap.c). The signal's way is from the sender to the init, to its child, and an answer through a pipe; bare, \
         there is no init between; *lost* means that there was no answer within 5 s. All are PID 1 there; at the start they are not, and pid1 then runs the command in its own place. The orphans have ended when they are handed over, all at once; bare, PID 1 is their witness and reaps nothing.\n",
    );
    report
}

/// File, memory, own memory, threads: four cells.
fn at_rest(peer: &Peer) -> String {
    let Some(file) = peer.prefix.first() else { return "- | - | - | -".into() };
    let size = as_f64(fs::metadata(file).map_or(0, |file| file.len())) / 1e6;
    let listening = Listening::new(peer);
    let status = fs::read_to_string(format!("/proc/{}/status", listening.init)).unwrap_or_default();
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value.map_or("?", str::trim).to_owned()
    };
    format!("{size:.2} MB | {} | {} | {}", field("VmRSS:"), field("RssAnon:"), field("Threads:"))
}

/// Wall and CPU time of each start.
fn starts(peers: &[Peer]) -> Vec<(Vec<Duration>, Vec<Duration>)> {
    let mut all: Vec<_> = peers.iter().map(|_| (vec![], vec![])).collect();
    for _ in 0..STARTS {
        for (peer, (walls, cpus)) in peers.iter().zip(&mut all) {
            let before = children_cpu();
            let start = Instant::now();
            assert!(command(peer, &["true"]).status().expect("start").success(), "{}", peer.name);
            walls.push(start.elapsed());
            cpus.push(children_cpu() - before);
        }
    }
    all
}

fn children_cpu() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).expect("read our usage");
    let span = |time: nix::sys::time::TimeVal| {
        Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()).unsigned_abs())
    };
    span(usage.user_time()) + span(usage.system_time())
}

/// A peer as PID 1, over a child that answers each USR1 with a byte.
struct Listening {
    namespace: Child,
    stdout: ChildStdout,
    init: Pid,
}

impl Listening {
    /// Gives it back when the child has said that it is ready.
    fn new(peer: &Peer) -> Self {
        let us = std::env::current_exe().expect("our own name");
        let mut command = as_pid_1(peer);
        let mut namespace = command.arg(us).arg("child-signals").stdout(Stdio::piped()).spawn().expect("start");
        let mut stdout = namespace.stdout.take().expect("a pipe");
        stdout.read_exact(&mut [0]).expect("ready");
        let init = only_child(i32::try_from(namespace.id()).expect("a pid"));
        Self { namespace, stdout, init: Pid::from_raw(init) }
    }

    /// How long it took until the child had answered a signal, if it heard of it.
    fn answers(&mut self) -> Option<Duration> {
        let start = Instant::now();
        kill(self.init, Signal::SIGUSR1).expect("send a signal");
        let mut stdout = [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)];
        if poll(&mut stdout, LOST_AFTER).expect("poll") == 0 {
            return None;
        }
        self.stdout.read_exact(&mut [0]).expect("an answer");
        Some(start.elapsed())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // What has lost a signal may lose another; it dies with its unshare(1).
        let _ = self.namespace.kill();
        let _ = self.namespace.wait();
    }
}

/// Some peers are an init only where they are PID 1.
fn as_pid_1(peer: &Peer) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--fork", "--pid", "--mount-proc", "--kill-child", "--"]).args(&peer.prefix).stdin(Stdio::null());
    command
}

/// Nothing for a peer that loses one.
fn signals(peers: &[Peer]) -> Vec<Option<Vec<Duration>>> {
    let mut running: Vec<_> = peers.iter().map(Listening::new).collect();
    let mut all: Vec<_> = peers.iter().map(|_| Some(vec![])).collect();
    for _ in 0..SIGNALS {
        for (listening, all) in running.iter_mut().zip(&mut all) {
            let Some(took) = all else { continue };
            match listening.answers() {
                Some(answered) => took.push(answered),
                None => *all = None,
            }
        }
    }
    all
}

/// From the moment when all end at once until the last is reaped: the best of a few rounds.
fn orphans(peers: &[Peer]) -> Vec<Option<Duration>> {
    let us = std::env::current_exe().expect("our own name");
    let mut best: Vec<Option<Duration>> = peers.iter().map(|_| None).collect();
    for _ in 0..ORPHAN_ROUNDS {
        for (peer, best) in peers.iter().zip(&mut best).skip(1) {
            let output = as_pid_1(peer)
                .arg(&us)
                .args(["child-orphans", &ORPHANS.to_string()])
                .stderr(Stdio::inherit())
                .output()
                .expect("unshare");
            let micros: Option<u64> = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
            let took = micros.map(Duration::from_micros);
            *best = (*best).into_iter().chain(took).min();
        }
    }
    best
}
