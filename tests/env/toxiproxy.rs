//! Ways to a server that can be spoiled: toxiproxy, started once for all tests of a run, and links of a test's own through it.

use super::{free_port, keeper::Keeper, stderr, stdout};
use serde_json::{Value, json};
use std::{
    process::{Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// What goes through a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Requests,
    Answers,
}

/// A port of this machine behind which another one is, as long as nothing is done to it.
pub struct Link {
    pub port: u16,
    name: String,
    upstream: String,
    toxics: Mutex<u32>,
}

/// Where toxiproxy takes its orders; it ends with the test run.
fn orders() -> &'static str {
    static SERVER: OnceLock<(Keeper, String)> = OnceLock::new();
    let (_, url) = SERVER.get_or_init(|| {
        let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/toxiproxy");
        let made = Command::new(tool).stderr(Stdio::inherit()).output().unwrap();
        assert!(made.status.success(), "no toxiproxy; `make test` makes it, and says what it misses");
        let (keeper, port) = (Keeper::new(), free_port());
        let mut server = Command::new(stdout(&made).trim());
        server.args(["-host", "127.0.0.1", "-port", &port.to_string()]);
        keeper.start("toxiproxy", &server, None);
        keeper.ready("toxiproxy", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        (keeper, format!("http://127.0.0.1:{port}"))
    });
    url
}

impl Link {
    /// To a port of this machine, whether anybody listens there or not.
    pub fn to(port: u16) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("link-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let link = Self { port: free_port(), name, upstream: format!("127.0.0.1:{port}"), toxics: Mutex::default() };
        link.renew();
        link
    }

    /// Keeps back what goes that way until the link is healed (then it goes on, in its order) or renewed (then it is lost).
    pub fn hold(&self, way: Way) {
        self.add(way, "latency", FOR_EVER);
    }

    /// Everything takes so much longer.
    pub fn slow(&self, span: Duration) {
        self.add(Way::Requests, "latency", span);
    }

    /// Loses what goes that way without a word, and lets each connection hang.
    pub fn swallow(&self, way: Way) {
        self.add(way, "timeout", Duration::ZERO);
    }

    /// Resets a connection as soon as something goes that way; what it was is lost.
    pub fn reset(&self, way: Way) {
        self.add(way, "reset_peer", Duration::ZERO);
    }

    /// Does it no more harm. Only where both ends live: toxiproxy takes its time over what it kept for the dead.
    pub fn heal(&self) {
        let toxics = std::mem::take(&mut *self.toxics.lock().unwrap());
        for number in 0..toxics {
            order("DELETE", &format!("/proxies/{}/toxics/{number}", self.name), None);
        }
    }

    /// Ends all connections; new ones meet no harm.
    pub fn renew(&self) {
        let _ = ask("DELETE", &format!("/proxies/{}", self.name), None).output(); // the first time there is none
        *self.toxics.lock().unwrap() = 0;
        let proxy = json!({"name": self.name, "listen": format!("127.0.0.1:{}", self.port), "upstream": self.upstream});
        order("POST", "/proxies", Some(&proxy));
    }

    fn add(&self, way: Way, kind: &str, span: Duration) {
        let mut toxics = self.toxics.lock().unwrap();
        let stream = if way == Way::Requests { "upstream" } else { "downstream" };
        let attribute = if kind == "latency" { "latency" } else { "timeout" };
        let millis = u64::try_from(span.as_millis()).unwrap();
        let toxic =
            json!({"name": toxics.to_string(), "type": kind, "stream": stream, "attributes": {attribute: millis}});
        order("POST", &format!("/proxies/{}/toxics", self.name), Some(&toxic));
        *toxics += 1;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // What was kept back need not go on: whoever waited for it is gone.
        let _ = ask("DELETE", &format!("/proxies/{}", self.name), None).output();
    }
}

fn ask(method: &str, path: &str, body: Option<&Value>) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail-with-body", "-X", method]).arg(format!("{}{path}", orders()));
    if let Some(body) = body {
        curl.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
    }
    curl
}

#[track_caller]
fn order(method: &str, path: &str, body: Option<&Value>) -> Value {
    let output = ask(method, path, body).output().expect("curl, which `make test` installs");
    assert!(output.status.success(), "{method} {path}: {}{}", stdout(&output), stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}
