//! What a connected supervisor costs `sendo serve` in memory: as many as a node full of them keep their connections and post a reading each.
//!
//! The program is the real one, built without optimization, with its ledger in a file. The attempts are another cluster's, so that its
//! dispatcher leaves them alone.

#[path = "section.rs"]
mod section;
#[path = "support/mod.rs"]
mod support;

use sendo::{
    cluster::key::{Bearer, Key},
    dispatch::retry,
    ledger::{Ledger, Terms, now},
    record::{
        job::Job,
        usage::Usage,
        wire::{AttemptId, Body, GrantRequest, Record, RecordBatch},
    },
};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use support::owner;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

const TITLE: &str = "Connected supervisors";
const SUPERVISORS: usize = 2000;
/// They have had their turn before the first look: whatever a program takes once is not a connection's.
const FIRST: usize = 100;
/// Posts under way at the same time: what fifty thousand supervisors come to that are answered in 10 ms every 10 s.
const AT_ONCE: usize = 50;
const NONCE: &str = "5d0cbb8e-8c1b-4d2e-9d33-0a6f6d1f9c55";
/// Seconds since 1970: later than any bench.
const EXPIRES: u64 = 4_000_000_000;

/// One supervisor's end.
struct Supervisor {
    id: AttemptId,
    token: String,
    connection: TcpStream,
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it has ended, then
        let _ = self.0.wait();
    }
}

#[tokio::main]
async fn main() {
    let home = tempfile::tempdir().expect("a folder");
    let (state, address) = (home.path().join("state"), free_address());
    fs::create_dir(&state).expect("make the state's folder");
    let key = Key::load_or_create(&state.join("key")).expect("make a key");
    let ids = attempts(&state).await;
    let server = serve(home.path(), &address);
    let mut supervisors = Vec::new();
    for id in &ids {
        let bearer = Bearer { id: id.clone(), uid: format!("uid {}", id.job) };
        let token = key.token(bearer, EXPIRES).expect("sign a token");
        supervisors.push((id.clone(), token));
    }
    let rest = supervisors.split_off(FIRST);
    let mut all = connect(supervisors, &address).await;
    all = post(all, 1, AT_ONCE).await;
    let before = resident(&server);
    all.extend(connect(rest, &address).await);
    let idle = resident(&server);
    for seq in 2..7 {
        all = post(all, seq, AT_ONCE).await;
    }
    let posted = resident(&server);
    for seq in 7..12 {
        all = post(all, seq, SUPERVISORS).await;
    }
    let flooded = resident(&server);
    let each = |bytes: u64| bytes.saturating_sub(before) / (SUPERVISORS - FIRST) as u64;
    let mut text = format!(
        "{SUPERVISORS} of them, SQLite; the program is built without optimization. Their connections stay open.\n\n\
         | | RSS of `sendo serve` | of it for each |\n| --- | --- | --- |\n\
         | {FIRST} connected, one reading each | {} kB | - |\n",
        before / 1024
    );
    let mut row = |what: &str, bytes: u64| {
        text.push_str(&format!("| {what} | {} kB | {:.1} kB |\n", bytes / 1024, kilo(each(bytes))));
    };
    row(&format!("{} connected", all.len()), idle);
    row(&format!("five more readings each, {AT_ONCE} at once"), posted);
    row("five more, all at once", flooded);
    print!("{text}");
    section::put(TITLE, &text);
}

/// Attempts with their grants.
async fn attempts(state: &Path) -> Vec<AttemptId> {
    let url = format!("sqlite://{}?mode=rwc", state.join("ledger.db").display());
    let ledger = Ledger::open(&url, retry::next_step).await.expect("open the ledger");
    let fence = owner(&ledger).await;
    let mut ids = Vec::new();
    for number in 0..SUPERVISORS {
        let id = format!("job-{number:05}.2026-11-23T10:00");
        let job = format!(r#"{{"version": 1, "id": "{id}", "command": ["true"]}}"#);
        let job: Job = serde_json::from_str(&job).expect("a job");
        ledger.accept(&job, "digest", 0).await.expect("taken");
        let order =
            ledger.begin_launch(&fence, &id, "elsewhere", format!("uid {id}")).await.expect("launched").expect("ours");
        let request = GrantRequest { id: order.id.clone(), nonce: NONCE.into() };
        let terms = Terms { report_every_ms: 10_000, lease: Duration::from_secs(60) };
        ledger.grant(&request, &*order.uid, "00".into(), terms).await.expect("granted");
        ids.push(order.id);
    }
    ledger.close().await;
    ids
}

fn serve(home: &Path, address: &str) -> Server {
    let config = home.join("sendo.toml");
    fs::write(&config, format!("listen = \"{address}\"\nstate_dir = \"{}/state\"\n", home.display()))
        .expect("write it");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sendo"));
    command.args(["serve", "--config"]).arg(config).stdin(Stdio::null()).stderr(Stdio::null());
    Server(command.spawn().expect("start sendo serve"))
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").to_string()
}

async fn connect(supervisors: Vec<(AttemptId, String)>, address: &str) -> Vec<Supervisor> {
    let mut connected = Vec::new();
    for (id, token) in supervisors {
        let connection = loop {
            match TcpStream::connect(address).await {
                Ok(connection) => break connection,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await, // it is starting
            }
        };
        connected.push(Supervisor { id, token, connection });
    }
    connected
}

/// One reading of each.
async fn post(supervisors: Vec<Supervisor>, seq: u64, at_once: usize) -> Vec<Supervisor> {
    let (mut posts, mut done) = (JoinSet::new(), Vec::new());
    for supervisor in supervisors {
        if posts.len() >= at_once {
            done.extend(posts.join_next().await.map(|posted| posted.expect("a post")));
        }
        posts.spawn(supervisor.post(seq));
    }
    done.extend(posts.join_all().await);
    done
}

impl Supervisor {
    async fn post(mut self, seq: u64) -> Self {
        let mut usage = Usage { disk_free_bytes: Some(10_000_000_000), silent_seconds: Some(0.3), ..Usage::default() };
        usage.cgroup.memory_current_bytes = Some(700_000_000 + seq);
        usage.tree.rss_bytes = Some(580_000_000);
        usage.progress.rows = Some(seq * 500);
        let record = Record { seq, at: now(), body: Body::Usage { usage: Box::new(usage) } };
        let batch = RecordBatch { id: self.id.clone(), source: NONCE.into(), records: vec![record] };
        let body = serde_json::to_string(&batch).expect("a body");
        let head = format!(
            "POST /v1/records HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.connection.peer_addr().expect("connected"),
            self.token,
            body.len()
        );
        self.connection.write_all((head + &body).as_bytes()).await.expect("ask");
        let (mut answer, mut piece) = (String::new(), [0; 4096]);
        // The answer's body is one object without another in it.
        while !answer.ends_with('}') {
            let length = self.connection.read(&mut piece).await.expect("an answer");
            assert!(length > 0, "the connection was ended: {answer}");
            answer.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        self
    }
}

/// In bytes.
fn resident(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.0.id())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("kB") * 1024
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn kilo(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}
