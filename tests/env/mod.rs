//! Surroundings: the two programs, scratch folders, waiting for a condition with a limit.

pub mod container;
pub mod cut;
pub mod databases;
pub mod dev;
pub mod elasticmq;
pub mod guest;
pub mod image;
pub mod keeper;
pub mod kubernetes;
pub mod ledgers;
pub mod names;
pub mod sqs_proxy;
pub mod toxiproxy;
pub mod wrong_ledger;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Longer than anything here takes on a busy machine; a limit, never a measure.
pub const LIMIT: Duration = Duration::from_secs(300);

/// The control program.
pub fn sendo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sendo"));
    command.env_remove("SENDO_SERVER").env_remove("SENDO_LOG");
    command
}

/// The shipped supervisor: static, size-optimised, built without `control`.
pub fn supervisor() -> PathBuf {
    made("SENDO_SUPERVISOR", "pid1/sendo-supervisor")
}

/// Embulk as `embulk/compose` makes it.
pub fn embulk() -> PathBuf {
    made("SENDO_EMBULK", "embulk")
}

/// ElasticMQ's jars as `make elasticmq` fetches them.
pub fn elasticmq() -> PathBuf {
    made("SENDO_ELASTICMQ", "elasticmq")
}

fn made(variable: &str, default: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    let path = path.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(default));
    assert!(
        path.exists(),
        "{} is not there; run `make test`, which makes it, or name it in {variable}",
        path.display()
    );
    path
}

/// A folder that goes with the test.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("sendo-test-").tempdir().unwrap()
}

/// Waits until `look` finds something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited {LIMIT:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A port that nobody listens on, on any address; each once in a test run. It lies below those that the system gives to whoever asks for
/// any (ip(7): ip_local_port_range), so no connection takes it before our server does, or while that starts again.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 10_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Another test run on this machine begins elsewhere.
    let first = std::process::id().wrapping_mul(977);
    let port =
        PORTS.map(|_| PORTS.start + first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32);
    let port = port.map(|port| u16::try_from(port).unwrap()).find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok());
    port.expect("a free port")
}

/// stdout as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// stderr as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends a signal.
pub fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Whether the process exists and is no zombie.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with('Z'))
}
