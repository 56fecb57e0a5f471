//! A ledger that answers wrongly on purpose.
//!
//! A fake beside the real one, which `dev` starts: no real ledger can be made to answer with half a body, with noise or not at all,
//! and only a fake knows what was asked at which try. It speaks HTTP/1.1 by hand, one request a connection, over TLS where it has a
//! certificate.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// The grant's key.
pub const KEY: [u8; 32] = [0x0f; 32];

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    /// How many went to the same path before it.
    pub nth: usize,
    /// The whole `authorization` header.
    pub token: String,
    pub body: Value,
    /// Answered as a ledger that is well does.
    pub taken: bool,
}

/// How a request is answered.
pub enum Reply {
    /// As a ledger that is well does.
    Well(Value),
    /// The status, one more header or none, the body.
    Wrong(u16, &'static str, &'static str),
    /// A good body, the end of the connection where one more byte was announced.
    CutShort(Value),
    /// No HTTP.
    Noise,
    /// Nothing, as long as the client waits.
    Silence,
    /// As a ledger that is well, and slow.
    Late(Duration, Value),
}

/// A running one; gone when dropped.
pub struct WrongLedger {
    /// Without a slash at the end.
    pub url: String,
    address: SocketAddr,
    desk: Arc<Desk>,
}

type Answer = Box<dyn FnMut(&Asked) -> Reply + Send>;

struct Desk {
    gone: AtomicBool,
    asked: Mutex<Vec<Asked>>,
    answer: Mutex<Answer>,
}

/// Who vouches for certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Asked {
    /// Asks for leave to start; otherwise it brings records.
    pub fn is_grant(&self) -> bool {
        self.path.ends_with("/v1/grants")
    }

    pub fn records(&self) -> &[Value] {
        self.body["records"].as_array().map_or(&[], Vec::as_slice)
    }

    /// Whether it brings a record of that kind.
    pub fn brings(&self, kind: &str) -> bool {
        self.records().iter().any(|record| record["record"] == kind)
    }
}

impl Reply {
    /// Leave to start, with reports every tenth of a second.
    pub fn granted() -> Self {
        Self::Well(grant())
    }

    /// Leave to start, with a lease.
    pub fn leased(span: Duration) -> Self {
        let mut grant = grant();
        grant["lease_ms"] = json!(u64::try_from(span.as_millis()).unwrap());
        Self::Well(grant)
    }

    /// The records are taken.
    pub fn go_on() -> Self {
        Self::directive("continue")
    }

    /// The records are taken, and this is to be done.
    pub fn directive(directive: &str) -> Self {
        Self::Well(json!({"directive": directive, "report_every_ms": 100}))
    }

    /// What a ledger that is well says to this.
    pub fn to(asked: &Asked) -> Self {
        if asked.is_grant() { Self::granted() } else { Self::go_on() }
    }

    fn bytes(&self) -> Vec<u8> {
        let response = |status: u16, header: &str, length: usize, body: &str| {
            let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
            format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n{header}\r\n{body}").into()
        };
        match self {
            Self::Well(body) | Self::Late(_, body) => response(200, "", body.to_string().len(), &body.to_string()),
            Self::Wrong(status, header, body) => response(*status, header, body.len(), body),
            Self::CutShort(body) => response(200, "", body.to_string().len() + 1, &body.to_string()),
            Self::Noise => b"\x00\xffSSH-2.0-noise\r\n\r\n".into(),
            Self::Silence => vec![],
        }
    }
}

/// The body of a grant.
pub fn grant() -> Value {
    let key: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({"answer": "granted", "key": key, "report_every_ms": 100})
}

impl WrongLedger {
    pub fn start(answer: impl FnMut(&Asked) -> Reply + Send + 'static) -> Self {
        Self::listen("http", "127.0.0.1:0", None, answer)
    }

    /// Where another one was.
    pub fn start_at(url: &str, answer: impl FnMut(&Asked) -> Reply + Send + 'static) -> Self {
        Self::listen("http", url.strip_prefix("http://").unwrap(), None, answer)
    }

    /// Over TLS, with a certificate for that name.
    pub fn start_tls(authority: &Authority, name: &str, answer: impl FnMut(&Asked) -> Reply + Send + 'static) -> Self {
        Self::listen("https", "127.0.0.1:0", Some(authority.certify(name)), answer)
    }

    fn listen(
        scheme: &str,
        address: &str,
        tls: Option<Arc<ServerConfig>>,
        answer: impl FnMut(&Asked) -> Reply + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let gone = AtomicBool::new(false);
        let desk = Arc::new(Desk { gone, asked: Mutex::default(), answer: Mutex::new(Box::new(answer)) });
        let ours = Arc::clone(&desk);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ours.gone.load(Ordering::SeqCst) {
                    return;
                }
                let (desk, tls, stream) = (Arc::clone(&ours), tls.clone(), stream.unwrap());
                thread::spawn(move || match tls {
                    None => desk.converse(stream),
                    Some(tls) => desk.converse(StreamOwned::new(ServerConnection::new(tls).unwrap(), stream)),
                });
            }
        });
        Self { url: format!("{scheme}://{address}"), address, desk }
    }

    /// From now on it answers like this.
    pub fn turn(&self, answer: impl FnMut(&Asked) -> Reply + Send + 'static) {
        *self.desk.answer.lock().unwrap() = Box::new(answer);
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.desk.asked.lock().unwrap().clone()
    }

    /// Whether such a request has come so far.
    pub fn has(&self, such: impl FnMut(&Asked) -> bool) -> bool {
        self.asked().iter().any(such)
    }

    /// Waits for such a request.
    #[track_caller]
    pub fn wait(&self, what: &str, mut such: impl FnMut(&Asked) -> bool) -> Asked {
        super::wait_for(what, || self.asked().into_iter().find(&mut such))
    }

    /// Takes no more connections.
    pub fn leave(&self) {
        self.desk.gone.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the listener; refused where it left before
        super::wait_for("the ledger to be gone", || TcpStream::connect(self.address).is_err().then_some(()));
    }
}

impl Drop for WrongLedger {
    fn drop(&mut self) {
        self.desk.gone.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // as above
    }
}

impl Desk {
    /// One request and its answer. A client that hangs up is no error here.
    fn converse(&self, stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        let Some(reply) = read(&mut stream).map(|asked| self.consider(asked)) else { return };
        if let Reply::Late(span, _) = reply {
            thread::sleep(span);
        }
        let _ = stream.get_mut().write_all(&reply.bytes());
        let _ = stream.get_mut().flush();
        if matches!(reply, Reply::Silence) {
            let _ = stream.read(&mut [0]); // returns when the client hangs up
        }
    }

    fn consider(&self, mut asked: Asked) -> Reply {
        let mut all = self.asked.lock().unwrap();
        asked.nth = all.iter().filter(|before| before.path == asked.path).count();
        let reply = self.answer.lock().unwrap()(&asked);
        asked.taken = matches!(reply, Reply::Well(_) | Reply::Late(..));
        all.push(asked);
        reply
    }
}

fn read(stream: &mut BufReader<impl Read>) -> Option<Asked> {
    let mut line = || {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        Some(line.trim_end().to_owned())
    };
    let path = line()?.split(' ').nth(1)?.to_owned();
    let (mut token, mut length) = (String::new(), 0);
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => token = value.to_owned(),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Asked { path, nth: 0, token, body: serde_json::from_slice(&body).unwrap_or_default(), taken: false })
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    fn certify(&self, name: &str) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let chain = vec![certificate.der().clone()];
        Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap())
    }
}
