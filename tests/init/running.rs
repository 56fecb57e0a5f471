//! A command in the place of an init: started, heard, ended.

use crate::env::{self, wait_for};
use nix::sys::signal::Signal;
use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// 32 and 33: the C library's `posix_spawn` ignores them for its children, and its `signal` refuses them to everybody.
const OF_THE_C_LIBRARY: u64 = 0b11 << 31;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// In a PID namespace of its own.
    PidOne,
    Ordinary,
}

pub const BOTH: [Place; 2] = [Place::PidOne, Place::Ordinary];

/// A command under test; ends with the test.
pub struct Running {
    pub process: Child,
    place: Place,
    /// Its stdout and stderr; files, because a pipe would wait for every process that holds it.
    folder: TempDir,
}

pub struct Ended {
    /// -n if signal n ended it.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Ended {
    pub fn stdout(&self) -> &str {
        str::from_utf8(&self.stdout).unwrap()
    }

    pub fn stderr(&self) -> &str {
        str::from_utf8(&self.stderr).unwrap()
    }
}

impl Running {
    pub fn start(place: Place, words: &[&str]) -> Self {
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
    pub fn init(&self) -> i32 {
        let pid = i32::try_from(self.process.id()).unwrap();
        if self.place == Place::Ordinary { pid } else { wait_for("PID 1", || only_child(pid)) }
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(self.folder.path().join("stdout")).unwrap()
    }

    #[track_caller]
    pub fn says(&self, line: &str) {
        wait_for(&format!("`{line}` on stdout"), || self.stdout().lines().any(|said| said == line).then_some(()));
    }

    #[track_caller]
    pub fn end(mut self) -> Ended {
        use std::os::unix::process::ExitStatusExt as _;
        let status = wait_for("the end of the command", || self.process.try_wait().unwrap());
        Ended {
            code: status.code().unwrap_or_else(|| -status.signal().unwrap()),
            stdout: fs::read(self.folder.path().join("stdout")).unwrap(),
            stderr: fs::read(self.folder.path().join("stderr")).unwrap(),
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
pub fn run(place: Place, words: &[&str]) -> Ended {
    Running::start(place, words).end()
}

/// `words` under the supervisor.
pub fn under(words: &[&str]) -> Vec<&'static str> {
    under_with(&[], words)
}

pub fn under_with(flags: &[&str], words: &[&str]) -> Vec<&'static str> {
    let supervisor = env::supervisor();
    let all = [&[supervisor.to_str().unwrap()], flags, &["--"], words].concat();
    all.into_iter().map(|word| &*word.to_owned().leak()).collect()
}

pub fn program(name: &str) -> &'static str {
    format!("{}/tests/programs/{name}", env!("CARGO_MANIFEST_DIR")).leak()
}

pub fn only_child(pid: i32) -> Option<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.split_whitespace().next()?.parse().ok()
}

/// Real-time signals too, which have no name in nix.
#[track_caller]
pub fn send(pid: i32, signal: i32) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap();
    assert!(sent.success());
}

pub fn number(signal: Signal) -> i32 {
    signal as i32
}

/// A line of `/proc/PID/status` that is a set of signals.
pub fn signals(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    u64::from_str_radix(line.unwrap(), 16).unwrap() & !OF_THE_C_LIBRARY
}
