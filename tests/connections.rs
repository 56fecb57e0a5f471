//! What connections may cost `sendo serve`: strangers, the slow, the vanished and the many leave it answering.

use crate::env::{
    self,
    dev::{Dev, script, serving},
    sendo, stdout, wait_for,
};
use sendo::{
    cluster::key::{Bearer, Key},
    record::wire::AttemptId,
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Output},
};

/// As long as a body may be; and so many of them find room.
const LONGEST: usize = 4 * 1024 * 1024;
const LONGEST_AT_ONCE: usize = 16;
/// Seconds since 1970: later than any test.
const EXPIRES: u64 = 4_000_000_000;
/// Between the two limits of descriptors, soft and hard, that the test starts it with.
const MANY: usize = 400;
const DESCRIPTORS: &str = "--nofile=300:2000";

fn connect(dev: &Dev) -> TcpStream {
    let stream = TcpStream::connect(dev.url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(env::LIMIT)).unwrap();
    stream
}

/// Asks for leave to send a body of that length.
fn announce(dev: &Dev, authorization: &str, length: usize) -> TcpStream {
    let mut stream = connect(dev);
    let head = format!(
        "POST /v1/records HTTP/1.1\r\nHost: localhost\r\n{authorization}\
         Content-Type: application/json\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// The head of the next answer; empty at the connection's end.
fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn status(stream: &mut TcpStream) -> String {
    head(stream).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// The header with a token that the key signs.
fn authorization(key: &Path) -> String {
    let bearer = Bearer { id: AttemptId { job: "a".into(), attempt: 1 }, uid: "u".into() };
    let token = Key::load_or_create(key).unwrap().token(bearer, EXPIRES).unwrap();
    format!("Authorization: Bearer {token}\r\n")
}

#[test]
fn a_stranger_is_refused_before_his_body_is_read() {
    let dev = Dev::start(&[]);
    let forged = authorization(&dev.home.path().join("another key"));
    for stranger in ["", "Authorization: Basic YTph\r\n", "Authorization: Bearer nonsense\r\n", &forged] {
        assert_eq!(status(&mut announce(&dev, stranger, LONGEST)), "401", "{stranger}");
    }
    // The control: whoever is vouched for is asked for his body.
    let mut ours = announce(&dev, &authorization(&dev.state_dir().join("key")), 2);
    assert_eq!(status(&mut ours), "100");
    ours.write_all(b"{}").unwrap();
    assert_eq!(status(&mut ours), "422");
}

#[test]
fn only_so_many_bodies_are_in_memory_at_once_and_none_for_long() {
    let dev = Dev::start(&[]);
    let ours = authorization(&dev.state_dir().join("key"));
    let ask = || {
        let mut stream = announce(&dev, &ours, LONGEST);
        (head(&mut stream), stream)
    };
    let mut held: Vec<_> = (0..LONGEST_AT_ONCE).map(|_| ask()).collect();
    assert!(held.iter().all(|(head, _)| head.starts_with("HTTP/1.1 100 ")));
    let (refused, _) = ask();
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("\r\nretry-after: 1\r\n"), "{refused}");
    // A sender that leaves makes room for the next.
    held.pop();
    held.push(wait_for("room", || Some(ask()).filter(|(head, _)| head.starts_with("HTTP/1.1 100 "))));
    // One that sends nothing does not keep it.
    assert_eq!(status(&mut held[0].1), "408");
    wait_for("room", || ask().0.starts_with("HTTP/1.1 100 ").then_some(()));
}

#[test]
fn a_request_that_is_begun_is_ended_in_time_and_an_idle_connection_stays() {
    let dev = Dev::start(&[]);
    let get = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let post = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let begin = |text: &str| {
        let mut stream = connect(&dev);
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let mut idle = begin(get);
    let mut body = Vec::new();
    assert_eq!(status(&mut idle), "200");
    idle.set_nonblocking(true).unwrap();
    let _ = idle.read_to_end(&mut body); // whatever was behind the head; there is no end
    idle.set_nonblocking(false).unwrap();
    let mut waits = begin(&format!("{post}Content-Length: 9\r\nExpect: 100-continue\r\n\r\n"));
    assert_eq!(status(&mut waits), "100");
    let begun = [begin(""), begin("GET /healthz HTTP/1.1\r\nHo"), begin(&format!("{post}Content-Length: 9\r\n\r\n{{"))];
    for mut slow in begun.into_iter().chain([waits]) {
        // The end, with or without a word about it.
        slow.read_to_end(&mut body).unwrap();
    }
    idle.write_all(get.as_bytes()).unwrap();
    assert_eq!(status(&mut idle), "200");
}

/// What the kernel's timer of the connection's other end is for, and when it is due, in hundredths of a second (proc_pid_net(5)).
fn timer(server: SocketAddr, client: SocketAddr) -> Option<(u8, u32)> {
    let port = |field: &str| u16::from_str_radix(field.rsplit_once(':')?.1, 16).ok();
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    sockets.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let ends = (port(fields.get(1)?)?, port(fields.get(2)?)?);
        let (kind, due) = fields.get(5)?.split_once(':')?;
        let timer = (u8::from_str_radix(kind, 16).ok()?, u32::from_str_radix(due, 16).ok()?);
        (ends == (server.port(), client.port())).then_some(timer)
    })
}

#[test]
fn a_peer_that_vanishes_is_asked_for() {
    const KEEPALIVE: u8 = 2;
    let dev = Dev::start(&[]);
    let mut ours = connect(&dev);
    ours.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(status(&mut ours), "200");
    let (server, client) = (ours.peer_addr().unwrap(), ours.local_addr().unwrap());
    wait_for("a keepalive within a minute", || {
        timer(server, client).filter(|(kind, due)| *kind == KEEPALIVE && *due <= 6000)
    });
}

/// Killed when dropped.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it has ended, then
        let _ = self.0.wait();
    }
}

#[test]
fn more_supervisors_than_the_soft_limit_of_descriptors_are_served_and_transfers_have_that_limit() {
    let home = env::scratch();
    let serve = serving(home.path(), &format!("sqlite://{}/ledger.db?mode=rwc", home.path().display()), "");
    let mut limited = Command::new("prlimit");
    limited.arg(DESCRIPTORS).arg(serve.get_program()).args(serve.get_args()).current_dir(home.path());
    limited.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let log = home.path().join("log");
    let mut served = Served(limited.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap());
    let url = std::fs::read_to_string(home.path().join("url")).unwrap();
    let verb = |arguments: &[&str]| -> Output { sendo().args(arguments).args(["--server", &url]).output().unwrap() };
    wait_for("sendo serve to answer", || {
        assert_eq!(served.0.try_wait().unwrap(), None, "{}", std::fs::read_to_string(&log).unwrap());
        verb(&["jobs"]).status.success().then_some(())
    });
    assert!(std::fs::read_to_string(&log).unwrap().contains("descriptors=2000"));
    let address = url.strip_prefix("http://").unwrap();
    let connected: Vec<_> = (0..MANY).map(|_| TcpStream::connect(address).unwrap()).collect();
    let job = home.path().join("job.json");
    std::fs::write(&job, script("a", "ulimit -Sn; ulimit -Hn").to_string()).unwrap();
    let submitted = verb(&["submit", "--follow", job.to_str().unwrap()]);
    assert!(submitted.status.success(), "{}", env::stderr(&submitted));
    assert_eq!(stdout(&verb(&["logs", "a"])), "300\n2000\n");
    drop(connected);
}
