//! A container as a cluster would make a worker's: runc, read-only root, user 10001, no capabilities, no new privileges, the default
//! seccomp profile, limits for memory, CPU and processes.
//!
//! Two things differ from a Pod: the network namespace is the host's, because the tests' ledgers listen on loopback; and most roots
//! borrow the host's `/usr`, read-only, in the place of an image.

use super::{is_alive, wait_for};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Once,
};
use tempfile::TempDir;

/// Whom a worker runs as; no user of the host.
pub const USER: u32 = 10001;
pub const MIB: u64 = 1 << 20;
/// Where the supervisor lies inside.
pub const SUPERVISOR: &str = "/sendo-supervisor";
/// Where `tests/programs` lies inside.
pub const PROGRAMS: &str = "/programs";

/// From Debian's golang-github-containers-common: what podman and CRI-O give by default, and Docker's own in all but words.
const SECCOMP: &str = "/usr/share/containers/seccomp.json";
const CGROUPS: &str = "/sys/fs/cgroup";

/// What the root folder holds.
pub enum Root {
    /// `FROM scratch`: the supervisor, and a busybox called `sh`; both static.
    Scratch,
    /// The host's programs and libraries, read-only, and users of its own.
    Host,
}

/// What is to run, and where.
pub struct Spec {
    folder: TempDir,
    env: Vec<String>,
    mounts: Vec<Value>,
    /// User and group.
    pub user: u32,
    pub capabilities: Vec<&'static str>,
    pub memory_limit: u64,
    pub cgroup_namespace: bool,
}

/// A running container; gone with its control group when dropped.
pub struct Container {
    id: String,
    folder: TempDir,
    process: Child,
}

impl Spec {
    pub fn new(root: Root) -> Self {
        let folder = super::scratch();
        let file = |name: &str| folder.path().join("root").join(name);
        fs::create_dir(file("")).unwrap();
        fs::set_permissions(file(""), fs::Permissions::from_mode(0o755)).unwrap();
        let mut mounts = vec![
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount(CGROUPS, "cgroup", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777", "size=65536k"]),
        ];
        match root {
            Root::Scratch => {
                fs::create_dir(file("bin")).unwrap();
                fs::copy(super::supervisor(), file(&SUPERVISOR[1..])).unwrap();
                fs::copy(on_path("busybox"), file("bin/sh")).unwrap();
            }
            Root::Host => {
                let users = format!("root:x:0:0::/:/bin/sh\nworker:x:{USER}:{USER}::/tmp:/bin/sh\n");
                fs::create_dir(file("etc")).unwrap();
                fs::write(file("etc/passwd"), users).unwrap();
                fs::write(file("etc/hosts"), "127.0.0.1 localhost worker\n").unwrap();
                mounts.push(bind(Path::new("/usr"), "/usr", "ro"));
                for entry in fs::read_dir("/").unwrap().flatten() {
                    let name = entry.file_name();
                    match fs::read_link(entry.path()) {
                        Ok(target) if target.starts_with("usr") => symlink(target, file("").join(name)).unwrap(),
                        _ => {}
                    }
                }
                // Java's settings, and the names of programs.
                for entry in fs::read_dir("/etc").unwrap().flatten() {
                    let name = entry.file_name().into_string().unwrap_or_default();
                    if name == "alternatives" || name.starts_with("java") {
                        mounts.push(bind(&entry.path(), &format!("/etc/{name}"), "ro"));
                    }
                }
                mounts.push(bind(&super::supervisor(), SUPERVISOR, "ro"));
                let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
                mounts.push(bind(&programs, PROGRAMS, "ro"));
            }
        }
        let env = vec!["PATH=/usr/local/bin:/usr/bin:/bin".into(), "HOME=/tmp".into()];
        let (capabilities, memory_limit) = (vec![], 64 * MIB);
        Self { folder, env, mounts, user: USER, capabilities, memory_limit, cgroup_namespace: true }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Shows something of the host's inside; `access` is `ro` or `rw`.
    pub fn bind(mut self, source: &Path, inside: &str, access: &str) -> Self {
        self.mounts.push(bind(source, inside, access));
        self
    }

    /// A file of this container's, on the host; it goes with the container.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn start(self, command: &[&str]) -> Container {
        say_what_is_not_proved();
        let id = self.folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        fs::create_dir(self.file("bundle")).unwrap();
        let config = self.config(&id, command);
        fs::write(self.file("bundle/config.json"), serde_json::to_vec_pretty(&config).unwrap()).unwrap();
        let output = |name: &str| File::create(self.file(name)).unwrap();
        let mut run = runc(self.folder.path());
        // Kept until `delete`: the control group is to be read when all is over.
        run.args(["run", "--keep", "--bundle"]).arg(self.file("bundle")).arg(&id);
        run.stdin(Stdio::null()).stdout(output("stdout")).stderr(output("stderr"));
        Container { id, process: run.spawn().unwrap(), folder: self.folder }
    }

    fn config(&self, id: &str, command: &[&str]) -> Value {
        let sets = ["bounding", "effective", "permitted"].map(|set| (set.to_owned(), json!(self.capabilities)));
        let namespaces = ["pid", "mount", "ipc", "uts", "cgroup"].into_iter();
        let namespaces = namespaces.filter(|name| *name != "cgroup" || self.cgroup_namespace);
        let mut memory = json!({"limit": self.memory_limit});
        if fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1) {
            memory["swap"] = memory["limit"].clone();
        }
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "cwd": "/", "args": command, "env": self.env,
                "user": {"uid": self.user, "gid": self.user}, "noNewPrivileges": true,
                "capabilities": sets.into_iter().collect::<serde_json::Map<_, _>>(),
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            },
            "root": {"path": self.file("root"), "readonly": true},
            "hostname": "worker",
            "mounts": self.mounts,
            "linux": {
                "cgroupsPath": format!("/{id}"),
                "namespaces": namespaces.map(|name| json!({"type": name})).collect::<Vec<_>>(),
                "resources": {
                    "memory": memory, "cpu": {"quota": 200_000, "period": 100_000, "shares": 512}, "pids": {"limit": 100},
                },
                "seccomp": seccomp(&self.capabilities),
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        })
    }
}

impl Container {
    /// A file of [`Spec::file`].
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What it holds; `stdout` and `stderr` too.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.file(name)).unwrap_or_default()).into_owned()
    }

    /// Waits for a line on stdout.
    #[track_caller]
    pub fn says(&self, line: &str) {
        self.wait_for(&format!("`{line}` on stdout"), || self.text("stdout").lines().any(|said| said == line));
    }

    /// Waits for words on stderr.
    #[track_caller]
    pub fn logs(&self, words: &str) {
        self.wait_for(&format!("`{words}` on stderr"), || self.text("stderr").contains(words));
    }

    #[track_caller]
    fn wait_for(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let runc = self.process.id().try_into().unwrap();
        wait_for(what, || {
            let is_alive = is_alive(runc); // looked at first: what it said last is there by then
            let holds = holds();
            let said = || self.text("stdout") + &self.text("stderr");
            assert!(holds || is_alive, "the container ended without {what}: {}", said());
            holds.then_some(())
        });
    }

    /// The pid of its PID 1 on the host.
    pub fn pid(&self) -> i32 {
        let state: Value = serde_json::from_slice(&self.runc(&["state", &self.id]).stdout).unwrap();
        state["pid"].as_i64().unwrap().try_into().unwrap()
    }

    /// A signal from outside to its PID 1.
    #[track_caller]
    pub fn kill(&self, signal: &str) {
        let output = self.runc(&["kill", &self.id, signal]);
        assert!(output.status.success(), "{}", super::stderr(&output));
    }

    /// A file of its inside, as the host sees it.
    pub fn inside(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.pid()).into()
    }

    /// Runs one more command inside, not as a child of its PID 1.
    pub fn exec(&self, command: &[&str]) -> Command {
        let mut runc = runc(self.folder.path());
        runc.args(["exec", &self.id]).args(command).stdin(Stdio::null());
        runc
    }

    /// Waits for its end; gives back what runc exits with.
    #[track_caller]
    pub fn end(&mut self) -> i32 {
        wait_for("the end of the container", || self.process.try_wait().unwrap()).code().unwrap()
    }

    /// How many processes the kernel killed for its memory limit, as the host counts them.
    pub fn oom_kills(&self) -> u64 {
        let v2 = Path::new(CGROUPS).join(&self.id).join("memory.events");
        let v1 = Path::new(CGROUPS).join("memory").join(&self.id).join("memory.oom_control");
        let text = fs::read_to_string(&v1).or_else(|_| fs::read_to_string(&v2)).unwrap();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().parse().unwrap()
    }

    fn runc(&self, arguments: &[&str]) -> Output {
        runc(self.folder.path()).args(arguments).output().unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.runc(&["delete", "--force", &self.id]);
        let _ = self.process.kill();
        let _ = self.process.wait();
        // It may have come to life between the first call and the kill.
        let _ = self.runc(&["delete", "--force", &self.id]);
    }
}

fn runc(folder: &Path) -> Command {
    let mut runc = Command::new(on_path("runc"));
    runc.arg("--root").arg(folder.join("runc"));
    runc
}

/// Where a program lies; `make test` installs what these need.
pub fn on_path(name: &str) -> PathBuf {
    let mut folders: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    folders.push("/usr/sbin".into());
    let found = folders.iter().map(|folder| folder.join(name)).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("no {name}; run `make test`, which installs it"))
}

fn mount(inside: &str, kind: &str, options: &[&str]) -> Value {
    json!({"destination": inside, "type": kind, "source": kind, "options": options})
}

fn bind(source: &Path, inside: &str, access: &str) -> Value {
    json!({"destination": inside, "type": "bind", "source": source, "options": ["rbind", "nosuid", "nodev", access]})
}

/// The profile's rules that hold for this machine and these capabilities, in the form that runc reads.
fn seccomp(capabilities: &[&str]) -> Value {
    let text = fs::read(SECCOMP).unwrap_or_else(|why| panic!("{SECCOMP}: {why}; run `make test`, which installs it"));
    let profile: Value = serde_json::from_slice(&text).unwrap();
    let names =
        |of: &Value| of.as_array().into_iter().flatten().map(|name| name.as_str().unwrap().to_owned()).collect();
    let has = |name: &String| capabilities.contains(&name.as_str());
    let (architecture, machine) = match std::env::consts::ARCH {
        "aarch64" => ("SCMP_ARCH_AARCH64", "arm64"),
        _ => ("SCMP_ARCH_X86_64", "amd64"),
    };
    let holds = |rule: &&Value| {
        let [arches, needs, not_with]: [Vec<String>; 3] =
            [&rule["includes"]["arches"], &rule["includes"]["caps"], &rule["excludes"]["caps"]].map(names);
        (arches.is_empty() || arches.iter().any(|arch| arch == machine))
            && needs.iter().all(has)
            && !not_with.iter().any(has)
    };
    let rules = profile["syscalls"].as_array().unwrap().iter().filter(holds).map(|rule| {
        let fields = ["names", "action", "args", "errnoRet"].into_iter();
        let given = fields.map(|name| (name.to_owned(), rule[name].clone()));
        let given = given.filter(|(_, value)| !value.is_null() && value.as_array() != Some(&vec![]));
        Value::Object(given.collect())
    });
    json!({
        "defaultAction": profile["defaultAction"], "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [architecture], "syscalls": rules.collect::<Vec<_>>(),
    })
}

/// These tests go through on either version of control groups; which one was proved, only the machine says.
fn say_what_is_not_proved() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if !Path::new(CGROUPS).join("memory").is_dir() {
            // Not `eprintln!`, which the test harness would keep to itself.
            let _ = writeln!(
                std::io::stderr(),
                "NOT PROVED: this host has control groups of version 2 alone; the readings of version 1 were not taken"
            );
        }
    });
}

/// The JVM that the tests' Embulk runs on: its folder.
pub fn java_home() -> PathBuf {
    let java = std::env::var_os("JAVA_HOME").map_or_else(|| on_path("java"), |home| Path::new(&home).join("bin/java"));
    let java = fs::canonicalize(java).unwrap();
    java.parent().and_then(Path::parent).unwrap().to_owned()
}
