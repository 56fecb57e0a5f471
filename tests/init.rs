//! The supervisor without a job: a plain, correct init, as PID 1 and as an ordinary process.
//!
//! Each guarantee has its control: the same children under `programs/careless`, which does nothing that an init must do, or bare.

use crate::env::{self, LIMIT, wait_for};
use nix::sys::signal::Signal;
use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// The first real-time signal that the C library leaves to programs.
const REAL_TIME: i32 = 34;
/// How often the races are run.
const ROUNDS: usize = 30;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// In a PID namespace of its own.
    PidOne,
    Ordinary,
}

const BOTH: [Place; 2] = [Place::PidOne, Place::Ordinary];

/// A command under test; ends with the test.
struct Running {
    process: Child,
    place: Place,
    /// Its stdout and stderr; files, because a pipe would wait for every process that holds it.
    folder: TempDir,
}

struct Ended {
    /// -n if signal n ended it.
    code: i32,
    stdout: Vec<u8>,
    stderr: String,
}

impl Running {
    fn start(place: Place, words: &[&str]) -> Self {
        let folder = env::scratch();
        let mut command = match place {
            Place::PidOne => Command::new("unshare"),
            Place::Ordinary => Command::new(words[0]),
        };
        match place {
            Place::PidOne => command.args(["--fork", "--pid", "--mount-proc", "--kill-child", "--"]).args(words),
            Place::Ordinary => command.args(&words[1..]),
        };
        let output = |name: &str| File::create(folder.path().join(name)).unwrap();
        command.stdin(Stdio::null()).stdout(output("stdout")).stderr(output("stderr"));
        let process = command.spawn().unwrap();
        Self { process, place, folder }
    }

    /// The pid, seen from here, of what stands in the place of an init.
    fn init(&self) -> i32 {
        let pid = i32::try_from(self.process.id()).unwrap();
        if self.place == Place::Ordinary { pid } else { wait_for("PID 1", || only_child(pid)) }
    }

    fn stdout(&self) -> String {
        fs::read_to_string(self.folder.path().join("stdout")).unwrap()
    }

    #[track_caller]
    fn says(&self, line: &str) {
        wait_for(&format!("`{line}` on stdout"), || self.stdout().lines().any(|said| said == line).then_some(()));
    }

    #[track_caller]
    fn end(mut self) -> Ended {
        use std::os::unix::process::ExitStatusExt as _;
        let status = wait_for("the end of the command", || self.process.try_wait().unwrap());
        Ended {
            code: status.code().unwrap_or_else(|| -status.signal().unwrap()),
            stdout: fs::read(self.folder.path().join("stdout")).unwrap(),
            stderr: fs::read_to_string(self.folder.path().join("stderr")).unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[track_caller]
fn run(place: Place, words: &[&str]) -> Ended {
    Running::start(place, words).end()
}

/// `words` under the supervisor.
fn under(words: &[&str]) -> Vec<&'static str> {
    under_with(&[], words)
}

fn under_with(flags: &[&str], words: &[&str]) -> Vec<&'static str> {
    let supervisor = env::supervisor();
    let all = [&[supervisor.to_str().unwrap()], flags, &["--"], words].concat();
    all.into_iter().map(|word| &*word.to_owned().leak()).collect()
}

fn program(name: &str) -> &'static str {
    format!("{}/tests/programs/{name}", env!("CARGO_MANIFEST_DIR")).leak()
}

fn only_child(pid: i32) -> Option<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.split_whitespace().next()?.parse().ok()
}

/// Real-time signals too, which have no name in nix.
#[track_caller]
fn send(pid: i32, signal: i32) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap();
    assert!(sent.success());
}

fn number(signal: Signal) -> i32 {
    signal as i32
}

/// A line of `/proc/PID/status` that is a set of signals.
fn signals(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    u64::from_str_radix(line.unwrap(), 16).unwrap()
}

// Exit codes and usage.

#[test]
fn the_exit_code_is_the_childs() {
    for place in BOTH {
        for (script, code) in [
            ("exit 0", 0),
            ("exit 3", 3),
            ("exit 255", 255),
            ("kill -TERM $$", 143),
            ("kill -KILL $$", 137),
            ("kill -34 $$", 128 + REAL_TIME),
        ] {
            assert_eq!(run(place, &under(&["sh", "-c", script])).code, code, "{script}, {place:?}");
        }
    }
}

#[test]
fn what_cannot_be_started_is_127_or_126() {
    let folder = env::scratch();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let file = |name: &str, content: &[u8], mode| {
        fs::write(path(name), content).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        path(name)
    };
    let mut foreign = fs::read(env::supervisor()).unwrap();
    foreign[18..20].copy_from_slice(&[0xf3, 0]); // e_machine, elf(5): RISC-V
    for place in BOTH {
        for (command, code) in [
            ("no-such-command".into(), 127),
            (path("missing"), 127),
            (file("no-interpreter", b"#!/missing\n", 0o755), 127),
            (path(""), 126),
            (file("not-executable", b"#!/bin/sh\n", 0o644), 126),
            (file("for-another-machine", &foreign, 0o755), 126),
        ] {
            let ended = run(place, &under(&[&command]));
            assert_eq!(ended.code, code, "{command}, {place:?}: {}", ended.stderr);
            assert!(ended.stderr.contains(&command), "{}", ended.stderr);
        }
    }
}

#[test]
fn bad_usage_is_64_names_the_flag_and_the_mend() {
    let supervisor = env::supervisor();
    let supervisor = supervisor.to_str().unwrap();
    for (words, parts) in [
        (vec!["--bogus", "true"], ["--bogus", "--help"]),
        (vec!["--"], ["nothing to run", "usage:"]),
        (vec!["--grace", "5", "--", "true"], ["--grace", "30s"]),
        (vec!["--relay", "maybe", "--", "true"], ["--relay", "on"]),
        (vec!["--job", "a", "--", "true"], ["--attempt", "SENDO_ATTEMPT"]),
    ] {
        let ended = run(Place::Ordinary, &[&[supervisor], words.as_slice()].concat());
        assert_eq!((ended.code, ended.stdout.as_slice()), (64, b"".as_slice()), "{words:?}");
        assert!(parts.iter().all(|part| ended.stderr.contains(part)), "{}", ended.stderr);
    }
    let variable = run(Place::Ordinary, &["env", "SENDO_GRACE=5", supervisor, "--", "true"]);
    assert_eq!(variable.code, 64);
    assert!(variable.stderr.contains("SENDO_GRACE") && variable.stderr.contains("30s"), "{}", variable.stderr);
    for (flag, part) in [("--help", "--grace SPAN"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let ended = run(Place::Ordinary, &[supervisor, flag]);
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
        assert!(String::from_utf8(ended.stdout).unwrap().contains(part));
    }
}

// Signals.

#[test]
fn signals_reach_the_childs_whole_group_each_time() {
    for place in BOTH {
        let running = Running::start(place, &under(&[program("listener")]));
        running.says("parent ready");
        running.says("child ready");
        let named = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGWINCH].map(number);
        let twice = [named.as_slice(), &[REAL_TIME, 64, number(Signal::SIGTERM)]].concat();
        let mut expected = vec!["child ready".to_owned(), "parent ready".to_owned()];
        for signal in twice {
            send(running.init(), signal);
            expected.extend([format!("child {signal}"), format!("parent {signal}")]);
            expected.sort();
            let mut said = vec![];
            wait_for(&format!("{expected:?}"), || {
                said = running.stdout().lines().map(str::to_owned).collect::<Vec<_>>();
                (said.len() >= expected.len()).then_some(())
            });
            said.sort();
            assert_eq!(said, expected, "{place:?}");
        }
        send(running.init(), number(Signal::SIGQUIT));
        assert_eq!(running.end().code, 0);
    }
}

#[test]
fn control_a_careless_init_forwards_nothing() {
    for place in BOTH {
        let running = Running::start(place, &[program("careless"), program("listener")]);
        running.says("parent ready");
        let child = only_child(running.init()).unwrap();
        send(running.init(), number(Signal::SIGTERM));
        send(child, number(Signal::SIGUSR1));
        running.says("parent 10");
        assert!(!running.stdout().contains("15"), "{place:?}");
        send(child, number(Signal::SIGQUIT));
    }
}

#[test]
fn the_grace_ends_in_a_kill_and_no_grace_never_does() {
    let folder = env::scratch();
    let go = folder.path().join("go");
    let script = format!("trap '' TERM; echo ready; until [ -e {} ]; do sleep 0.05; done; exit 5", go.display());
    for place in BOTH {
        let start = |flags: &[&str]| {
            let running = Running::start(place, &under_with(flags, &["sh", "-c", &script]));
            running.says("ready");
            send(running.init(), number(Signal::SIGTERM));
            running
        };
        let without = start(&[]);
        assert_eq!(start(&["--grace", "1s"]).end().code, 137, "{place:?}");
        // As long as the other's whole life, and alive.
        assert!(env::is_alive(without.init()), "{place:?}");
        fs::write(&go, "").unwrap();
        assert_eq!(without.end().code, 5, "{place:?}");
        fs::remove_file(&go).unwrap();
    }
}

#[test]
fn a_term_right_after_the_start_is_not_lost() {
    for _ in 0..ROUNDS {
        let running = Running::start(Place::Ordinary, &under(&["sleep", "1000"]));
        send(running.init(), number(Signal::SIGTERM));
        let code = running.end().code;
        // Before the supervisor's first line of code, the kernel ends it as any process.
        assert!([143, -15].contains(&code), "{code}");
    }
    for _ in 0..ROUNDS {
        let running = Running::start(Place::PidOne, &under(&["sleep", "1000"]));
        // Before the first line of code the kernel discards what PID 1 does not block: not ours to mend.
        let init = running.init();
        wait_for("the supervisor to block TERM", || {
            let status = fs::read_to_string(format!("/proc/{init}/status")).ok()?;
            (status.starts_with("Name:\tsendo") && signals(&status, "SigBlk") & 1 << 14 != 0).then_some(())
        });
        send(init, number(Signal::SIGTERM));
        assert_eq!(running.end().code, 143);
    }
}

#[test]
fn a_term_that_waited_before_the_start_is_forwarded() {
    for place in BOTH {
        let pending = [program("burdened"), "--pending-term"];
        assert_eq!(run(place, &[&pending, under(&["sleep", "1000"]).as_slice()].concat()).code, 143, "{place:?}");
        let control = run(place, &[&pending[..], &["cat", "/proc/self/status"]].concat());
        assert_ne!(signals(str::from_utf8(&control.stdout).unwrap(), "ShdPnd"), 0);
    }
}

// Orphans and leftovers.

#[test]
fn orphans_are_reaped() {
    for place in BOTH {
        assert_eq!(run(place, &under(&[program("orphans"), "20", "gone"])).code, 0, "{place:?}");
    }
    // The control: the same orphans stay.
    let careless = [program("careless"), program("orphans"), "20", "zombies"];
    assert_eq!(run(Place::PidOne, &careless).code, 0);
}

#[test]
fn what_the_child_leaves_behind_is_asked_to_end() {
    for place in BOTH {
        let notes = |init: fn(&[&str]) -> Vec<&'static str>| {
            let folder = env::scratch();
            let file = folder.path().join("notes");
            let ended = run(place, &init(&[program("daemon"), file.to_str().unwrap(), "obedient"]));
            assert_eq!(ended.code, 0, "{place:?}");
            fs::read_to_string(file).unwrap()
        };
        assert!(notes(under).ends_with("\nTERM\n"), "{place:?}");
        let careless: fn(&[&str]) -> _ = |words| [&[program("careless")], words].concat().iter().map(leaked).collect();
        let control = notes(careless);
        assert!(!control.contains("TERM"), "{place:?}");
        end_daemon(place, &control);
    }
}

#[test]
fn what_does_not_end_is_killed() {
    let folder = env::scratch();
    for relay in ["off", "on"] {
        let file = folder.path().join(relay);
        let daemon = [program("daemon"), file.to_str().unwrap(), "stubborn"];
        assert_eq!(run(Place::PidOne, &under_with(&["--relay", relay], &daemon)).code, 0);
        assert!(fs::read_to_string(&file).unwrap().ends_with("TERM\n"));
        fs::remove_file(&file).unwrap();
        assert_eq!(run(Place::Ordinary, &under_with(&["--relay", relay], &daemon)).code, 0);
        let notes = fs::read_to_string(&file).unwrap();
        assert!(notes.ends_with("TERM\n") && !env::is_alive(pid_in(&notes)), "{notes}");
    }
    let file = folder.path().join("control");
    let daemon = [program("careless"), program("daemon"), file.to_str().unwrap(), "stubborn"];
    assert_eq!(run(Place::Ordinary, &daemon).code, 0);
    let notes = fs::read_to_string(&file).unwrap();
    assert!(env::is_alive(pid_in(&notes)));
    end_daemon(Place::Ordinary, &notes);
}

#[test]
fn where_nothing_is_left_nothing_is_waited_for() {
    let started = std::time::Instant::now();
    // With the margin of a sweep each time, this would take longer than the limit.
    for _ in 0..100 {
        assert_eq!(run(Place::Ordinary, &under(&["true"])).code, 0);
    }
    assert!(started.elapsed() < LIMIT);
}

#[test]
fn a_killed_supervisor_takes_its_child_along() {
    let child_of = |words: &[&str]| {
        let mut running = Running::start(Place::Ordinary, words);
        let child = wait_for("the child", || only_child(running.init()));
        running.says("ready");
        running.process.kill().unwrap();
        running.process.wait().unwrap();
        child
    };
    let script = ["sh", "-c", "trap '' TERM HUP; echo ready; while sleep 0.1; do :; done"];
    let child = child_of(&under(&script));
    wait_for("the child to die", || (!env::is_alive(child)).then_some(()));
    let control = child_of(&[&[program("careless")], &script[..]].concat());
    assert!(env::is_alive(control));
    env::kill(control, Signal::SIGKILL);
}

fn pid_in(notes: &str) -> i32 {
    notes.lines().find_map(|line| line.strip_prefix("pid ")?.parse().ok()).unwrap()
}

fn end_daemon(place: Place, notes: &str) {
    // PID 1 took everything of its namespace along.
    if place == Place::Ordinary {
        env::kill(pid_in(notes), Signal::SIGKILL);
    }
}

fn leaked(word: &&str) -> &'static str {
    (*word).to_owned().leak()
}

// What the child inherits.

#[test]
fn the_child_starts_with_a_clean_slate() {
    let status = ["cat", "/proc/self/status"];
    for place in BOTH {
        let text = |words: &[&str]| String::from_utf8(run(place, words).stdout).unwrap();
        let burdened = |words: &[&str]| text(&[&[program("burdened")], words].concat());
        for name in ["SigBlk", "SigIgn", "SigPnd", "ShdPnd"] {
            assert_eq!(signals(&burdened(&under(&status)), name), 0, "{name}, {place:?}");
        }
        let control = burdened(&status);
        assert!(signals(&control, "SigBlk") != 0 && signals(&control, "SigIgn") != 0, "{control}");
        // A child whose launcher ignored SIGCHLD is still reaped by us, with its code.
        let code = run(place, &[&[program("burdened")], under(&["sh", "-c", "exit 9"]).as_slice()].concat()).code;
        assert_eq!(code, 9, "{place:?}");
        assert_eq!(run(place, &[&[program("burdened")], under(&[program("orphans"), "5", "gone"]).as_slice()].concat()).code, 0);
    }
}

#[test]
fn the_child_leads_a_group_of_its_own() {
    let leads = |words: &[&str]| {
        let stat = String::from_utf8(run(Place::Ordinary, words).stdout).unwrap();
        let (pid, rest) = stat.split_once(' ').unwrap();
        rest.rsplit_once(") ").unwrap().1.split(' ').nth(2) == Some(pid)
    };
    let stat = ["cat", "/proc/self/stat"];
    assert!(leads(&under(&stat)));
    assert!(!leads(&stat));
}

#[test]
fn the_child_inherits_stdin_descriptors_and_environment_and_nothing_of_ours() {
    let script = "cat; for fd in /proc/$$/fd/*; do echo ${fd##*/}; done; env | grep -v '^_=' | sort";
    let child = ["sh", "-c", script];
    for place in BOTH {
        let text = |words: &[&str]| {
            let launch = ["env", "SENDO_GRACE=1h", "SENDO_UNKNOWN=x", "SENDOX=kept", "sh", "-c", "printf 'in\\nput' | exec \"$@\"", "sh"];
            String::from_utf8(run(place, &[&launch[..], words].concat()).stdout).unwrap()
        };
        let bare = text(&child);
        assert!(bare.starts_with("in\nput") && bare.contains("SENDO_GRACE=1h"), "{bare}");
        let without_ours: Vec<_> = bare.lines().filter(|line| !line.starts_with("SENDO_")).collect();
        assert_eq!(text(&under(&child)).lines().collect::<Vec<_>>(), without_ours, "{place:?}");
    }
}

#[test]
fn the_childs_own_user_cannot_read_the_supervisors_environment() {
    let folder = env::scratch();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("supervisor");
    fs::copy(env::supervisor(), &copy).unwrap();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "SENDO_SECRET=hidden"];
    let parents = ["sh", "-c", "cat /proc/$PPID/environ; echo $?"];
    for place in BOTH {
        let text = |words: &[&str]| {
            let ended = run(place, &[&nobody[..], words].concat());
            String::from_utf8(ended.stdout).unwrap()
        };
        assert_eq!(text(&[&[copy.to_str().unwrap(), "--"], &parents[..]].concat()), "1\n", "{place:?}");
        let control = ["sh", "-c", &format!("{}; true", "sh -c 'cat /proc/$PPID/environ'")];
        assert!(text(&control).contains("SENDO_SECRET=hidden"), "{place:?}");
    }
}

// Its own stdio, and the relay.

#[test]
fn closed_stdio_is_no_obstacle() {
    for place in BOTH {
        for relay in ["off", "on"] {
            for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
                let launch = ["sh", "-c", &format!("exec \"$@\" {closed}"), "sh"];
                let words = under_with(&["--relay", relay], &["sh", "-c", "echo a; echo b >&2; exit 4"]);
                assert_eq!(run(place, &[&launch[..], &words].concat()).code, 4, "{closed}, relay {relay}, {place:?}");
            }
        }
    }
}

#[test]
fn a_reader_that_went_away_does_not_kill_the_child() {
    let folder = env::scratch();
    let code = folder.path().join("code");
    let writes = "i=0; while [ $i -lt 100 ]; do echo line || exit 1; i=$((i+1)); done; exit 6";
    for place in BOTH {
        let pipe = format!("({{ \"$@\"; echo $? > {}; }} | true)", code.display());
        let ended = |words: &[&str]| {
            run(place, &[&["sh", "-c", &pipe, "sh"], words].concat());
            fs::read_to_string(&code).unwrap().trim().to_owned()
        };
        assert_eq!(ended(&under_with(&["--relay", "on"], &["sh", "-c", writes])), "6", "{place:?}");
        assert_ne!(ended(&["sh", "-c", writes]), "6", "{place:?}");
    }
}

#[test]
fn the_relay_passes_every_byte() {
    let folder = env::scratch();
    let file = folder.path().join("binary");
    let mut random = File::open("/dev/urandom").unwrap();
    let mut bytes = vec![0; 3 << 20];
    std::io::Read::read_exact(&mut random, &mut bytes).unwrap();
    bytes.extend(b"\nno end of line");
    fs::write(&file, &bytes).unwrap();
    let script = format!("cat {0}; cat {0} >&2", file.display());
    for place in BOTH {
        let words = under_with(&["--relay", "on"], &["sh", "-c", &script]);
        let running = Running::start(place, &words);
        let kept = running.folder.path().join("stderr");
        let mut running = running;
        wait_for("the end", || running.process.try_wait().unwrap());
        same(&bytes, &running.folder.path().join("stdout"));
        same(&bytes, &kept);
    }
}

/// Without a dump of megabytes where they differ.
#[track_caller]
fn same(expected: &[u8], file: &Path) {
    let found = fs::read(file).unwrap();
    let at = expected.iter().zip(&found).position(|(one, other)| one != other);
    assert_eq!((found.len(), at), (expected.len(), None));
}
