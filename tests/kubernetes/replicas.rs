//! Several control programs on one ledger and one cluster: all take in and serve, one dispatches, and another when that one goes.

use super::dispatcher::{pod, script};
use crate::{
    env::{
        self,
        kubernetes::{Namespace, agent::Agent, cluster, free_port},
        ledgers::{Database, Place},
        scratch, sendo, stderr, wait_for,
    },
    ledger::fresh::runtime,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    fs::{self, OpenOptions},
    process::{Child, Stdio},
};
use tempfile::TempDir;

/// One of them.
struct Replica {
    process: Child,
    home: TempDir,
    url: String,
}

/// What they share.
struct Shared {
    place: Place,
    limits: &'static str,
    namespace: Namespace<'static>,
    home: TempDir,
    /// Where supervisors ask: in a cluster it would be a Service's, here it is one replica's own.
    workers: u16,
}

impl Shared {
    fn new(database: Database) -> Self {
        let home = scratch();
        fs::write(home.path().join("key"), [7; 32]).unwrap();
        Self { limits: "", place: Place::new(database), namespace: cluster().namespace(), home, workers: free_port() }
    }

    /// Starts one; `workers` is where it listens for supervisors.
    fn start(&self, workers: u16) -> Replica {
        let home = scratch();
        let people = free_port();
        let text = format!(
            "listen = \"127.0.0.1:{people}\"\nworker_listen = \"127.0.0.1:{workers}\"\nkey_file = \"{shared}/key\"\nmax_running = 40\n\
             heartbeat = \"200ms\"\nreport_every = \"200ms\"\n{limits}\n\
             [[cluster]]\nkind = \"kubernetes\"\nname = \"k\"\nkubeconfig = \"{kubeconfig}\"\nnamespace = \"{namespace}\"\n\
             image = \"worker\"\ndefault_tag = \"1\"\nservice_account = \"sendo-worker\"\nledger_url = \"http://127.0.0.1:{here}/\"\n",
            shared = self.home.path().display(),
            kubeconfig = self.namespace.dispatcher().display(),
            namespace = self.namespace.name,
            here = self.workers,
            limits = self.limits,
        );
        fs::write(home.path().join("sendo.toml"), text).unwrap();
        let log = OpenOptions::new().create(true).append(true).open(home.path().join("log")).unwrap();
        let mut command = sendo();
        command.args(["serve", "--config", "sendo.toml"]).env("SENDO_DATABASE_URL", &self.place.url);
        command.current_dir(home.path()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Replica { process: command.spawn().unwrap(), home, url: format!("http://127.0.0.1:{people}") }
    }

    fn rows(&self, sql: &str) -> Vec<Value> {
        runtime().block_on(self.place.rows(sql))
    }

    /// The owner's pid and its fencing number.
    fn owner(&self) -> Option<(i32, i64)> {
        let row = self.rows("SELECT holder, fence FROM leases WHERE name = 'dispatch k'").pop()?;
        let pid = row["holder"].as_str()?.split(' ').nth(1)?.parse().ok()?;
        Some((pid, row["fence"].as_i64()?))
    }
}

impl Replica {
    fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        let output = sendo().args(words).arg("--json").env("SENDO_SERVER", &self.url).output().unwrap();
        assert!(output.status.success(), "{}\n{}", stderr(&output), self.log());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[track_caller]
    fn submit(&self, id: &str, words: &str) {
        let file = self.home.path().join("job.json");
        fs::write(&file, script(id, words).to_string()).unwrap();
        self.json(&["submit", file.to_str().unwrap()]);
    }

    #[track_caller]
    fn wait_until_ready(&mut self) {
        wait_for("sendo serve to answer", || {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("sendo serve ended with {status}: {}", self.log());
            }
            let ready = sendo().args(["jobs", "--server", &self.url]).output().unwrap();
            ready.status.success().then_some(())
        });
    }

    #[track_caller]
    fn wait(&self, job: &str, phase: &str) -> Value {
        wait_for(&format!("job {job} to be {phase}"), || {
            let shown = self.json(&["show", job]);
            assert!(!["failed", "held", "rejected"].contains(&shown["phase"].as_str().unwrap()), "{shown:#}");
            (shown["phase"] == phase).then_some(shown)
        })
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn all_take_in_and_one_dispatches() {
    let shared = Shared::new(Database::Postgresql);
    let mut replicas = [shared.start(shared.workers), shared.start(free_port())];
    replicas.iter_mut().for_each(Replica::wait_until_ready);
    let _agent = Agent::start(&shared.namespace, 1);
    let ids: Vec<String> = (0..12).map(|number| format!("j{number}")).collect();
    for (number, id) in ids.iter().enumerate() {
        replicas[number % 2].submit(id, "exit 0");
    }
    for (number, id) in ids.iter().enumerate() {
        // Each knows of the other's.
        replicas[(number + 1) % 2].wait(id, "succeeded");
    }
    let attempts = shared.rows("SELECT job_id, attempt, uid FROM attempts");
    assert_eq!(attempts.len(), ids.len(), "{attempts:?}");
    assert!(attempts.iter().all(|attempt| attempt["attempt"] == 1 && !attempt["uid"].as_str().unwrap().is_empty()));
    // Of both one alone has ever launched.
    let (owner, fence) = shared.owner().unwrap();
    assert_eq!(fence, 1);
    let launching =
        replicas.each_ref().map(|replica| (replica.pid() == owner, replica.log().contains("its place exists")));
    assert!(launching.iter().all(|(is_owner, launched)| is_owner == launched), "{launching:?}");
}

#[test]
fn when_the_owner_is_killed_another_goes_on() {
    let shared = Shared::new(Database::Mariadb);
    let mut owner = shared.start(free_port());
    owner.wait_until_ready();
    wait_for("an owner", || (shared.owner()?.0 == owner.pid()).then_some(()));
    let mut other = shared.start(shared.workers);
    other.wait_until_ready();
    let _agent = Agent::start(&shared.namespace, 1);
    let place = scratch();
    let (ran, go) = (place.path().join("ran"), place.path().join("go"));
    let words = format!("echo x >> {}; while [ ! -e {} ]; do sleep 0.1; done", ran.display(), go.display());
    owner.submit("running", &words);
    wait_for("the transfer", || (fs::read_to_string(&ran).ok()? == "x\n").then_some(()));
    let uid = shared.namespace.get("pod", &pod("running", 1)).unwrap()["metadata"]["uid"].clone();
    owner.process.kill().unwrap();
    owner.process.wait().unwrap();
    // Taken in meanwhile, and launched by whoever follows.
    other.submit("waiting", "exit 0");
    other.wait("waiting", "succeeded");
    assert_eq!(shared.owner(), Some((other.pid(), 2)));
    // What ran was neither ended nor started again.
    assert_eq!(other.json(&["show", "running"])["phase"], "executing");
    fs::write(&go, "").unwrap();
    let shown = other.wait("running", "succeeded");
    assert_eq!((&shown["attempts"][0]["uid"], shown["attempts"].as_array().unwrap().len()), (&uid, 1));
    assert_eq!(fs::read_to_string(&ran).unwrap(), "x\n");
}

#[test]
fn an_owner_that_stops_hands_over_and_who_stands_by_knows_why_jobs_wait() {
    let shared = Shared { limits: "[limits]\nper_tenant = 1", ..Shared::new(Database::Postgresql) };
    let mut owner = shared.start(free_port());
    owner.wait_until_ready();
    wait_for("an owner", || (shared.owner()?.0 == owner.pid()).then_some(()));
    let mut other = shared.start(shared.workers);
    other.wait_until_ready();
    other.submit("one", "exit 0");
    other.wait("one", "setting_up");
    other.submit("another", "exit 0");
    wait_for("the other to say why", || {
        let shown = other.json(&["show", "another"]);
        assert_eq!(shown["phase"], "queued");
        shown["waits_for"].as_str()?.contains("jobs without a tenant have reached their limit").then_some(())
    });
    env::kill(owner.pid(), Signal::SIGTERM);
    assert!(owner.process.wait().unwrap().success(), "{}", owner.log());
    wait_for("the other to be the owner", || (shared.owner()? == (other.pid(), 2)).then_some(()));
    let _agent = Agent::start(&shared.namespace, 1);
    other.wait("another", "succeeded");
}
