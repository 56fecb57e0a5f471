//! The verbs' way to the server: one place for addresses, errors and their words.

use crate::{
    ledger::Heartbeat,
    problem::Problem,
    serve::api::{HeartbeatPage, NEXT_OFFSET},
};
use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Where `sendo dev` leaves its address.
pub const ADDRESS_FILE: &str = "address";

/// Before any reading.
pub const FROM_THE_START: (i64, i64) = (i64::MIN, 0);

/// Flags that every verb has.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// Address of `sendo serve` or `sendo dev` [default: that of the `sendo dev` in ./.sendo]
    #[arg(long, env = "SENDO_SERVER", value_name = "URL")]
    server: Option<String>,
    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
}

/// The server will not do this for us.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotAllowed(String);

/// A server.
pub struct Client {
    http: reqwest::Client,
    server: Url,
}

impl Client {
    pub fn new(common: &Common) -> anyhow::Result<Self> {
        let server = match &common.server {
            Some(server) => server.clone(),
            None => {
                let file = std::path::Path::new(".sendo").join(ADDRESS_FILE);
                std::fs::read_to_string(&file).ok().context(
                    "no server: start `sendo dev` in this folder, or name one with --server URL or SENDO_SERVER",
                )?
            }
        };
        let server: Url = server
            .trim()
            .parse()
            .with_context(|| format!("--server: `{}` is no address like http://127.0.0.1:8920", server.trim()))?;
        if !matches!(server.scheme(), "http" | "https") || server.cannot_be_a_base() {
            bail!("--server: `{server}` must begin with http:// or https://");
        }
        // A second installation is the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder =
            reqwest::Client::builder().timeout(REQUEST_LIMIT).user_agent(concat!("sendo/", env!("CARGO_PKG_VERSION")));
        // Plain HTTP needs no trust, and no proxy leads to this machine.
        let builder = if server.scheme() == "http" { builder.tls_certs_only([]).no_proxy() } else { builder };
        Ok(Self { http: builder.build().context("make an HTTP client")?, server })
    }

    /// `GET` of a path whose parts may hold anything.
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<T> {
        let mut url = self.url(path)?;
        url.query_pairs_mut().extend_pairs(query);
        self.json(self.http.request(Method::GET, url)).await
    }

    /// An attempt's readings behind `after` (moment and number), page by page.
    pub async fn heartbeats(
        &self,
        id: &str,
        attempt: Option<u32>,
        mut after: (i64, i64),
    ) -> anyhow::Result<Vec<Heartbeat>> {
        let mut all = Vec::new();
        loop {
            let mut query = vec![("after_ms", after.0.to_string()), ("after_seq", after.1.to_string())];
            query.extend(attempt.map(|attempt| ("attempt", attempt.to_string())));
            let page: HeartbeatPage = self.get(&["v1", "jobs", id, "heartbeats"], &query).await?;
            after = page.heartbeats.last().map_or(after, |last| (last.at_ms, last.seq));
            all.extend(page.heartbeats);
            if !page.more {
                return Ok(all);
            }
        }
    }

    /// `POST` of a body that is JSON already.
    pub async fn post_text<T: DeserializeOwned>(&self, path: &[&str], body: Vec<u8>) -> anyhow::Result<T> {
        self.json(
            self.http.request(Method::POST, self.url(path)?).header("content-type", "application/json").body(body),
        )
        .await
    }

    /// `POST` of a value.
    pub async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> anyhow::Result<T> {
        self.post_text(path, serde_json::to_vec(body).context("render the request")?).await
    }

    /// A piece of a log, and where the next one begins.
    pub async fn log_piece(&self, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<(Vec<u8>, u64)> {
        let mut url = self.url(path)?;
        url.query_pairs_mut().extend_pairs(query);
        let response = self.send(self.http.request(Method::GET, url)).await?;
        let next = response.headers().get(NEXT_OFFSET).and_then(|next| next.to_str().ok()?.parse().ok());
        let next = next.context("the server's answer has no offset")?;
        Ok((response.bytes().await.context("read the log")?.to_vec(), next))
    }

    fn url(&self, path: &[&str]) -> anyhow::Result<Url> {
        let mut url = self.server.clone();
        url.path_segments_mut().ok().context("the server's address has no path")?.pop_if_empty().extend(path);
        Ok(url)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let answer = self.send(request).await?.bytes().await.context("read the server's answer")?;
        serde_json::from_slice(&answer).context("understand the server's answer; is it a Sendo of this release?")
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.map_err(reqwest::Error::without_url);
        let response = response.with_context(|| format!("reach the server at {}; is it running?", self.server))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        let words = match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => problem.detail,
            Err(_) => format!("the server answered {status}: {}", String::from_utf8_lossy(&body).trim()),
        };
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(NotAllowed(words).into());
        }
        bail!(words)
    }
}
