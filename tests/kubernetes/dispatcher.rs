//! A `sendo serve` of a test's own on a namespace of its own.

use crate::env::{
    elasticmq::CREDENTIALS,
    kubernetes::{Cluster, Namespace, cluster, free_port},
    scratch, sendo, stderr, stdout, wait_for,
};
use sendo::{cluster::kubernetes::pod_name, record::wire::AttemptId};
use serde_json::{Value, json};
use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};
use tempfile::TempDir;

/// Gone when dropped, and its namespace with it.
pub struct Dispatcher {
    process: Child,
    home: TempDir,
    pub url: String,
    /// Where supervisors ask.
    pub workers: String,
    pub namespace: Namespace<'static>,
}

/// What is not as usual.
#[derive(Default)]
pub struct Setup<'a> {
    /// Keys of the program itself.
    pub program: &'a str,
    /// Keys of its cluster.
    pub keys: &'a str,
    pub template: &'a str,
    /// The way to the API server.
    pub api: Option<&'a str>,
    /// Where supervisors are heard, and the way that they take there.
    pub workers: Option<(u16, &'a str)>,
}

impl Dispatcher {
    pub fn start() -> Self {
        Self::with("", "")
    }

    /// One with more keys for its cluster, and a template.
    pub fn with(keys: &str, template: &str) -> Self {
        Self::on(cluster(), keys, template)
    }

    /// The same on a cluster that may be broken.
    pub fn on(cluster: &'static Cluster, keys: &str, template: &str) -> Self {
        Self::set_up(cluster, &Setup { keys, template, ..Setup::default() })
    }

    pub fn set_up(cluster: &'static Cluster, setup: &Setup<'_>) -> Self {
        let namespace = cluster.namespace();
        let home = scratch();
        let people = free_port();
        let workers = setup.workers.map_or_else(free_port, |(port, _)| port);
        let kubeconfig = namespace.dispatcher_by(setup.api.unwrap_or(&cluster.url));
        let config = settings(home.path(), &namespace.name, &kubeconfig, people, workers, setup);
        let process = run(home.path(), &config);
        let [url, workers] = [people, workers].map(|port| format!("http://127.0.0.1:{port}"));
        let mut dispatcher = Self { process, home, url, workers, namespace };
        dispatcher.wait_until_ready();
        dispatcher
    }

    fn wait_until_ready(&mut self) {
        wait_for("sendo serve to answer", || {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("sendo serve ended with {status}: {}", self.log());
            }
            let ready = sendo().args(["jobs", "--server", &self.url]).output().unwrap();
            ready.status.success().then_some(())
        });
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again after that.
    pub fn restart(&mut self) {
        self.process = run(self.home.path(), &self.home.path().join("sendo.toml"));
        self.wait_until_ready();
    }

    /// SQLite's address of its ledger, where it has no other.
    pub fn ledger(&self) -> String {
        format!("sqlite://{}", self.home.path().join("state/ledger.db").display())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    pub fn run(&self, words: &[&str]) -> Output {
        sendo().args(words).env("SENDO_SERVER", &self.url).output().unwrap()
    }

    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        let output = self.run(&[words, &["--json"]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[track_caller]
    pub fn submit(&self, job: &Value) {
        let file = self.home.path().join("job.json");
        fs::write(&file, job.to_string()).unwrap();
        let output = self.run(&["submit", file.to_str().unwrap()]);
        assert!(output.status.success(), "{}", stderr(&output));
    }

    /// Waits until the job is in that phase; gives back its `show`.
    #[track_caller]
    pub fn wait(&self, job: &str, phase: &str) -> Value {
        wait_for(&format!("job {job} to be {phase}; {}", self.home.path().display()), || {
            let shown = self.json(&["show", job]);
            let now = shown["phase"].as_str().unwrap();
            let over = ["succeeded", "failed", "cancelled", "rejected", "held"].contains(&now);
            assert!(now == phase || !over, "the job is {now}, not {phase}: {shown:#}\n{}", self.log());
            (now == phase).then_some(shown)
        })
    }

    /// Waits until the program has said this.
    #[track_caller]
    pub fn wait_for_log(&self, words: &str) {
        wait_for(&format!("`{words}` in the log"), || self.log().contains(words).then_some(()));
    }

    /// Rows of a query on the ledger, by SQLite's own program.
    #[track_caller]
    pub fn sql(&self, query: &str) -> Vec<Value> {
        let output =
            Command::new("sqlite3").arg("-json").arg(self.home.path().join("state/ledger.db")).arg(query).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        if output.stdout.is_empty() { vec![] } else { serde_json::from_str(&stdout(&output)).unwrap() }
    }

    /// Waits until the attempt's Pod is there and such.
    #[track_caller]
    pub fn wait_for_pod(&self, job: &str, what: &str, mut such: impl FnMut(&Value) -> bool) -> Value {
        self.namespace.wait_for_pod(&pod(job, 1), what, |pod| such(pod).then(|| pod.clone()))
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // A namespace waits for its Pods' finalizers, and nobody is left to take them off.
        let name = self.namespace.name.as_str();
        let pods = self.namespace.cluster.kubectl().args(["--namespace", name, "get", "pods", "-o", "name"]).output();
        for pod in pods.map(|output| stdout(&output)).unwrap_or_default().lines() {
            let words =
                ["--namespace", name, "patch", pod, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#];
            let _ = self.namespace.cluster.kubectl().args(words).output();
        }
    }
}

/// The name of an attempt's Pod.
pub fn pod(job: &str, attempt: u32) -> String {
    pod_name(&AttemptId { job: job.into(), attempt })
}

/// A job that runs a shell script, with what a small machine can give.
pub fn script(id: &str, script: &str) -> Value {
    json!({"version": 1, "id": id, "command": ["sh", "-c", script], "retry": {"infrastructure_limit": 0},
        "resources": {"cpu": "100m", "memory": "64Mi"}})
}

/// The job's last attempt, as `show` tells it.
pub fn attempt(shown: &Value) -> &Value {
    shown["attempts"].as_array().unwrap().last().unwrap()
}

/// A `sendo serve` that must not come up: what it says.
#[track_caller]
pub fn refused(keys: &str, template: &str) -> String {
    let namespace = cluster().namespace();
    let home = scratch();
    let kubeconfig = namespace.dispatcher();
    let setup = Setup { keys, template, ..Setup::default() };
    let config = settings(home.path(), &namespace.name, &kubeconfig, free_port(), free_port(), &setup);
    let output = sendo().args(["serve", "--config"]).arg(config).output().unwrap();
    assert!(!output.status.success());
    stderr(&output)
}

fn settings(home: &Path, namespace: &str, kubeconfig: &Path, people: u16, workers: u16, setup: &Setup<'_>) -> PathBuf {
    let Setup { program, keys, template, .. } = setup;
    let direct = format!("http://127.0.0.1:{workers}");
    let way = setup.workers.map_or(&*direct, |(_, way)| way);
    let config = home.join("sendo.toml");
    fs::write(home.join("template.yaml"), if template.is_empty() { "{}" } else { *template }).unwrap();
    let text = format!(
        "listen = \"127.0.0.1:{people}\"\nworker_listen = \"127.0.0.1:{workers}\"\nstate_dir = \"{home}/state\"\nmax_running = 100\n\
         heartbeat = \"200ms\"\nreport_every = \"200ms\"\n{program}\n\
         [[cluster]]\nkind = \"kubernetes\"\nname = \"k\"\nkubeconfig = \"{kubeconfig}\"\nnamespace = \"{namespace}\"\n\
         image = \"worker\"\ndefault_tag = \"1\"\nservice_account = \"sendo-worker\"\nledger_url = \"{way}\"\n\
         template = \"{home}/template.yaml\"\n{keys}\n",
        home = home.display(),
        kubeconfig = kubeconfig.display()
    );
    fs::write(&config, text).unwrap();
    config
}

fn run(home: &Path, config: &Path) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(home.join("log")).unwrap();
    let mut command = sendo();
    command.args(["serve", "--config"]).arg(config).stdin(Stdio::null());
    command.envs(CREDENTIALS).env("AWS_EC2_METADATA_DISABLED", "true");
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}
