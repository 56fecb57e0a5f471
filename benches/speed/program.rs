//! `sendo serve`, the release build, between a queue, a ledger and a cluster.

use crate::env::{
    elasticmq::{CREDENTIALS, Queue, elasticmq},
    free_port,
    kubernetes::{
        Namespace,
        node::{self, Node},
    },
    scratch, sendo,
};
use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// Where its Pods are made.
pub struct Site {
    pub kubeconfig: PathBuf,
    namespace: String,
    image: &'static str,
    tag: &'static str,
    /// This machine, as they see it.
    address: String,
}

impl Site {
    /// Nobody runs them.
    pub fn unmanned(namespace: &Namespace<'_>) -> Self {
        Self::new(namespace, ("registry.example/embulk", "1"), "127.0.0.1".into())
    }

    /// The real kubelet runs them, in the worker image.
    pub fn real(node: &Node, namespace: &Namespace<'_>) -> Self {
        Self::new(namespace, node::WORKER.rsplit_once(':').expect("a tag"), node.address.clone())
    }

    fn new(namespace: &Namespace<'_>, (image, tag): (&'static str, &'static str), address: String) -> Self {
        Self { kubeconfig: namespace.dispatcher(), namespace: namespace.name.clone(), image, tag, address }
    }
}

/// Ends when dropped.
pub struct Program {
    process: Child,
    home: TempDir,
}

impl Program {
    pub fn start(queue: &Queue, ledger: &str, site: &Site, max_running: usize) -> Self {
        let Site { kubeconfig, namespace, image, tag, address } = site;
        let home = scratch();
        let (people, workers) = (free_port(), free_port());
        let settings = format!(
            "listen = \"127.0.0.1:{people}\"\nworker_listen = \"{address}:{workers}\"\nstate_dir = {:?}\ndatabase_url = {ledger:?}\n\
             max_running = {max_running}\n[[queue]]\nurl = {:?}\nendpoint = {:?}\n[[cluster]]\nkind = \"kubernetes\"\nname = \"bench\"\n\
             kubeconfig = {kubeconfig:?}\nnamespace = {namespace:?}\nimage = {image:?}\ndefault_tag = {tag:?}\n\
             ledger_url = \"http://{address}:{workers}\"\n",
            home.path().join("state"),
            queue.url,
            elasticmq().endpoint(),
        );
        let file = home.path().join("sendo.toml");
        fs::write(&file, settings).expect("write the settings");
        let log = File::create(home.path().join("log")).expect("a log");
        let mut command = sendo();
        command.args(["serve", "--config"]).arg(&file).envs(CREDENTIALS).env("AWS_EC2_METADATA_DISABLED", "true");
        let process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("start sendo serve");
        Self { process, home }
    }

    /// CPU time so far, all threads.
    pub fn cpu(&self) -> Duration {
        cpu(self.process.id())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}

/// CPU time of a process (proc_pid_stat(5): utime and stime, in hundredths of a second).
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}
