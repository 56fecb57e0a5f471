use super::*;
use crate::record::wire::AttemptId;
use futures::FutureExt as _;
use jsonwebtoken::{EncodingKey, Header};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use std::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// A cluster's key pair.
struct Signer {
    pkcs8: Vec<u8>,
    jwk: Jwk,
}

impl Signer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        // Uncompressed: 4, then x and y.
        let point = pair.public_key().as_ref();
        let (x, y) = (base64url(&point[1..33]), base64url(&point[33..65]));
        let jwk = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k", "x": x, "y": y});
        Self { pkcs8: pkcs8.as_ref().to_vec(), jwk: serde_json::from_value(jwk).unwrap() }
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as("k", claims)
    }

    fn sign_as(&self, kid: &str, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(kid.into());
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_ec_der(&self.pkcs8)).unwrap()
    }
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let group = |group: &[u8]| {
        let word = group.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let digits = (0..=group.len()).map(|at| char::from(DIGITS[(word >> (18 - 6 * at) & 63) as usize]));
        digits.collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

fn id() -> AttemptId {
    AttemptId { job: "a".into(), attempt: 1 }
}

fn claims(more: Value) -> Value {
    let mut claims = json!({
        "iss": "https://kubernetes", "aud": ["sendo"], "exp": 4_000_000_000_u64,
        "kubernetes.io": {"namespace": "jobs", "pod": {"name": name::pod(&id()), "uid": "u"}},
    });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

fn told(signer: &Signer, token: &str) -> Result<Speaker, Stranger> {
    verify(token, &signer.jwk, "https://kubernetes", "jobs")?.speaks_for(&id())
}

#[test]
fn a_good_token_names_its_pod_and_the_node() {
    let signer = Signer::new();
    assert_eq!(told(&signer, &signer.sign(&claims(json!({})))), Ok("u".into()));
    let mut named = claims(json!({}));
    named["kubernetes.io"]["node"] = json!({"name": "n", "uid": "v"});
    assert_eq!(told(&signer, &signer.sign(&named)), Ok(Speaker { uid: "u".into(), node: Some("n".into()) }));
}

#[test]
fn every_other_token_speaks_for_nobody() {
    let signer = Signer::new();
    for (more, why) in [
        (json!({"exp": 1_000_000_000}), "expired"),
        (json!({"nbf": 3_900_000_000_u64}), "not yet good"),
        (json!({"aud": ["https://kubernetes.default.svc"]}), "another audience"),
        (json!({"iss": "https://elsewhere"}), "another cluster"),
        (json!({"exp": null}), "for ever"),
        (
            json!({"kubernetes.io": {"namespace": "other", "pod": {"name": name::pod(&id()), "uid": "u"}}}),
            "another namespace",
        ),
        (json!({"kubernetes.io": {"namespace": "jobs"}}), "bound to no Pod"),
        (json!({"kubernetes.io": null}), "no service account's"),
    ] {
        let token = signer.sign(&claims(more));
        assert!(matches!(told(&signer, &token), Err(Stranger::Unknown(_))), "{why}");
    }
    let other = Signer::new();
    assert!(matches!(told(&signer, &other.sign(&claims(json!({})))), Err(Stranger::Unknown(_))), "another key");
    let (head, tail) = ("eyJhbGciOiJub25lIiwia2lkIjoiayJ9", signer.sign(&claims(json!({}))));
    let unsigned = format!("{head}.{}.", tail.split('.').nth(1).unwrap());
    assert!(matches!(told(&signer, &unsigned), Err(Stranger::Unknown(_))), "unsigned");
}

#[test]
fn another_pods_token_is_another_pods() {
    let signer = Signer::new();
    let pod = json!({"name": name::pod(&AttemptId { job: "a".into(), attempt: 2 }), "uid": "u"});
    let token = signer.sign(&claims(json!({"kubernetes.io": {"namespace": "jobs", "pod": pod}})));
    assert!(matches!(told(&signer, &token), Err(Stranger::Another(_))));
}

#[test]
fn a_kind_of_key_that_is_new_does_not_hide_the_others() {
    let set = json!({"keys": [{"kty": "LATTICE", "kid": "q"}, Signer::new().jwk]}).to_string();
    assert!(readable(&set).unwrap().find("k").is_some());
    assert!(readable("{\"keys\": []}").is_err());
}

/// An API server's client, on a runtime that moves only when it is told to.
fn identity(server: &TcpListener) -> (Runtime, Identity) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let here = runtime.enter();
    let url = format!("http://{}", server.local_addr().unwrap()).parse().unwrap();
    let mut config = kube::Config::new(url);
    config.default_retry = false;
    let client = kube::Client::try_from(config).unwrap();
    drop(here);
    (runtime, Identity::new(client, "jobs".into()))
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn who_is_known_does_not_wait_for_keys_that_are_read_again() {
    let signer = Signer::new();
    let (runtime, identity) = identity(&listener());
    let _here = runtime.enter();
    let keep = |age: Duration| {
        let (issuer, set) = ("https://kubernetes".into(), JwkSet { keys: vec![signer.jwk.clone()] });
        let keys = Keys { issuer, set, read: Instant::now().checked_sub(age).unwrap() };
        *identity.source.keys.try_write().unwrap() = Some(Arc::new(keys));
    };
    let at_once = |token: &str| identity.vouch(token).now_or_never().map(|witness| witness?.speaks_for(&id()));
    let known = signer.sign(&claims(json!({})));
    keep(Duration::ZERO);
    assert_eq!(at_once(&known), Some(Ok("u".into())));
    assert!(identity.source.asked.try_lock().is_ok(), "fresh keys are good");
    keep(OLDEST);
    assert_eq!(at_once(&known), Some(Ok("u".into())));
    assert!(identity.source.asked.try_lock().is_err(), "old ones are read again");
    assert_eq!(at_once(&known), Some(Ok("u".into())), "and count meanwhile");
    // The control: whose key is not known waits until they have been.
    assert_eq!(at_once(&signer.sign_as("other", &claims(json!({})))), None);
}

#[test]
fn keys_that_could_not_be_read_are_not_asked_for_again_at_once() {
    let server = listener();
    let (runtime, identity) = identity(&server);
    let refused = std::thread::spawn(move || {
        // The connection ends with this, without an answer.
        let _asked = server.accept().unwrap();
        Instant::now()
    });
    assert!(matches!(runtime.block_on(identity.source.fetch()), Err(Stranger::NotNow(_))));
    let asked = identity.source.asked.try_lock().unwrap();
    assert!(*asked > Some(refused.join().unwrap()), "counted from the failure");
}
