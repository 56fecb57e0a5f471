//! A node with a real kubelet: containerd and runc run real containers of the images that `docker/build` made.
//!
//! It needs root, and control groups that it may add to. Pods have a network of their own, and reach this machine at the node's address,
//! which is where a server for them must listen. Names, registries and the rest of the world are not there.

use super::{Cluster, Namespace, cluster};
use crate::env::{container::on_path, free_port, keeper::Keeper, stderr};
use serde_json::json;
use std::{
    fs, io,
    net::{Shutdown, TcpListener, TcpStream},
    panic::catch_unwind,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    thread,
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/env/kubernetes/node.sh");
/// Networks for tests alone: no packet to them leaves a machine (RFC 2544).
const NETWORK: &str = "198.18";
/// Where Debian's package, and everybody else, puts the plugins.
const PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// The worker image.
pub const WORKER: &str = concat!("localhost/sendo-worker:", env!("CARGO_PKG_VERSION"));
/// The control image.
pub const CONTROL: &str = concat!("localhost/sendo-control:", env!("CARGO_PKG_VERSION"));

/// Sleeps.
pub const PAUSE: &str = "localhost/pause:1";

/// A running one, and the namespace whose Pods it runs.
pub struct Node {
    pub namespace: Namespace<'static>,
    pub name: String,
    /// This machine, as its Pods see it.
    pub address: String,
    keeper: Keeper,
}

/// The one of this run.
pub fn real() -> &'static Node {
    static NODE: OnceLock<Option<Node>> = OnceLock::new();
    let node = NODE.get_or_init(|| catch_unwind(|| Node::start(cluster(), &images())).ok());
    node.as_ref().expect("the node did not start; why stands with the test that wanted it first")
}

impl Node {
    /// With these images, and [`PAUSE`].
    pub fn start(cluster: &'static Cluster, images: &[PathBuf]) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "a real kubelet needs root: run `make test` as root");
        let namespace = cluster.namespace();
        let keeper = Keeper::new();
        let pid = std::process::id();
        // One of each for each test run on the machine.
        let (bridge, cgroup) = (format!("sendo{pid}"), format!("sendo-test-{pid}"));
        let network = format!("{NETWORK}.{}", pid % 256);
        let address = format!("{network}.1");
        let name = format!("{}-real", namespace.name);
        let user = format!("system:node:{name}");
        cluster.pki.certify(&name, &user, Some("system:nodes"), &[&address, &name]);
        let kubeconfig = cluster.pki.kubeconfig(
            &name,
            &cluster.url,
            &json!({"client-certificate": pki(cluster, &name, "crt"), "client-key": pki(cluster, &name, "key")}),
        );
        let file = |name: &str| keeper.file(name);
        fs::create_dir_all(file("network")).unwrap();
        fs::write(file("containerd.toml"), containerd(keeper.folder())).unwrap();
        fs::write(file("network/10-test.conflist"), pods_network(&bridge, &network, keeper.folder())).unwrap();
        fs::write(file("kubelet.json"), kubelet(cluster, &name, &address, &cgroup, keeper.folder())).unwrap();
        let mut node = Command::new("unshare");
        node.args(["--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child", "--"]);
        node.arg(SCRIPT).arg(keeper.folder()).args(images);
        node.env("BRIDGE", &bridge).env("ADDRESS", &address).env("CGROUP", &cgroup).env("NAME", &name);
        node.env("LABELS", namespace.label()).env("KUBECONFIG", kubeconfig);
        node.env("KUBELET", cluster.programs.join("kubelet"));
        let stop = format!(
            "kill -KILL \"$(cat {0}/node.pid)\"; PATH=$PATH:/usr/sbin:/sbin; ip link del {bridge}
             n=0; while [ $n -lt 300 ] && [ -n \"$(ls -d /sys/fs/cgroup/{cgroup} /sys/fs/cgroup/*/{cgroup} 2>/dev/null)\" ]; do
               find /sys/fs/cgroup/{cgroup} /sys/fs/cgroup/*/{cgroup} -depth -type d -exec rmdir {{}} + 2>/dev/null
               n=$((n + 1)); sleep 0.1
             done",
            keeper.folder().display()
        );
        keeper.start("node", &node, Some(&stop));
        let is_ready = || namespace.get("node", &name).is_some_and(|node| super::namespace::is_ready(&node));
        keeper.ready("node", is_ready);
        Self { namespace, name, address, keeper }
    }

    /// A port of the node's address that leads to this one of the machine's loopback, as long as the test run lasts.
    pub fn way_to(&self, port: u16) -> u16 {
        let listener = TcpListener::bind((self.address.as_str(), 0)).unwrap();
        let way = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for pod in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                pass_on(&pod, &server);
                pass_on(&server, &pod);
            }
        });
        way
    }

    /// Kills a container and takes it out of containerd's books, as `crictl rm --force` does: the kubelet finds nothing where it had been.
    pub fn forget_container(&self, id: &str) {
        // gRPC: no compression, the length; then field 1, a text (<https://github.com/kubernetes/cri-api>: RemoveContainerRequest).
        let text = [&[0x0a, u8::try_from(id.len()).unwrap()], id.as_bytes()].concat();
        let message = [&[0], &u32::try_from(text.len()).unwrap().to_be_bytes()[..], &text].concat();
        let (body, head) = (self.keeper.file("request"), self.keeper.file("answer"));
        fs::write(&body, message).unwrap();
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--http2-prior-knowledge",
            "--header",
            "content-type: application/grpc",
        ]);
        curl.args(["--header", "te: trailers", "--dump-header"])
            .arg(&head)
            .arg("--data-binary")
            .arg(format!("@{}", body.display()));
        curl.arg("--unix-socket").arg(self.keeper.file("containerd.sock"));
        let output = curl.arg("http://localhost/runtime.v1.RuntimeService/RemoveContainer").output().unwrap();
        let answer = fs::read_to_string(&head).unwrap_or_default();
        assert!(output.status.success() && answer.contains("grpc-status: 0"), "{}{answer}", stderr(&output));
    }

    /// The pid of what all of it runs under.
    pub fn pid(&self) -> i32 {
        self.keeper.pid_of("node")
    }

    /// What is in the system as long as the node of a test run is: its bridge, its control groups.
    pub fn traces(run: u32) -> Vec<PathBuf> {
        let groups = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|group| group.path());
        let groups = groups.chain(["/sys/fs/cgroup".into()]).map(|group| group.join(format!("sendo-test-{run}")));
        groups.chain([format!("/sys/class/net/sendo{run}").into()]).filter(|trace| trace.exists()).collect()
    }
}

/// Until the end of one direction, which is told.
fn pass_on(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to); // a side that is gone has ended it
        let _ = to.shutdown(Shutdown::Write);
    });
}

fn pki(cluster: &Cluster, name: &str, end: &str) -> PathBuf {
    cluster.pki.file(&format!("{name}.{end}"))
}

/// As `make images` makes them, beside the supervisor that the tests drive.
fn images() -> [PathBuf; 2] {
    let target = crate::env::supervisor();
    let target = target.parent().and_then(Path::parent).unwrap();
    ["worker.tar", "control.tar"].map(|image| {
        let image = target.join("images").join(image);
        assert!(image.exists(), "{} is not there; `make test` makes it, by `make images`", image.display());
        image
    })
}

fn containerd(folder: &Path) -> String {
    on_path("containerd");
    let plugins = PLUGINS.iter().find(|folder| Path::new(folder).join("bridge").exists());
    let plugins = plugins.expect("no network plugins; run `make test`, which installs them");
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{folder}/network"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#
    )
}

/// A bridge whose address on this machine the Pods reach, and no way further. It is not `isGateway`, which would make the machine a router.
fn pods_network(bridge: &str, network: &str, folder: &Path) -> String {
    json!({
        "cniVersion": "0.4.0", "name": "test", "plugins": [{
            "type": "bridge", "bridge": bridge, "isGateway": false, "ipMasq": false,
            "ipam": {
                "type": "host-local", "dataDir": folder.join("addresses"),
                "ranges": [[{"subnet": format!("{network}.0/24"), "gateway": format!("{network}.1")}]],
            },
        }],
    })
    .to_string()
}

fn kubelet(cluster: &Cluster, name: &str, address: &str, cgroup: &str, folder: &Path) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": address, "port": free_port(), "readOnlyPort": 0, "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": true},
            "x509": {"clientCAFile": cluster.pki.file("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki(cluster, name, "crt"), "tlsPrivateKeyFile": pki(cluster, name, "key"),
        "containerRuntimeEndpoint": format!("unix://{}/containerd.sock", folder.display()),
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{cgroup}"), "enforceNodeAllocatable": [],
        "failSwapOn": false, "failCgroupV1": false, "makeIPTablesUtilChains": false,
        "resolvConf": "", "podLogsDir": folder.join("logs"), "volumePluginDir": folder.join("plugins"),
        "nodeStatusUpdateFrequency": "5s", "nodeLeaseDurationSeconds": 20,
        // The disk is the machine's own, and others fill it.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
    })
    .to_string()
}
