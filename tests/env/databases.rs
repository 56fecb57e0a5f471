//! Throw-away PostgreSQL and MariaDB that ask for passwords, started once for all tests of a run.
//!
//! A keeper process stands between them and us: when its stdin ends, because we dropped it, finished, panicked or were killed, it
//! kills its server and takes the folder away. Nothing outlives the test run.

use super::{free_port, wait_for};
use std::{
    fs,
    io::Write as _,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};
use tempfile::TempDir;

pub const USER: &str = "sendo";
pub const PASSWORD: &str = "Zs3-of-the-databases";
pub const DATABASE: &str = "lab";

/// `$1` is the folder, `$2` the signal that ends the server at once, the rest its command. An interrupt from the terminal is not
/// for us: the end of stdin is. A line there is a crash: the server and its children are killed, and it is started again on the same folder. It is stopped
/// first: a child that began behind our look, or is not gone yet, would keep the next server from starting.
const KEEPER: &str = r#"folder=$1 signal=$2; shift 2
"$@" </dev/null >>"$folder/server.log" 2>&1 &
while read -r pause; do
    kill -s STOP $!
    while grep -q '^State:.[^TtZX]' /proc/$!/status 2>/dev/null; do sleep 0.01; done
    children=$(cat /proc/$!/task/$!/children)
    kill -s KILL $! $children 2>/dev/null
    wait $!
    for child in $children; do
        while grep -q '^State:.[^ZX]' /proc/$child/status 2>/dev/null; do sleep 0.01; done
    done
    sleep "$pause"
    "$@" </dev/null >>"$folder/server.log" 2>&1 &
done
kill -s "$signal" $! 2>/dev/null
wait
rm -rf "$folder""#;

/// A running server.
pub struct Server {
    pub port: u16,
    /// The keeper takes it away.
    folder: PathBuf,
    keeper: Child,
}

/// Both servers.
pub struct Databases {
    pub postgresql: Server,
    pub mysql: Server,
}

/// The servers of this run.
pub fn databases() -> &'static Databases {
    static DATABASES: OnceLock<Databases> = OnceLock::new();
    DATABASES.get_or_init(|| Databases { postgresql: postgresql(), mysql: mysql() })
}

/// A session that holds a lock.
pub struct Lock {
    session: Child,
}

impl Databases {
    /// Runs SQL on PostgreSQL; gives back rows of `a|b|c`.
    #[track_caller]
    pub fn postgresql(&self, sql: &str) -> Vec<String> {
        rows(&mut psql(self.postgresql.port), sql).unwrap()
    }

    /// Keeps everybody else from a table of PostgreSQL's until it is dropped.
    pub fn postgresql_lock(&self, table: &str) -> Lock {
        let mut session = psql(self.postgresql.port).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let sql = format!("BEGIN; LOCK TABLE {table};\n");
        session.stdin.as_mut().unwrap().write_all(sql.as_bytes()).unwrap();
        let held = format!(
            "SELECT 1 FROM pg_locks WHERE relation = '{table}'::regclass AND granted AND mode = 'AccessExclusiveLock'"
        );
        wait_for("the lock", || (!self.postgresql(&held).is_empty()).then_some(()));
        Lock { session }
    }

    /// Runs SQL on MariaDB; gives back rows of tab-separated values.
    #[track_caller]
    pub fn mysql(&self, sql: &str) -> Vec<String> {
        rows(&mut mariadb(&self.mysql.folder), sql).unwrap()
    }
}

impl Server {
    /// A PostgreSQL for one test, which may kill it.
    pub fn postgresql() -> Self {
        postgresql()
    }

    /// A MariaDB for one test, which may kill it.
    pub fn mariadb() -> Self {
        mysql()
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    /// `kill -9`; after so many seconds it is started again on the same folder.
    pub fn crash(&mut self, seconds: u32) {
        writeln!(self.keeper.stdin.as_mut().unwrap(), "{seconds}").unwrap();
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.session.stdin.take());
        let _ = self.session.wait(); // its end is what counts
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait(); // nothing to do about a keeper that is gone
    }
}

fn postgresql() -> Server {
    let (home, port) = (home(), free_port());
    let folder = home.path();
    let [initdb, postgres] = ["initdb", "postgres"].map(|name| program(name, "postgresql"));
    let password = folder.join("password");
    fs::write(&password, PASSWORD).unwrap();
    own(&password, 0o400);
    let data = folder.join("data");
    let mut init = unprivileged(&initdb);
    init.arg("-D").arg(&data).args(["-U", USER, "-A", "scram-sha-256", "--no-sync", "-E", "UTF8", "--locale=C"]);
    complete(init.arg("--pwfile").arg(&password));
    let mut server = unprivileged(&postgres);
    server.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k", ""]);
    server.args(["-c", "fsync=off", "-c", "shared_buffers=32MB"]);
    // QUIT: without a checkpoint, but with its shared memory given back.
    let server = keep(home, "QUIT", &server, port);
    let create = format!("CREATE DATABASE {DATABASE}");
    server.ready(|| rows(psql(port).env("PGDATABASE", "postgres"), &create));
    server
}

fn mysql() -> Server {
    let (home, port) = (home(), free_port());
    let folder = home.path().to_owned();
    let [install, mariadbd] = ["mariadb-install-db", "mariadbd"].map(|name| program(name, "mariadb-server"));
    let data = folder.join("data");
    let mut init = unprivileged(&install);
    complete(init.args(["--no-defaults", "--skip-test-db"]).arg(option("datadir", &data)));
    let setup = folder.join("setup.sql");
    let account = format!("'{USER}'@'127.0.0.1'");
    let sql = format!(
        "CREATE DATABASE {DATABASE};\nCREATE USER {account} IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO {account} WITH GRANT OPTION;\n"
    );
    fs::write(&setup, sql).unwrap();
    let client = folder.join("client.cnf");
    let login = format!("host=127.0.0.1\nport={port}\nuser={USER}\npassword={PASSWORD}\ndatabase={DATABASE}\n");
    fs::write(&client, format!("[client]\nprotocol=tcp\ndefault-character-set=utf8mb4\n{login}")).unwrap();
    [&setup, &client].into_iter().for_each(|file| own(file, 0o400));
    let mut server = unprivileged(&mariadbd);
    server.args(["--no-defaults", "--bind-address=127.0.0.1", &format!("--port={port}")]);
    server.args([
        "--skip-log-bin",
        "--skip-name-resolve",
        // What was committed outlives the process, if not the machine.
        "--innodb-flush-log-at-trx-commit=2",
        "--innodb-buffer-pool-size=32M",
    ]);
    server.args(["--character-set-server=utf8mb4", "--collation-server=utf8mb4_bin", "--default-time-zone=+00:00"]);
    server.arg(option("datadir", &data)).arg(option("socket", &folder.join("socket")));
    server.arg(option("pid-file", &folder.join("pid"))).arg(option("init-file", &setup));
    let server = keep(home, "KILL", &server, port);
    server.ready(|| rows(&mut mariadb(&folder), "SELECT 1"));
    server
}

impl Server {
    /// Waits until `hello` goes well; a server that ends before that is told with its log.
    pub(super) fn ready(&self, mut hello: impl FnMut() -> Result<Vec<String>, String>) {
        let children = format!("/proc/{0}/task/{0}/children", self.keeper.id());
        wait_for(&format!("the server on port {}", self.port), || {
            let error = match hello() {
                Ok(rows) => return Some(rows),
                Err(error) => error,
            };
            let log = self.log();
            let ended = !log.is_empty() && fs::read_to_string(&children).is_ok_and(|pids| pids.trim().is_empty());
            assert!(!ended, "the server has ended; {error}; its log:\n{log}");
            None
        });
    }
}

/// Starts a server under a keeper, which has the folder from now on.
pub(super) fn keep(home: TempDir, signal: &str, server: &Command, port: u16) -> Server {
    let folder = home.keep();
    let mut keeper = Command::new("sh");
    keeper.args(["-c", KEEPER, "keeper"]).arg(&folder).arg(signal).arg(server.get_program()).args(server.get_args());
    // A group of its own: an interrupt from the terminal goes to the test run alone, and reaches the keeper as the end of its stdin.
    let keeper = keeper.current_dir("/").stdin(Stdio::piped()).process_group(0).spawn().unwrap();
    Server { port, folder, keeper }
}

fn psql(port: u16) -> Command {
    let mut command = Command::new(program("psql", "postgresql"));
    command.args([
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-h",
        "127.0.0.1",
        "-p",
        &port.to_string(),
        "-U",
        USER,
    ]);
    command.env("PGPASSWORD", PASSWORD).env("PGDATABASE", DATABASE).env("PGCLIENTENCODING", "UTF8");
    command
}

fn mariadb(folder: &Path) -> Command {
    let mut command = Command::new(program("mariadb", "mariadb-server"));
    command.arg(option("defaults-file", &folder.join("client.cnf"))).args(["--batch", "--skip-column-names"]);
    command
}

/// The SQL goes in through stdin, the rows come back as lines.
fn rows(client: &mut Command, sql: &str) -> Result<Vec<String>, String> {
    let mut running = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = running.stdin.take().unwrap().write_all(sql.as_bytes()); // a client that is gone says below why
    let output = running.wait_with_output().unwrap();
    if !output.status.success() {
        return Err(format!("{sql}: {}", super::stderr(&output)));
    }
    Ok(super::stdout(&output).lines().map(str::to_owned).collect())
}

#[track_caller]
fn complete(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}{}", super::stdout(&output), super::stderr(&output));
}

/// PostgreSQL refuses to run as root, and MariaDB should not: root hands over to nobody.
fn unprivileged(program: &Path) -> Command {
    let mut command = match servant() {
        None => Command::new(program),
        Some((uid, gid)) => {
            let mut setpriv = Command::new("setpriv");
            setpriv.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]).arg(program);
            setpriv
        }
    };
    command.current_dir("/").stdin(Stdio::null());
    command
}

/// Whom the servers run as, if not as ourselves.
fn servant() -> Option<(u32, u32)> {
    let nobody = nix::unistd::geteuid().is_root().then(|| nix::unistd::User::from_name("nobody").unwrap().unwrap());
    nobody.map(|nobody| (nobody.uid.as_raw(), nobody.gid.as_raw()))
}

/// Gives a file to whom the servers run as, for their eyes alone.
fn own(file: &Path, mode: u32) {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    if let Some((uid, gid)) = servant() {
        chown(file, Some(uid), Some(gid)).unwrap();
    }
}

/// A server's own folder.
fn home() -> TempDir {
    let home = super::scratch();
    own(home.path(), 0o700);
    home
}

fn option(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

/// Finds a program of the servers: Debian keeps some of them off the usual path.
fn program(name: &str, package: &str) -> PathBuf {
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let releases = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut releases: Vec<_> = releases.map(|release| release.path().join("bin")).collect();
    releases.sort();
    let places = releases.into_iter().rev().chain(std::env::split_paths(&usual)).chain(["/usr/sbin".into()]);
    let mut found = places.map(|place| place.join(name)).filter(|file| file.is_file());
    found
        .next()
        .unwrap_or_else(|| panic!("there is no {name}; install Debian's package {package}, or let `make test` do it"))
}
