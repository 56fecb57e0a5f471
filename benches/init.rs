//! The supervisor as an init beside its peers, in one run on one machine: `make bench`, which writes `docs/benchmarks.md`.
//!
//! Rounds go from one to the next in turn, so that a busy moment hits all alike. Figures of different runs do not compare.

use std::{
    fs,
    io::{Read, Write},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

const STARTS: usize = 200;
const SIGNALS: usize = 1000;
const ORPHANS: usize = 10_000;
const ORPHAN_ROUNDS: usize = 3;

/// One way to run a command.
struct Peer {
    name: &'static str,
    prefix: Vec<String>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("child-signals") => return child::signals(),
        Some("child-orphans") => return child::orphans(arguments[2].parse().expect("a count")),
        _ => {}
    }
    let (peers, absent) = peers();
    let mut report = head(&absent);
    report.push_str(&table(&peers));
    report.push_str(&relay(&peers[1]));
    print!("{report}");
    fs::write(root().join("docs/benchmarks.md"), report).expect("write docs/benchmarks.md");
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Those that are here, and the names of those that are not.
fn peers() -> (Vec<Peer>, Vec<&'static str>) {
    let ours = std::env::var("SENDO_SUPERVISOR").expect("SENDO_SUPERVISOR names the supervisor; run `make bench`");
    let mut peers =
        vec![Peer { name: "bare", prefix: vec![] }, Peer { name: "sendo-supervisor", prefix: vec![ours, "--".into()] }];
    let mut absent = vec![];
    for (name, flags) in
        [("tini-static", &["-s", "--"][..]), ("dumb-init", &["--"]), ("catatonit", &["--"]), ("pid1", &["--"])]
    {
        let path = std::env::var_os("PATH").unwrap_or_default();
        match std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.exists()) {
            Some(file) => {
                let prefix = [file.display().to_string()]
                    .into_iter()
                    .chain(flags.iter().map(|flag| (*flag).to_owned()))
                    .collect();
                peers.push(Peer { name, prefix });
            }
            None => absent.push(name),
        }
    }
    (peers, absent)
}

fn head(absent: &[&str]) -> String {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).trim().to_owned()
    };
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let mut head = String::from(
        "# Benchmarks\n\nWritten by `make bench`; all rows of a table are of one run, a round each in turn.\n\n",
    );
    head.push_str(&format!(
        "{}, {} × {model}, Linux {}.\n",
        output("date", &["-u", "+%Y-%m-%d"]),
        output("nproc", &[]),
        output("uname", &["-r"]).split('-').next().unwrap_or_default()
    ));
    if !absent.is_empty() {
        head.push_str(&format!("Not measured, because not installed: {}.\n", absent.join(", ")));
    }
    head.push_str("\n## As an init\n\n");
    head
}

fn table(peers: &[Peer]) -> String {
    let starts = starts(peers);
    let signals = signals(peers);
    let orphans = orphans(peers);
    let mut table = String::from(
        "| | file | RSS at rest | threads | start to end of `true`, wall p50 | CPU p50 | signal to child and answer, p50 | p99 | 10,000 orphans reaped |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for (index, peer) in peers.iter().enumerate() {
        let (size, rss, threads) = at_rest(peer);
        let (wall, cpu) = &starts[index];
        let orphans =
            orphans[index].map_or_else(|| "none".into(), |took| format!("{:.0} ms", took.as_secs_f64() * 1e3));
        table.push_str(&format!(
            "| {} | {size} | {rss} | {threads} | {} | {} | {} | {} | {orphans} |\n",
            peer.name,
            micros(quantile(wall, 0.5)),
            micros(quantile(cpu, 0.5)),
            micros(quantile(&signals[index], 0.5)),
            micros(quantile(&signals[index], 0.99)),
        ));
    }
    table
        + "\nThe orphans are waited for by their own witness in the PID namespace; bare, that witness is PID 1 itself and reaps nothing.\n"
}

fn command(peer: &Peer, words: &[&str]) -> Command {
    let all: Vec<&str> = peer.prefix.iter().map(String::as_str).chain(words.iter().copied()).collect();
    let mut command = Command::new(all[0]);
    command.args(&all[1..]).stdin(Stdio::null());
    command
}

fn at_rest(peer: &Peer) -> (String, String, String) {
    let Some(file) = peer.prefix.first() else { return ("-".into(), "-".into(), "-".into()) };
    let size = format!("{:.2} MB", as_f64(fs::metadata(file).map_or(0, |file| file.len())) / 1e6);
    let (mut child, _stdout) = listening(peer);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map_or("?".into(), |value| value.trim().to_owned())
    };
    end(&mut child);
    (size, field("VmRSS:"), field("Threads:"))
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

/// A child under the peer that answers each USR1 with a byte; it has said that it is ready.
fn listening(peer: &Peer) -> (Child, ChildStdout) {
    let us = std::env::current_exe().expect("our own name");
    let mut child =
        command(peer, &[us.to_str().expect("UTF-8"), "child-signals"]).stdout(Stdio::piped()).spawn().expect("start");
    let mut stdout = child.stdout.take().expect("a pipe");
    stdout.read_exact(&mut [0]).expect("ready");
    (child, stdout)
}

fn end(child: &mut Child) {
    send(child, nix::sys::signal::Signal::SIGTERM);
    child.wait().expect("the end");
}

fn send(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, signal).expect("send a signal");
}

fn signals(peers: &[Peer]) -> Vec<Vec<Duration>> {
    let mut running: Vec<_> = peers.iter().map(listening).collect();
    let mut all: Vec<_> = peers.iter().map(|_| vec![]).collect();
    for _ in 0..SIGNALS {
        for ((child, stdout), took) in running.iter_mut().zip(&mut all) {
            let start = Instant::now();
            send(child, nix::sys::signal::Signal::SIGUSR1);
            stdout.read_exact(&mut [0]).expect("an answer");
            took.push(start.elapsed());
        }
    }
    running.iter_mut().for_each(|(child, _)| end(child));
    all
}

/// From the moment when all end at once until the last is reaped: the best of a few rounds.
fn orphans(peers: &[Peer]) -> Vec<Option<Duration>> {
    let us = std::env::current_exe().expect("our own name");
    let mut best: Vec<Option<Duration>> = peers.iter().map(|_| None).collect();
    for _ in 0..ORPHAN_ROUNDS {
        for (peer, best) in peers.iter().zip(&mut best).skip(1) {
            let mut command = Command::new("unshare");
            command.args(["--fork", "--pid", "--mount-proc", "--kill-child", "--"]).args(&peer.prefix).arg(&us);
            let output = command
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

fn relay(ours: &Peer) -> String {
    let folder = std::env::temp_dir().join(format!("sendo-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let lines = folder.join("lines");
    let line = "2026-11-23 03:04:09.129 +0000 [INFO] (0016:task-0000): a line like any other\n";
    fs::write(&lines, line.repeat(3_500_000)).expect("write lines");
    let mut report = String::from(
        "\n## The relay\n\nOutput through `sendo-supervisor --relay on` beside the same through `cat`; the best of three rounds in turn.\n\n| | relay | cat |\n| --- | --- | --- |\n",
    );
    for (name, source) in [
        ("2 GB of zeros", "head -c 2000000000 /dev/zero".to_owned()),
        ("270 MB of lines", format!("cat {}", lines.display())),
    ] {
        let mut best = [Duration::MAX; 2];
        for _ in 0..3 {
            let relayed = format!("{} --relay on -- {source} | cat >/dev/null", ours.prefix[0]);
            for (script, best) in [relayed, format!("{source} | cat | cat >/dev/null")].iter().zip(&mut best) {
                let start = Instant::now();
                assert!(Command::new("sh").args(["-c", script]).status().expect("sh").success());
                *best = start.elapsed().min(*best);
            }
        }
        report.push_str(&format!("| {name} | {:.2} s | {:.2} s |\n", best[0].as_secs_f64(), best[1].as_secs_f64()));
    }
    fs::remove_dir_all(folder).expect("clean up");
    report
}

fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an index into a list of a thousand
    let index = (as_f64(sorted.len() as u64 - 1) * share) as usize;
    sorted[index]
}

fn micros(time: Duration) -> String {
    format!("{} µs", time.as_micros())
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn as_f64(value: u64) -> f64 {
    value as f64
}

/// What runs under the inits.
#[allow(unsafe_code)] // forks in a program of one thread
mod child {
    use super::{Duration, Instant, Read as _, Write as _};
    use nix::{
        sys::{
            signal::{SigSet, Signal, kill},
            wait::waitpid,
        },
        unistd::{ForkResult, Pid, fork, pipe},
    };

    /// Says a byte when ready, a byte at each USR1, and ends at TERM.
    pub fn signals() {
        let mut set = SigSet::empty();
        set.add(Signal::SIGUSR1);
        set.add(Signal::SIGTERM);
        set.thread_block().expect("block");
        let mut stdout = std::io::stdout();
        loop {
            stdout.write_all(b".").and_then(|()| stdout.flush()).expect("answer");
            if set.wait() != Ok(Signal::SIGUSR1) {
                return;
            }
        }
    }

    /// Leaves orphans that end all at once, and tells how many microseconds passed until all were reaped.
    pub fn orphans(count: usize) {
        let (waits, lets_go) = pipe().expect("a pipe");
        let (hears, says) = pipe().expect("a pipe");
        // SAFETY: this process has one thread.
        if let ForkResult::Child = unsafe { fork() }.expect("fork") {
            for _ in 0..count {
                // SAFETY: as above.
                match unsafe { fork() }.expect("fork") {
                    ForkResult::Child => {
                        drop((lets_go, says));
                        let _ = nix::unistd::read(&waits, &mut [0]); // the end of the file is what it waits for
                        std::process::exit(0);
                    }
                    ForkResult::Parent { child } => {
                        nix::unistd::write(&says, &child.as_raw().to_ne_bytes()).expect("tell");
                    }
                }
            }
            std::process::exit(0);
        }
        drop(says);
        let mut pids = Vec::new();
        std::fs::File::from(hears).read_to_end(&mut pids).expect("hear");
        let pids: Vec<Pid> = pids
            .chunks_exact(4)
            .map(|bytes| Pid::from_raw(i32::from_ne_bytes(bytes.try_into().expect("four bytes"))))
            .collect();
        assert_eq!(pids.len(), count);
        waitpid(None, None).expect("the parent of the orphans");
        let start = Instant::now();
        drop(lets_go);
        for pid in pids {
            while kill(pid, None).is_ok() {
                assert!(start.elapsed() < Duration::from_secs(60), "not reaped within a minute");
                std::thread::yield_now();
            }
        }
        println!("{}", start.elapsed().as_micros());
    }
}
