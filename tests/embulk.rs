//! Real Embulk transfers under `sendo dev`: how they end, what is told of them, and what becomes of them when something dies half-way.
//!
//! Half-way is no matter of luck: the last input file is a FIFO, which the transfer reads for as long as the test keeps it open.

use crate::env::{self, dev::Dev, is_alive, kill, stderr, stdout, wait_for};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{signal::Signal, stat::Mode},
};
use serde_json::{Value, json};
use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const ROWS: usize = 40_000;
const FILES: usize = 4;

/// A `sendo dev` with the composed Embulk, and orders to transfer.
pub fn start(rows: usize) -> (Dev, Orders) {
    let dev = Dev::start(&["--embulk", env::embulk().to_str().unwrap()]);
    let folder = dev.home.path().join("orders");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/orders");
    let arguments = [folder.join("in").into_os_string(), rows.to_string().into(), FILES.to_string().into()];
    let output = Command::new(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    fs::create_dir(folder.join("out")).unwrap();
    (dev, Orders { folder })
}

/// Orders by `demo/orders`, and where their transfer writes.
pub struct Orders {
    folder: PathBuf,
}

impl Orders {
    /// Embulk's `in`.
    pub fn input(&self) -> Value {
        let columns = json!([{"name": "id", "type": "long"}, {"name": "customer", "type": "long"},
            {"name": "amount", "type": "double"}, {"name": "status", "type": "string"},
            {"name": "created_at", "type": "timestamp", "format": "%Y-%m-%d %H:%M:%S"}, {"name": "comment", "type": "string"}]);
        json!({"type": "file", "path_prefix": self.folder.join("in/orders_"), "decoders": [{"type": "gzip"}],
            "parser": {"type": "csv", "skip_header_lines": 1, "stop_on_invalid_record": true, "columns": columns}})
    }

    /// A job from the files to files.
    pub fn job(&self, id: &str) -> Value {
        let out = json!({"type": "file", "path_prefix": self.folder.join("out/orders_"), "file_ext": "csv.gz",
            "encoders": [{"type": "gzip"}], "formatter": {"type": "csv", "header_line": false}});
        json!({"version": 1, "id": id, "embulk": {"config": {"in": self.input(), "out": out}}})
    }

    /// Takes the last file away from the transfer until the test gives it.
    pub fn hold(&self) -> Held {
        Held::new(self.folder.join(format!("in/orders_{FILES:02}.csv.gz")))
    }

    /// Rows that the transfer has written.
    fn written(&self) -> usize {
        let files = fs::read_dir(self.folder.join("out")).unwrap().map(|file| file.unwrap().path());
        let output = Command::new("gzip").arg("-dc").args(files).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        output.stdout.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// An input file that comes when the test wants it to: a FIFO in the file's place.
pub struct Held {
    file: PathBuf,
    content: Vec<u8>,
}

/// The transfer is reading a [`Held`] file, and waits for the first byte.
pub struct Reading {
    pipe: File,
    content: Vec<u8>,
}

impl Held {
    fn new(file: PathBuf) -> Self {
        let content = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        Self { file, content }
    }

    /// Waits until the transfer is half-way: it has opened this file.
    #[track_caller]
    pub fn reached(&self) -> Reading {
        // ENXIO until somebody reads (fifo(7)).
        let open = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&self.file).ok();
        Reading { pipe: wait_for("the transfer to read its last file", open), content: self.content.clone() }
    }

    /// Puts the plain file in its place for the next attempt; whoever reads the FIFO goes on reading it.
    pub fn restore(&self) {
        let new = self.file.with_extension("new");
        fs::write(&new, &self.content).unwrap();
        fs::rename(new, &self.file).unwrap();
    }
}

impl Reading {
    /// Lets the transfer have the file. A transfer that is gone meanwhile is a broken pipe here.
    pub fn give(mut self) {
        fcntl(&self.pipe, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        self.pipe.write_all(&self.content).unwrap();
    }
}

/// One file whose second record is no order.
fn bad_orders(file: &Path) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut gzip = Command::new("gzip").stdin(Stdio::piped()).stdout(File::create(file).unwrap()).spawn().unwrap();
    let text = "id,customer,amount,status,created_at,comment\n1,2,3.5,paid,2026-01-01 00:00:00,\nx,2,3.5,paid,2026-01-01 00:00:00,\n";
    gzip.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(gzip.wait().unwrap().success());
}

/// Submits a job, waits until its transfer is half-way, and gives back the transfer's pid.
#[track_caller]
pub fn half_way(dev: &Dev, job: &Value, held: &Held) -> (Reading, i32) {
    dev.accepted(job);
    let reading = held.reached();
    (reading, dev.transfer_pid(job["id"].as_str().unwrap(), 1))
}

/// The job is held with its question.
#[track_caller]
pub fn assert_asks(show: &Value) {
    let retry = format!("`sendo retry {}`", show["id"].as_str().unwrap());
    assert!(show["verdict"]["next_action"].as_str().unwrap().contains(&retry), "{show:#}");
}

/// The command line of a process, its arguments apart.
pub fn command_line(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// Whether `needle` stands anywhere in the ledger's files.
pub fn ledger_holds(dev: &Dev, needle: &str) -> bool {
    let holds = |name: &str| {
        let bytes = fs::read(dev.state_dir().join(name)).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    };
    let before = holds("ledger.db") || holds("ledger.db-wal");
    dev.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    before || holds("ledger.db") || holds("ledger.db-wal")
}

/// Each field that a verb tells is in the table's row, with the same value; a column of JSON text is read.
#[track_caller]
fn assert_told(told: &Value, row: &Value) {
    for (name, told) in told.as_object().unwrap() {
        let column = row.get(name).unwrap_or_else(|| panic!("no column {name}: {row:#}"));
        let column = match (told, column) {
            (Value::Object(_) | Value::Array(_), Value::String(text)) => serde_json::from_str(text).unwrap(),
            // No type of its own in the databases' common part.
            (Value::Bool(_), Value::Number(number)) => json!(number.as_i64() == Some(1)),
            _ => column.clone(),
        };
        let same = match (told.as_f64(), column.as_f64()) {
            (Some(told), Some(column)) => (told - column).abs() <= 1e-9 * told.abs(),
            _ => *told == column,
        };
        assert!(same, "{name}: told {told}, the table says {column}");
    }
}

#[test]
fn a_transfer_succeeds_and_the_verbs_tell_what_the_ledger_holds() {
    let (dev, orders) = start(ROWS);
    dev.accepted(&orders.job("whole"));
    let mut show = dev.wait("whole", &["succeeded"]);
    assert_eq!(dev.phases("whole"), ["queued", "setting_up", "executing", "succeeded"]);
    assert_eq!(orders.written(), ROWS);
    assert!(stdout(&dev.run(&["logs", "whole"])).contains("): Committed.\n"));

    let told = dev.json(&["heartbeats", "whole"])["heartbeats"].take();
    let (told, rows) = (told.as_array().unwrap(), dev.sql("SELECT * FROM heartbeats ORDER BY at_ms, seq"));
    assert_eq!(told.len(), rows.len());
    told.iter().zip(&rows).for_each(|(told, row)| assert_told(told, row));
    let any = |names: [&str; 2]| told.iter().any(|beat| names.iter().any(|name| beat[name].as_f64() > Some(0.0)));
    assert!(any(["memory_working_set_bytes", "rss_bytes"]) && any(["cpu_seconds", "tree_cpu_seconds"]), "{told:#?}");
    let jvm = |beat: &Value| beat["jvm_heap_used_bytes"].as_u64() > Some(0) && beat["jvm_gc_count"].is_u64();
    assert!(told.iter().any(jvm), "{told:#?}");
    let last = told.last().unwrap();
    assert_eq!((&last["tasks_done"], &last["tasks_total"]), (&json!(FILES), &json!(FILES)));

    let sql = "SELECT j.*, a.executing_at_ms, a.state AS attempt_state FROM jobs j JOIN attempts a ON a.job_id = j.id AND a.attempt = j.attempt";
    let [row] = &dev.sql(sql)[..] else { panic!("one job was submitted") };
    assert_told(&dev.json(&["jobs"])["jobs"][0], row);
    let parts = show.as_object_mut().unwrap();
    assert_told(&parts.remove("last_heartbeat").unwrap(), rows.last().unwrap());
    for (part, sql) in
        [("attempts", "SELECT * FROM attempts"), ("transitions", "SELECT * FROM transitions ORDER BY number")]
    {
        let (told, rows) = (parts.remove(part).unwrap(), dev.sql(sql));
        assert_eq!(told.as_array().unwrap().len(), rows.len());
        told.as_array().unwrap().iter().zip(&rows).for_each(|(told, row)| assert_told(told, row));
    }
    assert_told(&show, row);
}

#[test]
fn what_embulk_rejects_fails_with_embulks_own_words() {
    let (dev, orders) = start(40);
    let bad = dev.home.path().join("bad/orders_01.csv.gz");
    bad_orders(&bad);
    let mut unknown = orders.job("unknown-plugin");
    unknown["embulk"]["config"]["out"] = json!({"type": "no_such_plugin"});
    let mut missing = orders.job("missing-field");
    missing["embulk"]["config"]["out"].as_object_mut().unwrap().remove("path_prefix");
    let mut row = orders.job("bad-row");
    row["embulk"]["config"]["in"]["path_prefix"] = json!(bad);
    let cases = [
        (unknown, "OutputPlugin 'no_such_plugin' is not found.".to_owned()),
        (missing, "Field 'path_prefix' is required but not set.".to_owned()),
        (row, format!("Invalid record at {}:3: x,2,3.5,paid", bad.display())),
    ];
    cases.iter().for_each(|(job, _)| dev.accepted(job));
    for (job, words) in &cases {
        let id = job["id"].as_str().unwrap();
        let show = dev.wait(id, &["failed"]);
        let attempt = &show["attempts"][0];
        assert_eq!((&attempt["outcome"], &attempt["exit_code"]), (&json!("failed"), &json!(1)), "{show:#}");
        assert!(show["verdict"]["summary"].as_str().unwrap().contains(words), "{show:#}");
        let said = |line: &Value| line.as_str().unwrap().contains(words);
        assert!(attempt["last_lines"].as_array().unwrap().iter().any(said), "{show:#}");
        assert_eq!(dev.phases(id), ["queued", "setting_up", "executing", "failed"]);
    }
}

#[test]
fn sigterm_drains_and_a_person_decides_once() {
    let (dev, orders) = start(ROWS);
    let held = orders.hold();
    let mut job = orders.job("drained");
    job["on_term"] = json!("stop");
    let (_reading, transfer) = half_way(&dev, &job, &held);
    kill(dev.supervisor_pid("drained", 1), Signal::SIGTERM);
    let show = dev.wait("drained", &["held"]);
    assert!(!is_alive(transfer));
    assert_eq!(show["outcome"], "drained");
    assert_eq!(dev.phases("drained"), ["queued", "setting_up", "executing", "stopping", "held"]);
    assert_asks(&show);

    held.restore();
    let retry = ["retry", "drained", "--after-attempt", "1"];
    assert_eq!(dev.json(&retry)["result"], "queued");
    assert_eq!(dev.json(&retry)["result"], "unchanged");
    dev.wait("drained", &["succeeded"]);
    assert_eq!(dev.json(&retry)["result"], "unchanged");
    assert_eq!(orders.written(), ROWS);
    let attempts: Vec<_> = dev.sql("SELECT outcome FROM attempts ORDER BY attempt");
    assert_eq!(attempts, [json!({"outcome": "drained"}), json!({"outcome": "succeeded"})]);
}

#[test]
fn a_killed_control_program_interrupts_no_transfer() {
    let (mut dev, orders) = start(ROWS);
    let held = orders.hold();
    let (reading, transfer) = half_way(&dev, &orders.job("patient"), &held);
    let beats = |dev: &Dev| dev.sql("SELECT COUNT(*) AS n FROM heartbeats")[0]["n"].as_i64().unwrap();

    // Once in the middle: what was read meanwhile arrives later.
    let before = beats(&dev);
    dev.restart_after_kill();
    wait_for("heartbeats after the restart", || (beats(&dev) > before).then_some(()));
    assert!(is_alive(transfer));
    assert_eq!(dev.transfer_pid("patient", 1), transfer);

    // Once over its end: nobody was there to hear of it.
    dev.kill();
    reading.give();
    wait_for("the transfer to end", || (!is_alive(transfer)).then_some(()));
    dev.restart_after_kill();
    let show = dev.wait("patient", &["succeeded"]);
    assert_eq!(show["attempts"][0]["evidence"], 4, "by the supervisor's own record: {show:#}");
    assert_eq!(dev.phases("patient"), ["queued", "setting_up", "executing", "succeeded"]);
    assert_eq!(orders.written(), ROWS);
    for of in ["attempts", "transitions WHERE to_phase = 'succeeded'", "records WHERE body LIKE '%\"ending\"%'"] {
        assert_eq!(dev.sql(&format!("SELECT COUNT(*) AS n FROM {of}")), [json!({"n": 1})], "{of}");
    }
    let records = "SELECT source, seq FROM heartbeats UNION ALL SELECT source, seq FROM records";
    let gaps = format!(
        "SELECT source, MAX(seq) - COUNT(DISTINCT seq) AS gaps, COUNT(*) - COUNT(DISTINCT seq) AS doubles FROM ({records})"
    );
    let numbers = dev.sql(&(gaps + " GROUP BY source"));
    assert!(numbers.len() == 1 && numbers[0]["gaps"] == 0 && numbers[0]["doubles"] == 0, "{numbers:?}");
}

#[test]
fn a_load_that_may_be_repeated_goes_on_after_its_supervisor_was_killed() {
    let (dev, orders) = start(ROWS);
    let held = orders.hold();
    let mut job = orders.job("idempotent");
    job["retry"] = json!({"idempotent": true, "backoff": "100ms"});
    let (_reading, transfer) = half_way(&dev, &job, &held);
    held.restore();
    kill(dev.supervisor_pid("idempotent", 1), Signal::SIGKILL);
    let show = dev.wait("idempotent", &["succeeded"]);
    assert!(!is_alive(transfer));
    assert_eq!(show["attempts"].as_array().unwrap().len(), 2, "{show:#}");
    assert_eq!(orders.written(), ROWS);
}

#[test]
fn a_cancelled_transfer_is_gone() {
    let (dev, orders) = start(ROWS);
    let held = orders.hold();
    let (_reading, transfer) = half_way(&dev, &orders.job("unwanted"), &held);
    assert_eq!(dev.json(&["cancel", "unwanted"])["result"], "cancelling");
    let show = dev.wait("unwanted", &["cancelled"]);
    assert!(!is_alive(transfer));
    assert_eq!(show["outcome"], "cancelled");
    assert_eq!(dev.phases("unwanted"), ["queued", "setting_up", "executing", "stopping", "cancelled"]);
}

#[test]
fn the_memory_limit_reaches_the_jvm() {
    let (dev, orders) = start(40);
    let held = orders.hold();
    let mut job = orders.job("small");
    job["resources"] = json!({"memory": "256Mi"});
    let (reading, transfer) = half_way(&dev, &job, &held);
    let line = command_line(transfer);
    // entrypoint/embulk: the limit less 128 MiB, less an eighth.
    assert!(line.contains(&"-Xmx96m".to_owned()), "{line:?}");
    reading.give();
    dev.wait("small", &["succeeded"]);
}

/// A job held half-way that reads from a folder which only a secret names: it will fail with that name in Embulk's error.
fn secretive(dev: &Dev, mut job: Value, secret: &str) -> (Held, Value) {
    let file = dev.home.path().join("secret");
    fs::write(&file, format!("{secret}\n")).unwrap();
    let input = dev.home.path().join(secret).join("orders_01.csv.gz");
    bad_orders(&input);
    job["embulk"]["config"]["in"]["path_prefix"] = json!(dev.home.path().join("${secret:folder}/orders_"));
    job["secrets"] = json!({"folder": {"file": file}});
    (Held::new(input), job)
}

fn rendered_config(transfer: i32) -> PathBuf {
    command_line(transfer).into_iter().find(|argument| argument.ends_with("/config.yml")).unwrap().into()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_secret_reaches_embulk_and_nothing_else() {
    const SECRET: &str = "Zs3-quite-secret";
    let (dev, orders) = start(40);
    let (held, job) = secretive(&dev, orders.job("secretive"), SECRET);
    let (reading, transfer) = half_way(&dev, &job, &held);
    let config = rendered_config(transfer);
    assert!(fs::read_to_string(&config).unwrap().contains(SECRET));
    assert_eq!((mode(&config), mode(config.parent().unwrap())), (0o600, 0o700));
    let (secrets, token) = (dev.attempt("secretive", 1).join("secrets"), dev.attempt("secretive", 1).join("token"));
    assert_eq!((mode(&secrets), mode(&secrets.join("folder")), mode(&token)), (0o700, 0o600, 0o600));
    let seen = [transfer, dev.supervisor_pid("secretive", 1)].map(command_line).concat();
    assert!(seen.iter().all(|argument| !argument.contains(SECRET)), "{seen:?}");

    reading.give();
    let show = dev.wait("secretive", &["failed"]);
    let folder = dev.home.path().join("***");
    let words = format!("Invalid record at {}/orders_01.csv.gz:3", folder.display());
    assert!(show["verdict"]["summary"].as_str().unwrap().contains(&words), "{show:#}");
    let last_lines = show["attempts"][0]["last_lines"].as_array().unwrap();
    assert!(last_lines.iter().any(|line| line.as_str().unwrap().contains(&words)), "{show:#}");
    assert!(!config.parent().unwrap().exists());
    wait_for("secrets and token to go", || (!secrets.exists() && !token.exists()).then_some(()));
    // Embulk did print it, and what was quoted of that can be found: the search would find the secret too.
    assert!(stdout(&dev.run(&["logs", "secretive"])).contains(SECRET));
    assert!(ledger_holds(&dev, &words) && !ledger_holds(&dev, SECRET));
    let last_word = fs::read_to_string(dev.attempt("secretive", 1).join("termination-log")).unwrap();
    assert!(!last_word.contains(SECRET), "{last_word}");
}

#[test]
fn a_killed_supervisor_takes_its_transfer_and_its_secrets_along() {
    let (dev, orders) = start(40);
    let (held, job) = secretive(&dev, orders.job("killed"), "Zs3-left-alone");
    let (_reading, transfer) = half_way(&dev, &job, &held);
    let config = rendered_config(transfer);
    kill(dev.supervisor_pid("killed", 1), Signal::SIGKILL);
    let show = dev.wait("killed", &["held"]);
    assert!(!is_alive(transfer));
    assert!(["killed", "lost"].contains(&show["outcome"].as_str().unwrap()), "{show:#}");
    assert_asks(&show);
    let released = || dev.sql("SELECT released_at_ms FROM attempts")[0]["released_at_ms"].as_i64();
    wait_for("the attempt's place to be released", released);
    let attempt = dev.attempt("killed", 1);
    for left in [attempt.join("secrets"), attempt.join("token"), config] {
        assert!(!left.exists(), "{} stays behind", left.display());
    }
}
