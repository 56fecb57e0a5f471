//! A `sendo serve` of a test's own on a namespace of its own.

use crate::env::{
    self, elasticmq, free_port,
    kubernetes::{
        Cluster, Namespace, cluster,
        node::{self, Node},
    },
    ledgers::Place,
    scratch, sendo, stderr, stdout, wait_for,
};
use nix::sys::signal::Signal;
use sendo::{cluster::kubernetes::pod_name, record::wire::AttemptId};
use serde_json::{Value, json};
use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};
use tempfile::TempDir;

/// Gone when dropped, and its namespace with it.
pub struct Dispatcher {
    process: Child,
    home: TempDir,
    pub url: String,
    /// Where supervisors ask.
    pub workers: String,
    pub namespace: Arc<Namespace<'static>>,
    setup: Setup,
}

/// What a `sendo serve` is given.
#[derive(Clone)]
pub struct Setup {
    namespace: Arc<Namespace<'static>>,
    /// This machine, as its Pods see it.
    address: String,
    /// The worker image without its tag, and that.
    image: (&'static str, &'static str),
    /// Of its cluster; tables may follow.
    keys: String,
    template: String,
    /// In place of its own file.
    ledger: Option<Arc<Place>>,
    /// In place of a key of its own.
    key_file: Option<PathBuf>,
    /// Keys of the program itself.
    program: String,
    /// The way to the API server, if it is not the straight one.
    api: Option<String>,
    /// Where supervisors are heard, and the way that they take there.
    workers: Option<(u16, String)>,
}

impl Setup {
    fn new(namespace: Namespace<'static>, keys: &str, template: &str) -> Self {
        let namespace = Arc::new(namespace);
        let (address, image) = ("127.0.0.1".into(), ("worker", "1"));
        let (keys, template) = (keys.into(), template.into());
        let (ledger, key_file, program, api, workers) = (None, None, String::new(), None, None);
        Self { namespace, address, image, keys, template, ledger, key_file, program, api, workers }
    }

    /// Another on the same ledger and the same cluster, heard by supervisors at this port.
    pub fn replica_of(other: &Dispatcher, heard: u16) -> Self {
        let setup = other.setup.clone();
        let way = setup.workers.as_ref().expect("a way that does not end with the other").1.clone();
        Self { key_file: Some(other.state().join("key")), workers: Some((heard, way)), ..setup }
    }

    /// On a cluster that may be broken.
    pub fn on(cluster: &'static Cluster, keys: &str, template: &str) -> Self {
        Self::new(cluster.namespace(), keys, template)
    }

    /// With more keys of the program itself.
    pub fn program(self, keys: &str) -> Self {
        Self { program: keys.into(), ..self }
    }

    /// With a way to the API server that may be spoiled.
    pub fn by_way_of(self, api: String) -> Self {
        Self { api: Some(api), ..self }
    }

    /// Where it listens for supervisors, and the way that they take.
    pub fn workers(self, heard: u16, way: String) -> Self {
        Self { workers: Some((heard, way)), ..self }
    }

    /// Its Pods are run by the real kubelet, in the image that `docker/build` made.
    pub fn real(node: &Node, keys: &str, template: &str) -> Self {
        let setup = Self::new(node.namespace.beside(), keys, template);
        Self { address: node.address.clone(), image: node::WORKER.rsplit_once(':').unwrap(), ..setup }
    }

    /// Its jobs come from this queue, too.
    pub fn queue(mut self, url: &str) -> Self {
        let endpoint = elasticmq::elasticmq().endpoint();
        self.keys += &format!("\n[[queue]]\nurl = {url:?}\nendpoint = {endpoint:?}\n");
        self
    }

    /// Its ledger is on a server.
    pub fn ledger(self, place: Place) -> Self {
        Self { ledger: Some(Arc::new(place)), ..self }
    }

    /// What its jobs need is there before it is.
    pub fn start_with(self, supply: impl FnOnce(&Namespace)) -> Dispatcher {
        supply(&self.namespace);
        self.start()
    }

    pub fn start(self) -> Dispatcher {
        let home = scratch();
        let people = free_port();
        let workers = self.workers.as_ref().map_or_else(free_port, |(port, _)| *port);
        self.write(home.path(), people, workers);
        let process = run(home.path(), self.ledger.as_deref());
        let url = format!("http://127.0.0.1:{people}");
        let workers = format!("http://{}:{workers}", self.address);
        let namespace = self.namespace.clone();
        let mut dispatcher = Dispatcher { process, home, url, workers, namespace, setup: self };
        dispatcher.wait_until_ready();
        dispatcher
    }

    fn write(&self, home: &Path, people: u16, workers: u16) {
        let template = if self.template.is_empty() { "{}" } else { &self.template };
        fs::write(home.join("template.yaml"), template).unwrap();
        let (address, (image, tag)) = (&self.address, self.image);
        let way = self.workers.as_ref().map_or_else(|| format!("http://{address}:{workers}/"), |(_, way)| way.clone());
        let api = self.api.as_ref().unwrap_or(&self.namespace.cluster.url);
        let key = self.key_file.as_ref().map(|file| format!("key_file = {file:?}\n")).unwrap_or_default();
        let text = format!(
            "listen = \"127.0.0.1:{people}\"\nworker_listen = \"{address}:{workers}\"\nstate_dir = \"{home}/state\"\nmax_running = 1000\n\
             heartbeat = \"200ms\"\nreport_every = \"200ms\"\n{key}{program}\n\
             [[cluster]]\nkind = \"kubernetes\"\nname = \"k\"\nkubeconfig = \"{kubeconfig}\"\nnamespace = \"{namespace}\"\n\
             image = \"{image}\"\ndefault_tag = \"{tag}\"\nservice_account = \"sendo-worker\"\nledger_url = \"{way}\"\n\
             template = \"{home}/template.yaml\"\n{keys}\n",
            home = home.display(),
            kubeconfig = self.namespace.dispatcher_by(api).display(),
            namespace = self.namespace.name,
            keys = self.keys,
            program = self.program,
        );
        fs::write(home.join("sendo.toml"), text).unwrap();
    }
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
        Setup::on(cluster, keys, template).start()
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

    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    /// Stops it as a person would.
    pub fn stop(&mut self) {
        env::kill(self.pid(), Signal::SIGTERM);
        assert!(self.process.wait().unwrap().success(), "{}", self.log());
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again after that.
    pub fn restart(&mut self) {
        self.process = run(self.home.path(), self.setup.ledger.as_deref());
        self.wait_until_ready();
    }

    /// Where its ledger lies.
    pub fn state(&self) -> PathBuf {
        self.home.path().join("state")
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
        self.submit_all(std::slice::from_ref(job));
    }

    #[track_caller]
    pub fn submit_all(&self, jobs: &[Value]) {
        let file = |(number, job): (usize, &Value)| {
            let file = self.home.path().join(format!("job-{number}.json"));
            fs::write(&file, job.to_string()).unwrap();
            file.into_os_string().into_string().unwrap()
        };
        let files: Vec<String> = jobs.iter().enumerate().map(file).collect();
        let words: Vec<&str> = ["submit"].into_iter().chain(files.iter().map(String::as_str)).collect();
        let output = self.run(&words);
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

    /// Rows of a query on the ledger, where it is a file by SQLite's own program.
    #[track_caller]
    pub fn sql(&self, query: &str) -> Vec<Value> {
        if let Some(place) = &self.setup.ledger {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            return runtime.block_on(place.rows(query));
        }
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

impl Dispatcher {
    /// What a person would look at first.
    fn remains(&self) -> String {
        let log = self.log();
        let from = log.lines().count().saturating_sub(80);
        let log: Vec<&str> = log.lines().skip(from).collect();
        let words = ["--namespace", &self.namespace.name, "get", "pods,nodes", "-o", "wide"];
        let seen = self.namespace.cluster.kubectl().args(words).output().map(|output| stdout(&output));
        format!("{}\n{}", log.join("\n"), seen.unwrap_or_default())
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.remains());
        }
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
    let home = scratch();
    let setup = Setup::new(cluster().namespace(), keys, template);
    setup.write(home.path(), free_port(), free_port());
    let output = sendo().args(["serve", "--config"]).arg(home.path().join("sendo.toml")).output().unwrap();
    assert!(!output.status.success());
    stderr(&output)
}

fn run(home: &Path, ledger: Option<&Place>) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(home.join("log")).unwrap();
    let mut command = sendo();
    command.args(["serve", "--config"]).arg(home.join("sendo.toml")).stdin(Stdio::null());
    command.envs(elasticmq::CREDENTIALS).env("AWS_EC2_METADATA_DISABLED", "true");
    command.envs(ledger.map(|place| ("SENDO_DATABASE_URL", &place.url)));
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}
