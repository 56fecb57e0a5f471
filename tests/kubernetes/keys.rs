//! What a token is worth: by time, key, cluster; and keys that rotate.

use super::{
    dispatcher::{Dispatcher, pod, script},
    identity::{ask, token},
};
use crate::env::{self, kubernetes::Cluster, stderr, wait_for};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};
use std::{path::Path, process::Command};

/// A dispatcher on a cluster of its own, with Pods that wait for a node: the test speaks for them.
fn dispatcher(jobs: &[&str]) -> (&'static Cluster, Dispatcher) {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::without_scheduler()));
    let dispatcher = Dispatcher::on(cluster, "", "");
    for id in jobs {
        dispatcher.submit(&script(id, "true"));
        dispatcher.wait_for_pod(id, "there", |_| true);
        dispatcher.wait(id, "setting_up");
    }
    (cluster, dispatcher)
}

/// What a token says.
fn claims(token: &str) -> Value {
    let mut lenient = Validation::new(Algorithm::RS256);
    lenient.insecure_disable_signature_validation();
    lenient.validate_aud = false;
    jsonwebtoken::decode(token, &DecodingKey::from_secret(&[]), &lenient).unwrap().claims
}

/// A token of one's own making.
fn forge(key: &Path, key_id: &str, claims: &Value) -> String {
    let mut openssl = Command::new("openssl");
    let made = openssl.args(["rsa", "-traditional", "-outform", "DER", "-in"]).arg(key).output().unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    let header = Header { kid: Some(key_id.to_owned()), ..Header::new(Algorithm::RS256) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_rsa_der(&made.stdout)).unwrap()
}

fn key_id(token: &str) -> String {
    jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
}

/// Its claims with others in place of some.
fn with(claims: &Value, others: Value) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
    claims
}

#[test]
fn a_token_is_good_for_its_time_its_key_its_audience_and_its_cluster() {
    let (cluster, dispatcher) = dispatcher(&["a", "b"]);
    let real = token(&dispatcher, &pod("a", 1), "sendo");
    let (claims, id, key) = (claims(&real), key_id(&real), cluster.signing_key());
    let folder = env::scratch();
    let other = folder.path().join("other.key");
    let mut openssl = Command::new("openssl");
    openssl.args(["genpkey", "-quiet", "-algorithm", "RSA", "-out"]).arg(&other);
    assert!(openssl.status().unwrap().success());
    let now = claims["iat"].as_i64().unwrap();
    let expired = with(&claims, json!({"iat": now - 7200, "nbf": now - 7200, "exp": now - 3600}));
    let elsewhere = with(&claims, json!({"iss": "https://elsewhere"}));
    for (token, status, why) in [
        (forge(&key, &id, &expired), 401, "it has expired"),
        (forge(&key, &id, &with(&claims, json!({"nbf": now + 3600}))), 401, "it is not good yet"),
        (forge(&key, &id, &elsewhere), 401, "its issuer is not this cluster's"),
        (forge(&other, &id, &claims), 401, "its signature is not by the key that it names"),
        (forge(&other, "another", &claims), 401, "signed with a key that is not this cluster's"),
        (token(&dispatcher, &pod("a", 1), "vault"), 401, "it is for another audience than `sendo`"),
        (token(&dispatcher, &pod("b", 1), "sendo"), 403, "that is not the one of a/1"),
    ] {
        let (answered, problem) = ask(&dispatcher, "a", "n", &token);
        let said = problem["detail"].as_str().unwrap_or_default();
        assert!(answered == status && said.contains(why), "{answered}, not {status} and `{why}`: {problem}");
    }
    assert!(dispatcher.sql("SELECT nonce FROM attempts WHERE nonce IS NOT NULL").is_empty());
    // The controls: what was wrong above is all that was wrong.
    for token in [forge(&key, &id, &claims), real] {
        assert_eq!(ask(&dispatcher, "a", "n", &token).1["answer"], "granted");
    }
    assert_eq!(ask(&dispatcher, "b", "n", &token(&dispatcher, &pod("b", 1), "sendo")).1["answer"], "granted");
}

#[test]
fn a_clusters_key_rotates_and_old_and_new_tokens_are_good() {
    let (cluster, dispatcher) = dispatcher(&["a", "b"]);
    let old = token(&dispatcher, &pod("a", 1), "sendo");
    assert_eq!(ask(&dispatcher, "a", "n", &old).1["answer"], "granted");
    cluster.rotate_signing_key();
    let new = token(&dispatcher, &pod("b", 1), "sendo");
    assert_ne!(key_id(&old), key_id(&new));
    // Its key is unknown, and is looked up again; not more often than the API server should be asked.
    wait_for("the new key to be known", || {
        let (status, answer) = ask(&dispatcher, "b", "n", &new);
        assert!(matches!(status, 200 | 401 | 503), "{answer}");
        (answer["answer"] == "granted").then_some(())
    });
    assert_eq!(ask(&dispatcher, "a", "n", &old).1["answer"], "granted");
}
