//! A real Kubernetes control plane on loopback: etcd, API server, controller manager, scheduler, and kwok for nodes that are not there.
//!
//! `cluster` is one for all tests of a run, each in a namespace of its own; who must break things starts one alone (`Cluster::start`). On
//! kwok's nodes a Pod's annotations choose its fate (`stages.yaml`); on an agent's (`agent`) the real supervisor runs as a process; on
//! the node of `node` a real kubelet runs real containers.

pub mod agent;
mod namespace;
pub mod node;
mod pki;

pub use namespace::Namespace;

use super::{free_port, keeper::Keeper, stderr};
use pki::Pki;
use serde_json::Value;
use std::{
    io::Write as _,
    panic::catch_unwind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

const STAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/env/kubernetes/stages.yaml");
/// The API server's own address in the (unused) network of Services.
const SERVICE: &str = "10.0.0.1";
/// After so long without a heartbeat a node counts as not ready: long enough for a busy machine, short enough for a test.
const NODE_GRACE: &str = "20s";

/// A running one; gone when dropped.
pub struct Cluster {
    /// The API server's.
    pub url: String,
    programs: PathBuf,
    admin: PathBuf,
    pki: Pki,
    keeper: Keeper,
    /// etcd's, and the API server's own.
    ports: (u16, u16),
}

/// The one of this run.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| catch_unwind(Cluster::start).ok());
    cluster.as_ref().expect("the cluster did not start; why stands with the test that wanted it first")
}

impl Cluster {
    pub fn start() -> Self {
        let cluster = Self::without_scheduler();
        cluster.run_scheduler();
        cluster.run_kwok();
        cluster
    }

    /// etcd, API server and controller manager alone: what is created stays as it is.
    pub fn without_scheduler() -> Self {
        Self::with_manager(&[])
    }

    /// The same with more flags for the controller manager.
    pub fn with_manager(flags: &[&str]) -> Self {
        let programs = programs();
        let keeper = Keeper::new();
        let [etcd, peer, api] = [(); 3].map(|()| free_port());
        let url = format!("https://127.0.0.1:{api}");
        let pki = Pki::new(keeper.folder());
        pki.certify(
            "api",
            "kube-apiserver",
            None,
            &["127.0.0.1", SERVICE, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"],
        );
        pki.client("to-kubelet", "kube-apiserver-kubelet-client", Some("system:masters"), &url);
        let admin = pki.client("admin", "admin", Some("system:masters"), &url);
        let cluster = Self { url, programs, admin, pki, keeper, ports: (etcd, api) };
        cluster.run_etcd(etcd, peer);
        cluster.run_api_server(&["sa.key"]);
        cluster.keeper.ready("kube-apiserver", || cluster.answers());
        cluster.run_controller_manager(flags);
        cluster
    }

    fn run_etcd(&self, port: u16, peer: u16) {
        let [here, there] = [port, peer].map(|port| format!("http://127.0.0.1:{port}"));
        let mut etcd = self.program("etcd");
        etcd.args([
            "--name",
            "test",
            "--log-level",
            "warn",
            "--unsafe-no-fsync",
            "--quota-backend-bytes",
            "8589934592",
        ]);
        etcd.arg("--data-dir").arg(self.keeper.file("etcd"));
        etcd.args(["--listen-client-urls", &here, "--advertise-client-urls", &here, "--listen-peer-urls", &there]);
        etcd.args(["--initial-advertise-peer-urls", &there, "--initial-cluster", &format!("test={there}")]);
        self.keeper.start("etcd", &etcd, None);
        self.keeper.ready("etcd", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// The first of the keys signs, and tokens by each of them are good.
    fn run_api_server(&self, keys: &[&str]) {
        let (etcd, port) = self.ports;
        let mut api = self.program("kube-apiserver");
        api.args(["--etcd-servers", &format!("http://127.0.0.1:{etcd}"), "--secure-port", &port.to_string()]);
        api.args(["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"]);
        api.args(["--endpoint-reconciler-type", "none", "--service-cluster-ip-range", "10.0.0.0/24"]);
        api.args(["--authorization-mode", "Node,RBAC", "--anonymous-auth=false", "--allow-privileged"]);
        // A namespace's annotation sends its Pods to its own nodes.
        api.args(["--enable-admission-plugins", "PodNodeSelector", "--event-ttl", "10m", "--profiling=false"]);
        api.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        for (flag, file) in [
            ("tls-cert-file", "api.crt"),
            ("tls-private-key-file", "api.key"),
            ("client-ca-file", "ca.crt"),
            ("service-account-signing-key-file", keys[0]),
            ("kubelet-client-certificate", "to-kubelet.crt"),
            ("kubelet-client-key", "to-kubelet.key"),
        ] {
            api.arg(format!("--{flag}")).arg(self.pki.file(file));
        }
        for key in keys {
            api.arg("--service-account-key-file").arg(self.pki.file(key));
        }
        api.args(["--kubelet-preferred-address-types", "InternalIP", "--kubelet-certificate-authority"]);
        api.arg(self.pki.file("ca.crt"));
        self.keeper.start("kube-apiserver", &api, None);
    }

    fn run_controller_manager(&self, flags: &[&str]) {
        let name = "kube-controller-manager";
        let kubeconfig = self.pki.client(name, &format!("system:{name}"), None, &self.url);
        let mut manager = self.program(name);
        manager.arg("--kubeconfig").arg(kubeconfig);
        manager.args(["--leader-elect=false", "--use-service-account-credentials", "--secure-port", "0"]);
        manager.args(["--node-monitor-period", "2s", "--node-monitor-grace-period", NODE_GRACE]);
        manager.args(["--kube-api-qps", "500", "--kube-api-burst", "1000"]);
        manager.arg("--service-account-private-key-file").arg(self.pki.file("sa.key"));
        manager.arg("--root-ca-file").arg(self.pki.file("ca.crt")).args(flags);
        self.keeper.start(name, &manager, None);
    }

    fn run_scheduler(&self) {
        let kubeconfig = self.pki.client("kube-scheduler", "system:kube-scheduler", None, &self.url);
        let file = self.keeper.file("scheduler.json");
        let config = serde_json::json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": false},
            "clientConnection": {"kubeconfig": kubeconfig, "qps": 1000, "burst": 1000},
        });
        std::fs::write(&file, config.to_string()).unwrap();
        let mut scheduler = self.program("kube-scheduler");
        scheduler.arg("--config").arg(file).args(["--secure-port", "0"]);
        self.keeper.start("kube-scheduler", &scheduler, None);
    }

    fn run_kwok(&self) {
        let kubeconfig = self.pki.client("kwok", "kwok", Some("system:masters"), &self.url);
        let mut kwok = self.program("kwok");
        kwok.arg("--kubeconfig").arg(kubeconfig).args(["--config", STAGES]);
        kwok.args(["--manage-nodes-with-label-selector", "type=kwok", "--node-lease-duration-seconds", "20"]);
        kwok.args(["--node-ip", "127.0.0.1", "--cidr", "127.100.0.0/16", "--node-port", "0"]);
        kwok.args(["--server-address", &format!("127.0.0.1:{}", free_port())]);
        self.keeper.start("kwok", &kwok, None);
    }

    fn answers(&self) -> bool {
        self.kubectl().args(["get", "--raw", "/readyz"]).output().unwrap().status.success()
    }

    /// The pid of one of its programs.
    pub fn pid(&self, program: &str) -> i32 {
        self.keeper.pid_of(program)
    }

    /// Kills the API server and waits until it is gone; `return_api_server` starts it again.
    pub fn kill_api_server(&self) {
        let pid = self.pid("kube-apiserver");
        super::kill(pid, nix::sys::signal::Signal::SIGKILL);
        super::wait_for("the API server to be gone", || (!super::is_alive(pid)).then_some(()));
    }

    pub fn return_api_server(&self) {
        self.keeper.again("kube-apiserver");
        self.wait_for_api_server();
    }

    /// While it was away, its port may have become the near end of somebody's connection: then it is started once more.
    fn wait_for_api_server(&self) {
        super::wait_for("the API server", || {
            if !super::is_alive(self.pid("kube-apiserver")) {
                self.keeper.again("kube-apiserver");
            }
            self.answers().then_some(())
        });
    }

    /// What signs the tokens of service accounts.
    pub fn signing_key(&self) -> PathBuf {
        self.pki.file("sa.key")
    }

    /// Tokens are signed with another key from now on; those by the old one stay good.
    pub fn rotate_signing_key(&self) {
        self.pki.signing_key("sa-2.key");
        self.kill_api_server();
        self.run_api_server(&["sa-2.key", "sa.key"]);
        self.wait_for_api_server();
    }

    /// The administrator's kubeconfig.
    pub fn admin(&self) -> &Path {
        &self.admin
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> Command {
        let mut kubectl = self.program("kubectl");
        kubectl.arg("--kubeconfig").arg(&self.admin).arg("--cache-dir").arg(self.keeper.file("kubectl-cache"));
        kubectl.args(["--request-timeout", "60s"]).stdin(Stdio::null());
        kubectl
    }

    /// Runs kubectl with these words; gives back what it says.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.kubectl().args(words).output().unwrap();
        assert!(output.status.success(), "kubectl {words:?}: {}", stderr(&output));
        super::stdout(&output)
    }

    /// Creates or changes these objects.
    #[track_caller]
    pub fn apply(&self, object: &Value) {
        self.feed(&["apply", "-f", "-"], object);
    }

    /// Runs kubectl with an object, or a list of them, on its stdin.
    #[track_caller]
    fn feed(&self, words: &[&str], object: &Value) {
        self.try_feed(words, object).unwrap_or_else(|why| panic!("kubectl {words:?}: {why}"));
    }

    fn try_feed(&self, words: &[&str], object: &Value) -> Result<(), String> {
        let mut kubectl = self.kubectl();
        kubectl.args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut kubectl = kubectl.spawn().unwrap();
        let _ = kubectl.stdin.take().unwrap().write_all(object.to_string().as_bytes()); // one that is gone says below why
        let output = kubectl.wait_with_output().unwrap();
        if output.status.success() { Ok(()) } else { Err(stderr(&output)) }
    }

    /// A namespace that nothing else is in.
    pub fn namespace(&self) -> Namespace<'_> {
        Namespace::new(self)
    }

    fn program(&self, name: &str) -> Command {
        Command::new(self.programs.join(name))
    }
}

/// Where `tools/kubernetes` puts them; `make test` calls it and says so.
fn programs() -> PathBuf {
    let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/kubernetes");
    let output = Command::new(tool).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "no Kubernetes; `make test` makes it, and says what it misses");
    super::stdout(&output).trim().into()
}
