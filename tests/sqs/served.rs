//! A `sendo serve` of a test's own that reads a queue.

use crate::env::{self, elasticmq, is_alive, sendo, stderr, supervisor, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// A running `sendo serve`; ends when dropped.
pub struct Served {
    process: Child,
    pub home: tempfile::TempDir,
    pub url: String,
}

/// A job that waits for another century: the intake alone is looked at.
pub fn waiting(id: &str) -> Value {
    json!({"version": 1, "id": id, "command": ["true"], "not_before": "2100-01-01T00:00:00Z"})
}

impl Served {
    /// On one queue, with more keys of it.
    #[track_caller]
    pub fn start(queue: &str, more: &str) -> Self {
        Self::start_at(queue, &elasticmq::elasticmq().endpoint(), more)
    }

    /// By way of another endpoint.
    #[track_caller]
    pub fn start_at(queue: &str, endpoint: &str, more: &str) -> Self {
        let home = env::scratch();
        configure(home.path(), queue, endpoint, more);
        let (process, url) = start(home.path());
        Self { process, home, url }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGTERM, and its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        env::kill(i32::try_from(self.process.id()).unwrap(), Signal::SIGTERM);
        self.process.wait().unwrap().code()
    }

    /// Again on the same folder, perhaps by way of another endpoint.
    #[track_caller]
    pub fn start_again(&mut self, queue: &str, endpoint: &str, more: &str) {
        configure(self.home.path(), queue, endpoint, more);
        (self.process, self.url) = start(self.home.path());
    }

    pub fn ledger(&self) -> PathBuf {
        self.home.path().join("state/ledger.db")
    }

    /// Runs a verb against this server.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = verb(&elasticmq::elasticmq().endpoint());
        command.args(arguments).env("SENDO_SERVER", &self.url).current_dir(self.home.path());
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a verb with `--json` that must succeed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Rows of a query on the ledger file.
    #[track_caller]
    pub fn sql(&self, query: &str) -> Vec<Value> {
        let output =
            Command::new("sqlite3").args(["-json", "-cmd", ".timeout 10000"]).arg(self.ledger()).arg(query).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        if output.stdout.is_empty() { vec![] } else { serde_json::from_slice(&output.stdout).unwrap() }
    }

    /// The ids of all jobs, in order.
    pub fn jobs(&self) -> Vec<String> {
        let rows = self.sql("SELECT id FROM jobs ORDER BY id");
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until there are exactly so many jobs.
    #[track_caller]
    pub fn wait_jobs(&self, count: usize) -> Vec<String> {
        wait_for(&format!("{count} jobs"), || Some(self.jobs()).filter(|jobs| jobs.len() == count))
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("serve.log")).unwrap()
    }

    #[track_caller]
    pub fn wait_log(&self, part: &str) {
        wait_for(&format!("`{part}` in the log"), || self.log().contains(part).then_some(()));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let attempts = fs::read_dir(self.home.path().join("state/attempts"));
        for entry in attempts.into_iter().flatten().flatten() {
            let lock = fs::read_to_string(entry.path().join("lock")).unwrap_or_default();
            let pid = lock.lines().nth(1).and_then(|line| line.split_once(' ')?.0.parse().ok());
            if let Some(pid) = pid.filter(|pid| is_alive(*pid)) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// Asks ElasticMQ for what the tests' client has no word for; gives back its answer.
#[track_caller]
pub fn ask(action: &str, request: &Value) -> Value {
    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
    let asked = client.post(elasticmq::elasticmq().endpoint()).header("x-amz-target", format!("AmazonSQS.{action}"));
    let asked = asked.header("content-type", "application/x-amz-json-1.0").body(request.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (status, text) = runtime.block_on(async {
        let answer = asked.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    });
    assert!(status.is_success(), "{action} {request}: {text}");
    if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
}

/// A verb of ours with the AWS SDK's surroundings, and nothing of this machine's own.
pub fn verb(endpoint: &str) -> Command {
    let mut command = sendo();
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.envs(elasticmq::CREDENTIALS).env("AWS_ENDPOINT_URL_SQS", endpoint).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    command
}

/// Writes the settings.
pub fn configure(home: &Path, queue: &str, endpoint: &str, more: &str) {
    let state = home.join("state");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nstate_dir = {state:?}\nheartbeat = \"200ms\"\n\
         [[queue]]\nurl = {queue:?}\nendpoint = {endpoint:?}\n{more}\n[[cluster]]\nsupervisor = {:?}\n",
        supervisor()
    );
    fs::write(home.join("sendo.toml"), text).unwrap();
}

/// The command that runs it.
pub fn serve(home: &Path) -> Command {
    let mut command = verb("http://127.0.0.1:9");
    command.args(["serve", "--config"]).arg(home.join("sendo.toml")).current_dir(home).stdin(Stdio::null());
    command
}

#[track_caller]
fn start(home: &Path) -> (Child, String) {
    let log = home.join("serve.log");
    let before = fs::read_to_string(&log).unwrap_or_default().len();
    let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
    let mut process = serve(home).stderr(file).spawn().unwrap();
    let address = wait_for("sendo serve to say its address", || {
        let text = fs::read_to_string(&log).unwrap();
        let text = &text[before..];
        if let Some(status) = process.try_wait().unwrap() {
            panic!("sendo serve ended with {status}: {text}");
        }
        Some(text.split_once("address=")?.1.split_once('\n')?.0.split_whitespace().next()?.to_owned())
    });
    (process, format!("http://{address}"))
}
