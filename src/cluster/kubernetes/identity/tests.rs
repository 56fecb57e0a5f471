use super::*;
use jsonwebtoken::{EncodingKey, Header};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

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
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some("k".into());
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
    verify(token, &signer.jwk, "https://kubernetes", "jobs", &id())
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
