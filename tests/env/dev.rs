//! A `sendo dev` or `sendo serve` of a test's own, and what a person asks of it.

use super::{is_alive, sendo, stderr, stdout, supervisor, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// The settings of a `sendo serve`, in its folder.
const CONFIG: &str = "sendo.toml";

/// Counts those of this process.
static SERVERS: AtomicU32 = AtomicU32::new(0);

/// A running `sendo dev`; ends with all of its transfers when dropped.
pub struct Dev {
    process: Child,
    /// The folder that holds `.sendo`.
    pub home: tempfile::TempDir,
    pub url: String,
    more: Vec<String>,
}

impl Dev {
    /// Starts one in a fresh folder, with more flags.
    pub fn start(more: &[&str]) -> Self {
        let home = super::scratch();
        let more: Vec<String> = more.iter().map(|flag| (*flag).to_owned()).collect();
        let (process, url) = start(home.path(), &more);
        Self { process, home, url, more }
    }

    /// A `sendo serve` instead, on the ledger at this address, with more settings.
    pub fn serve_on(database_url: &str, more: &str) -> Self {
        let home = super::scratch();
        let process = serving(home.path(), database_url, more).spawn().unwrap();
        let url = std::fs::read_to_string(home.path().join("url")).unwrap();
        let mut dev = Self { process, home, url, more: vec![] };
        wait_for("sendo serve to answer", || {
            let log = || std::fs::read_to_string(dev.home.path().join("dev.log")).unwrap();
            if let Some(status) = dev.process.try_wait().unwrap() {
                panic!("sendo serve ended with {status}: {}", log());
            }
            let ready = sendo().args(["jobs", "--server", &dev.url]).output().unwrap();
            ready.status.success().then_some(())
        });
        dev
    }

    /// Starts a `sendo serve` in a fresh folder, with more settings, and this supervisor; the rest is as with `sendo dev`.
    pub fn serve(settings: &str, supervisor: &Path) -> Self {
        let home = super::scratch();
        let state_dir = home.path().join(".sendo");
        std::fs::create_dir(&state_dir).unwrap();
        // An address that nobody else has, and that stays the same over restarts: this process's own in the network of the machine itself.
        let number = std::process::id().wrapping_mul(64).wrapping_add(SERVERS.fetch_add(1, Ordering::Relaxed));
        let [_, b, c, d] = (number % 0x00ff_0000 + 0x0001_0000).to_be_bytes();
        let address = format!("127.{b}.{c}.{d}:8920");
        std::fs::write(state_dir.join("address"), format!("http://{address}")).unwrap();
        let text = format!(
            "listen = \"{address}\"\nstate_dir = {state_dir:?}\nheartbeat = \"200ms\"\nreport_every = \"200ms\"\n{settings}\n\
             [[cluster]]\nname = \"local\"\nsupervisor = {supervisor:?}\n"
        );
        std::fs::write(home.path().join(CONFIG), text).unwrap();
        let (process, url) = start(home.path(), &[]);
        Self { process, home, url, more: vec![] }
    }

    /// `kill -9` and start again on the same folder.
    pub fn restart_after_kill(&mut self) {
        self.kill();
        self.restart_after_stop();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGTERM, and its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        super::kill(i32::try_from(self.process.id()).unwrap(), Signal::SIGTERM);
        self.process.wait().unwrap().code()
    }

    pub fn state_dir(&self) -> PathBuf {
        self.home.path().join(".sendo")
    }

    /// Starts again on the same folder.
    pub fn restart_after_stop(&mut self) {
        (self.process, self.url) = start(self.home.path(), &self.more);
    }

    /// A verb against this server.
    pub fn verb(&self, arguments: &[&str]) -> Command {
        let mut command = sendo();
        command.args(arguments).env("SENDO_SERVER", &self.url).current_dir(self.home.path());
        command
    }

    /// Runs a verb to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.verb(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a verb with `--json` that must succeed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Submits a job.
    pub fn submit(&self, job: &Value) -> Output {
        let file = self.home.path().join("job.json");
        std::fs::write(&file, job.to_string()).unwrap();
        self.run(&["submit", file.to_str().unwrap()])
    }

    /// Submits a job that must be taken.
    #[track_caller]
    pub fn accepted(&self, job: &Value) {
        let output = self.submit(job);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stdout(&output).trim(), job["id"].as_str().unwrap());
    }

    /// Waits until the job is in one of the phases; gives back its `show`.
    #[track_caller]
    pub fn wait(&self, id: &str, phases: &[&str]) -> Value {
        let mut last = Value::Null;
        wait_for(&format!("job {id} to be {phases:?}"), || {
            last = self.json(&["show", id]);
            let phase = last["phase"].as_str().unwrap();
            let ended = ["succeeded", "failed", "cancelled", "rejected", "held"].contains(&phase);
            assert!(phases.contains(&phase) || !ended, "the job is {phase}, not {phases:?}: {last:#}");
            phases.contains(&phase).then(|| last.clone())
        })
    }

    /// The job's phases in order.
    pub fn phases(&self, id: &str) -> Vec<String> {
        let job = self.json(&["show", id]);
        job["transitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|transition| transition["to_phase"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Rows of a query on the ledger file, by SQLite's own program.
    #[track_caller]
    pub fn sql(&self, query: &str) -> Vec<Value> {
        let ledger = self.state_dir().join("ledger.db");
        let output = Command::new("sqlite3").arg("-json").arg(ledger).arg(query).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        if output.stdout.is_empty() { vec![] } else { serde_json::from_slice(&output.stdout).unwrap() }
    }

    /// The folder of an attempt.
    pub fn attempt(&self, id: &str, attempt: u32) -> PathBuf {
        self.state_dir().join("attempts").join(format!("{id}.{attempt}"))
    }

    /// The supervisor's pid: the launch wrote it into the lock file.
    pub fn supervisor_pid(&self, id: &str, attempt: u32) -> i32 {
        let lock = self.attempt(id, attempt).join("lock");
        wait_for("the supervisor's pid", || pid_in(&lock))
    }

    /// The transfer's pid: the supervisor's child.
    pub fn transfer_pid(&self, id: &str, attempt: u32) -> i32 {
        let supervisor = self.supervisor_pid(id, attempt);
        wait_for("the transfer's pid", || {
            let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        })
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // A test that failed in the middle must leave nothing behind.
        let _ = self.process.kill();
        let _ = self.process.wait();
        for entry in std::fs::read_dir(self.state_dir().join("attempts")).into_iter().flatten().flatten() {
            if let Some(pid) = pid_in(&entry.path().join("lock")).filter(|pid| is_supervisor(*pid)) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// A job that runs a shell script.
pub fn script(id: &str, script: &str) -> Value {
    json!({"version": 1, "id": id, "command": ["sh", "-c", script]})
}

fn start(home: &Path, more: &[String]) -> (Child, String) {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(home.join("dev.log")).unwrap();
    let address = home.join(".sendo/address");
    let mut command = sendo();
    command.current_dir(home);
    if home.join(CONFIG).exists() {
        command.args(["serve", "--config", CONFIG]);
    } else {
        command.arg("dev").arg("--supervisor").arg(supervisor()).args(["--heartbeat", "200ms"]).args(more);
    }
    // A port of its own: tests run side by side.
    if !address.exists() {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    let mut process = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let url = wait_for("sendo dev to answer", || {
        if let Some(status) = process.try_wait().unwrap() {
            panic!("sendo dev ended with {status}: {}", std::fs::read_to_string(home.join("dev.log")).unwrap());
        }
        let url = std::fs::read_to_string(&address).ok()?;
        let ready = sendo().args(["jobs", "--server", &url]).output().unwrap();
        ready.status.success().then_some(url)
    });
    (process, url)
}

/// The command of a `sendo serve` in a folder, which has its address in the file `url` and its output in `dev.log`.
pub fn serving(home: &Path, database_url: &str, more: &str) -> Command {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cluster = format!("[[cluster]]\nname = \"local-{port}\"\nsupervisor = {:?}\n", supervisor());
    let settings =
        format!("listen = \"127.0.0.1:{port}\"\nheartbeat = \"200ms\"\nreport_every = \"200ms\"\n{more}\n{cluster}");
    std::fs::write(home.join("sendo.toml"), settings).unwrap();
    std::fs::write(home.join("url"), format!("http://127.0.0.1:{port}")).unwrap();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(home.join("dev.log")).unwrap();
    let mut command = sendo();
    command.args(["serve", "--config", "sendo.toml"]).env("SENDO_DATABASE_URL", database_url).current_dir(home);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command
}

fn pid_in(lock: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(lock).ok()?;
    text.lines().nth(1)?.split_once(' ')?.0.parse().ok()
}

fn is_supervisor(pid: i32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.starts_with("sendo-superviso") && is_alive(pid)
}
