//! A machine with cgroup v2 alone, and a clock of its own: a guest under QEMU that sees this machine's files.
//!
//! Its root is this machine's, what it writes stays in its memory, so programs and paths are the same inside and out. One folder is
//! shared for writing, and at [`HOST`] this machine's loopback answers. It is emulated: KVM is not everywhere, and a nested one may
//! kill QEMU.

use super::{LIMIT, scratch, stderr};
use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// This machine's 127.0.0.1, seen from the guest (QEMU's user network).
pub const HOST: &str = "10.0.2.2";
/// Written by nobody else; only for transfers that must use a disk.
const DISK_BYTES: u64 = 64 << 20;

/// A running one; gone when dropped.
pub struct Guest {
    qemu: Child,
    /// Kills QEMU when this process is gone and could not.
    watch: Child,
    /// The second serial line: a script's path is its start.
    line: Mutex<ChildStdin>,
    folder: TempDir,
}

impl Guest {
    /// The one that tests are in together; it goes with the last of them.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Guest>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let guest = Self::boot();
            *shared = Arc::downgrade(&guest);
            guest
        })
    }

    fn boot() -> Arc<Self> {
        let folder = scratch();
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/env/guest");
        let made = Command::new(scripts.join("make")).arg(folder.path()).output().unwrap();
        assert!(made.status.success(), "no kernel for a guest: {}", stderr(&made));
        File::create(folder.path().join("disk")).unwrap().set_len(DISK_BYTES).unwrap();
        let (path, serve) = (folder.path().to_str().unwrap(), scripts.join("serve"));
        let mut qemu =
            qemu(path, serve.to_str().unwrap()).spawn().expect("qemu-system-x86_64, which `make test` installs");
        let line = Mutex::new(qemu.stdin.take().unwrap());
        let pid = qemu.id().to_string();
        let mut watch = Command::new("sh");
        let watch = watch.args(["-c", "read -r never; kill -KILL $0", &pid]).stdin(Stdio::piped()).spawn().unwrap();
        let mut guest = Self { watch, qemu, line, folder };
        guest.wait_until_up();
        Arc::new(guest)
    }

    fn wait_until_up(&mut self) {
        let until = Instant::now() + LIMIT;
        while !self.folder.path().join("up").exists() {
            let gone = self.qemu.try_wait().unwrap();
            assert!(gone.is_none() && Instant::now() < until, "no guest, QEMU: {gone:?}\n{}", self.console());
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// The folder that both sides see under the same path.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the kernel and QEMU said.
    pub fn console(&self) -> String {
        ["console", "qemu"].map(|file| fs::read_to_string(self.folder.path().join(file)).unwrap_or_default()).concat()
    }

    /// Starts a script in the guest.
    pub fn start(&self, script: &Path) {
        writeln!(self.line.lock().unwrap(), "{}", script.display()).unwrap();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        for process in [&mut self.watch, &mut self.qemu] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn qemu(folder: &str, serve: &str) -> Command {
    assert!(
        !format!("{folder}{serve}").contains([' ', ',']),
        "no blanks and commas, for QEMU's sake: {folder}, {serve}"
    );
    let file = |name: &str| PathBuf::from(folder).join(name);
    // Without `clocksource` the kernel finds the emulated TSC unstable on a busy machine.
    let kernel = format!(
        "console=ttyS0 loglevel=5 panic=-1 cgroup_no_v1=all psi=1 mitigations=off random.trust_cpu=on clocksource=hpet \
         tsc=unstable share={folder} serve={serve}"
    );
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(
            "-accel tcg,thread=multi -cpu max -smp 1 -m 1024 -nodefaults -no-user-config -display none -no-reboot"
                .split(' '),
        )
        .arg("-kernel")
        .arg(file("kernel"))
        .arg("-initrd")
        .arg(file("initrd"))
        .args(["-append", &kernel])
        .args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"])
        .args(["-virtfs", &format!("local,path={folder},mount_tag=share,security_model=none,multidevs=remap")])
        .args(["-drive", &format!("file={folder}/disk,if=virtio,format=raw,cache=unsafe")])
        .args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="])
        .args(["-serial", &format!("file:{folder}/console"), "-serial", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(File::create(file("qemu")).unwrap());
    command
}
