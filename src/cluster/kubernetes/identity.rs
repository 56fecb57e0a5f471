//! Who speaks: a Pod's projected service-account token, verified against the cluster's own keys.
//!
//! Kubernetes vouches for the Pod: the token names its namespace, name and UID, and is for our audience alone. The keys are the API server's
//! `/openid/v1/jwks`, read with our own client and kept; they rotate, so a token under a key that we do not know has them read again, but no oftener
//! than [`REFETCH`]: whoever sends nonsense must not make us flood the API server. No TokenReview is needed, no Secret, and no request per report.
//! Nobody whose key is known waits for the API server: old keys count while they are read again.

use super::{name, pod::AUDIENCE};
use crate::{
    cluster::{Stranger, Witness},
    ledger::Speaker,
};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    errors::ErrorKind,
    jwk::{Jwk, JwkSet},
};
use serde::Deserialize;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, RwLock};

/// Between two readings of the keys.
const REFETCH: Duration = Duration::from_secs(10);
/// So old, they are read again: one may have been withdrawn. Until they have been, the old ones count: a Pod that reports is not to suffer.
const OLDEST: Duration = Duration::from_secs(600);
/// Clocks differ; tokens are renewed long before their end.
const LEEWAY_SECONDS: u64 = 30;
const FETCH_LIMIT: Duration = Duration::from_secs(10);
/// What API servers sign with (<https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/>).
const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::ES256, Algorithm::ES384];

/// The cluster's word for its Pods.
pub struct Identity {
    namespace: String,
    source: Arc<Source>,
}

/// Where the keys come from, and what was read there last.
struct Source {
    client: kube::Client,
    keys: RwLock<Option<Arc<Keys>>>,
    /// When they were asked for last; held while they are.
    asked: Arc<Mutex<Option<Instant>>>,
}

/// The keys that tokens are signed with.
struct Keys {
    issuer: String,
    set: JwkSet,
    read: Instant,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

#[derive(Debug, Deserialize)]
struct Claims {
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

#[derive(Debug, Deserialize)]
struct Bound {
    namespace: String,
    pod: Option<PodRef>,
    /// Said since Kubernetes 1.30.
    node: Option<NodeRef>,
}

#[derive(Debug, Deserialize)]
struct PodRef {
    name: String,
    uid: String,
}

#[derive(Debug, Deserialize)]
struct NodeRef {
    name: String,
}

impl Identity {
    pub fn new(client: kube::Client, namespace: String) -> Self {
        let source = Source { client, keys: RwLock::default(), asked: Arc::default() };
        Self { namespace, source: Arc::new(source) }
    }

    /// The Pod whose token it is.
    pub async fn vouch(&self, token: &str) -> Result<Witness, Stranger> {
        let kid = key_id(token)?;
        let kept = self.source.keys.read().await.clone();
        let keys = match kept.filter(|keys| keys.set.find(&kid).is_some()) {
            Some(keys) => {
                if keys.read.elapsed() >= OLDEST {
                    self.source.renew();
                }
                keys
            }
            None => self.source.fetch().await?,
        };
        let unknown = || Stranger::Unknown("it is signed with a key that is not this cluster's".into());
        let key = keys.set.find(&kid).ok_or_else(unknown)?;
        verify(token, key, &keys.issuer, &self.namespace)
    }
}

impl Source {
    /// Reads the keys, unless somebody did a moment ago.
    async fn fetch(&self) -> Result<Arc<Keys>, Stranger> {
        let mut asked = self.asked.lock().await;
        if is_recent(*asked) {
            // What was read then counts; where nothing was, nobody can be told that he is a stranger.
            let keys = self.keys.read().await.clone().filter(|keys| keys.read.elapsed() < OLDEST);
            return keys.ok_or_else(|| Stranger::NotNow("the cluster's keys cannot be read now; ask again".into()));
        }
        self.ask(&mut asked).await
    }

    /// Has the keys read while nobody waits, unless somebody does so or did a moment ago.
    fn renew(self: &Arc<Self>) {
        let Ok(mut asked) = Arc::clone(&self.asked).try_lock_owned() else { return };
        if is_recent(*asked) {
            return;
        }
        let source = Arc::clone(self);
        tokio::spawn(async move {
            let _ = source.ask(&mut asked).await; // the log has it
        });
    }

    async fn ask(&self, asked: &mut Option<Instant>) -> Result<Arc<Keys>, Stranger> {
        // Whoever waits may leave in the middle.
        *asked = Some(Instant::now());
        let read = tokio::time::timeout(FETCH_LIMIT, self.read()).await;
        // An API server that has taken all of the time is not to be asked again at once.
        *asked = Some(Instant::now());
        let read = read.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer")));
        let fresh = read.map_err(|why| {
            tracing::warn!(why = format!("{why:#}"), "the cluster's keys cannot be read");
            Stranger::NotNow(format!("the cluster's keys cannot be read: {why:#}; ask again"))
        })?;
        let fresh = Arc::new(fresh);
        *self.keys.write().await = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    async fn read(&self) -> anyhow::Result<Keys> {
        let get = |path: &str| axum::http::Request::get(path).body(Vec::new());
        let discovery: Discovery = self.client.request(get("/.well-known/openid-configuration")?).await?;
        let set = self.client.request_text(get("/openid/v1/jwks")?).await?;
        Ok(Keys { issuer: discovery.issuer, set: readable(&set)?, read: Instant::now() })
    }
}

fn is_recent(asked: Option<Instant>) -> bool {
    asked.is_some_and(|at| at.elapsed() < REFETCH)
}

/// The keys that we can use; a kind that this release does not know is no reason to believe none.
fn readable(text: &str) -> anyhow::Result<JwkSet> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_str(text)?;
    let keys: Vec<Jwk> = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect();
    anyhow::ensure!(!keys.is_empty(), "the API server's key set holds none that can be used");
    Ok(JwkSet { keys })
}

fn key_id(token: &str) -> Result<String, Stranger> {
    let unknown = || Stranger::Unknown("it is no service account's token".into());
    jsonwebtoken::decode_header(token).ok().and_then(|header| header.kid).ok_or_else(unknown)
}

/// The Pod in a good token.
fn verify(token: &str, key: &Jwk, issuer: &str, namespace: &str) -> Result<Witness, Stranger> {
    let unknown = |why: String| Stranger::Unknown(why);
    let header = jsonwebtoken::decode_header(token).map_err(|why| unknown(why.to_string()))?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(unknown(format!("it is signed by {:?}", header.alg)));
    }
    let mut rules = Validation::new(header.alg);
    rules.set_audience(&[AUDIENCE]);
    rules.set_issuer(&[issuer]);
    rules.set_required_spec_claims(&["exp", "aud", "iss"]);
    rules.validate_nbf = true;
    rules.leeway = LEEWAY_SECONDS;
    let decoding = DecodingKey::from_jwk(key).map_err(|why| unknown(why.to_string()))?;
    let claims = jsonwebtoken::decode::<Claims>(token, &decoding, &rules);
    let bound = claims.map_err(|why| unknown(words(&why, issuer)))?.claims.kubernetes;
    if bound.namespace != namespace {
        return Err(unknown(format!("it is of the namespace {}", bound.namespace)));
    }
    let pod = bound.pod.ok_or_else(|| unknown("it is bound to no Pod".into()))?;
    let speaker = Speaker { uid: pod.uid, node: bound.node.map(|node| node.name) };
    Ok(Witness { speaker, place: pod.name, place_of: name::pod })
}

/// What is wrong with a token, for whoever reads the supervisor's log.
fn words(error: &jsonwebtoken::errors::Error, issuer: &str) -> String {
    match error.kind() {
        ErrorKind::ExpiredSignature => "it has expired".into(),
        ErrorKind::ImmatureSignature => "it is not good yet; do the clocks agree?".into(),
        ErrorKind::InvalidAudience => format!("it is for another audience than `{AUDIENCE}`"),
        ErrorKind::InvalidIssuer => format!("its issuer is not this cluster's, {issuer}"),
        ErrorKind::InvalidSignature => "its signature is not by the key that it names".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
