//! A cluster's network on one machine: a network namespace with Service addresses and a name server in it.

use super::{LIMIT, scratch, wait_for};
use nix::sched::{CloneFlags, unshare};
use std::{
    fs::{self, File},
    net::UdpSocket,
    process::{Child, Command, Stdio},
    thread,
};
use tempfile::TempDir;

/// Where the cluster's name server is. All of 10.96.0.0/16 and fd00:96::/64 is this machine.
pub const SERVER: &str = "10.96.0.10";
/// As a kubelet writes it for a Pod of the namespace `default`.
pub const RESOLV_CONF: &str =
    "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";

/// Runs `test` where nothing else of the machine's network is; what it starts, and each socket that it opens, is there too.
///
/// In a thread of its own, because the namespace is the thread's, and a test's thread may run other tests.
pub fn in_a_cluster<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        for words in [
            ["link", "set", "lo", "up", "", ""],
            ["addr", "add", "10.96.0.10/16", "dev", "lo", ""],
            ["-6", "addr", "add", "fd00:96::10/64", "dev", "lo"],
        ] {
            let words = words.into_iter().filter(|word| !word.is_empty());
            assert!(Command::new("busybox").arg("ip").args(words).status().unwrap().success());
        }
        test()
    };
    thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A name server that takes questions and never answers.
pub fn silent() -> UdpSocket {
    let socket = UdpSocket::bind((SERVER, 53)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// dnsmasq with the names of one cluster; gone when dropped.
pub struct NameServer {
    process: Child,
    folder: TempDir,
}

impl NameServer {
    /// Knows these names and their addresses, and no other.
    pub fn start(names: &[(&str, &str)]) -> Self {
        let folder = scratch();
        let mut command = Command::new("dnsmasq");
        command
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .args(["--no-daemon", "--conf-file=/dev/null", "--user=root", "--pid-file", "--no-resolv", "--no-hosts"])
            .args(["--bind-interfaces", "--log-queries", "--log-facility=-", "--local=/#/"])
            .arg(format!("--listen-address={SERVER}"))
            .args(names.iter().map(|(name, address)| format!("--address=/{name}/{address}")))
            .stdin(Stdio::null())
            .stderr(File::create(folder.path().join("log")).unwrap());
        let server = Self { process: command.spawn().unwrap(), folder };
        wait_for("the name server", || server.log().contains("started").then_some(()));
        server
    }

    /// What it was asked and answered.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
