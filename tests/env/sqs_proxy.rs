//! Between a program and ElasticMQ: notes each request, and answers some of them as SQS does on a bad day.

use super::elasticmq::elasticmq;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// What is done to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// Never answered, never passed on.
    Hang,
    /// The batch's first entry is not passed on, and the answer names it as failed.
    FailFirstEntry,
    /// The endpoint does not know the action.
    Unsupported,
    /// SQS is not well.
    Unavailable,
}

/// A proxy; ends when dropped.
pub struct Proxy {
    pub endpoint: String,
    inner: Arc<Inner>,
    runtime: Option<tokio::runtime::Runtime>,
}

struct Inner {
    client: reqwest::Client,
    /// The action, what is done to it, and how often.
    rule: Mutex<(&'static str, Fate, u32)>,
    seen: Mutex<Vec<(String, Fate)>>,
    authorization: Mutex<String>,
}

impl Proxy {
    pub fn start() -> Self {
        elasticmq();
        let (runtime, listener) = listener();
        let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
        let inner = Arc::new(Inner {
            client,
            rule: Mutex::new(("", Fate::Pass, 0)),
            seen: Mutex::new(vec![]),
            authorization: Mutex::default(),
        });
        let routes = Router::new().fallback(handle).with_state(Arc::clone(&inner));
        let routes = routes.layer(axum::extract::DefaultBodyLimit::disable());
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Self { endpoint, inner, runtime: Some(runtime) }
    }

    /// From now on the next `times` requests of the action (`DeleteMessageBatch`) meet this fate.
    pub fn rule(&self, action: &'static str, fate: Fate, times: u32) {
        *self.inner.rule.lock().unwrap() = (action, fate, times);
    }

    /// Access key and region of the last request's signature.
    pub fn signer(&self) -> Option<(String, String)> {
        let authorization = self.inner.authorization.lock().unwrap();
        let mut scope = authorization.split_once("Credential=")?.1.split('/');
        Some((scope.next()?.to_owned(), scope.nth(1)?.to_owned()))
    }

    /// How many requests of the action met that fate.
    pub fn seen(&self, action: &str, fate: Fate) -> usize {
        let seen = self.inner.seen.lock().unwrap();
        seen.iter().filter(|(name, met)| name == action && *met == fate).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Requests that hang are not waited for.
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// A server that gives an answer of one's own to each request; ends when dropped.
pub struct Answering {
    pub endpoint: String,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// Starts one; `answer` sees the path with the headers, and the body.
pub fn answering(answer: fn(&str, &str) -> String) -> Answering {
    let (runtime, listener) = listener();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().fallback(move |uri: Uri, headers: HeaderMap, body: String| async move {
        // What the metadata of an instance wants to hear again of its token.
        let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "21600")];
        (ttl, answer(&format!("{uri} {headers:?}"), &body))
    });
    runtime.spawn(async move { axum::serve(listener, routes).await });
    Answering { endpoint, runtime: Some(runtime) }
}

fn listener() -> (tokio::runtime::Runtime, tokio::net::TcpListener) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    (runtime, listener)
}

async fn handle(State(proxy): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let action = target.rsplit('.').next().unwrap_or_default().to_owned();
    let fate = {
        let mut rule = proxy.rule.lock().unwrap();
        if rule.0 == action && rule.2 > 0 {
            rule.2 -= 1;
            rule.1
        } else {
            Fate::Pass
        }
    };
    let authorization = headers.get("authorization").and_then(|text| text.to_str().ok()).unwrap_or_default();
    authorization.clone_into(&mut proxy.authorization.lock().unwrap());
    proxy.seen.lock().unwrap().push((action, fate));
    let refusal = |status, kind: &str| amz(status, json!({"__type": kind, "message": "not today"}));
    match fate {
        Fate::Hang => std::future::pending().await,
        Fate::Unsupported => refusal(StatusCode::BAD_REQUEST, "com.amazonaws.sqs#UnsupportedOperation"),
        Fate::Unavailable => refusal(StatusCode::SERVICE_UNAVAILABLE, "com.amazonaws.sqs#ServiceUnavailable"),
        Fate::Pass => {
            let (status, answer) = pass(&proxy, &headers, body).await;
            (status, [("content-type", "application/x-amz-json-1.0")], answer).into_response()
        }
        Fate::FailFirstEntry => {
            let mut request: Value = serde_json::from_slice(&body).unwrap();
            let entries = request["Entries"].as_array_mut().unwrap();
            let id = entries.remove(0)["Id"].clone();
            let mut answer = json!({"Successful": []});
            if !entries.is_empty() {
                answer = serde_json::from_slice(&pass(&proxy, &headers, request.to_string().into()).await.1).unwrap();
            }
            answer["Failed"] =
                json!([{"Id": id, "SenderFault": false, "Code": "InternalError", "Message": "not today"}]);
            amz(StatusCode::OK, answer)
        }
    }
}

async fn pass(proxy: &Inner, headers: &HeaderMap, body: Bytes) -> (StatusCode, Bytes) {
    let mut request = proxy.client.post(elasticmq().endpoint()).body(body);
    for name in ["x-amz-target", "content-type", "authorization", "x-amz-date"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.unwrap();
    (answer.status(), answer.bytes().await.unwrap())
}

fn amz(status: StatusCode, body: Value) -> Response {
    (status, [("content-type", "application/x-amz-json-1.0")], body.to_string()).into_response()
}
