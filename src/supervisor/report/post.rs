//! One request to the ledger and what its answer means. Knows HTTP; knows no order, no retry.

mod names;

use super::super::config::JobConfig;
use anyhow::{Context as _, bail};
use names::Names;
use serde::{Serialize, de::DeserializeOwned};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// One request, from connect to the last byte.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// More than any answer of a ledger.
const ANSWER_LIMIT: u64 = 4 * 1024 * 1024;

/// The way to the ledger.
#[derive(Clone)]
pub struct Ledger {
    http: reqwest::Client,
    url: reqwest::Url,
    token_file: PathBuf,
}

/// How a request went.
#[derive(Debug)]
pub enum Answer<T> {
    Given(T),
    /// The ledger will not take this body, ever.
    Unacceptable(String),
    /// Try again, not before this long where the ledger says so.
    Unreachable {
        why: String,
        retry_after: Option<Duration>,
    },
}

impl Ledger {
    /// Checks what can be checked before anything starts.
    pub fn new(config: &JobConfig) -> anyhow::Result<Self> {
        // A second installation is the same provider: tests build more than one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .no_proxy()
            .dns_resolver(Arc::new(Names::new()))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_LIMIT)
            .user_agent(concat!("sendo-supervisor/", env!("CARGO_PKG_VERSION")));
        let builder = match &config.ca_file {
            Some(file) => {
                let pem = std::fs::read(file).with_context(|| format!("read --ca-file {}", file.display()))?;
                let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                    .with_context(|| format!("--ca-file {} is not PEM", file.display()))?;
                if certificates.is_empty() {
                    bail!("--ca-file {} holds no certificate", file.display());
                }
                builder.tls_certs_only(certificates)
            }
            // Plain HTTP needs no trust, and a container without a CA bundle must work.
            None if config.ledger_url.scheme() == "http" => builder.tls_certs_only([]),
            None => builder,
        };
        let http =
            builder.build().context("no certificates to trust: give --ca-file, or put a CA bundle into the image")?;
        Ok(Self { http, url: config.ledger_url.clone(), token_file: config.token_file.clone() })
    }

    /// Posts `body` to `path` below the ledger's address.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Answer<T> {
        match self.try_post(path, body).await {
            Ok(answer) => answer,
            Err(why) => Answer::Unreachable { why: format!("{why:#}"), retry_after: None },
        }
    }

    async fn try_post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<Answer<T>> {
        let token = std::fs::read_to_string(&self.token_file);
        let token = token.with_context(|| format!("read the token from {}", self.token_file.display()))?;
        let mut url = self.url.clone();
        url.path_segments_mut()
            .ok()
            .context("the ledger's address has no path")?
            .pop_if_empty()
            .extend(path.split('/'));
        let body = serde_json::to_vec(body).context("render the request")?;
        let request =
            self.http.post(url).bearer_auth(token.trim()).header("content-type", "application/json").body(body);
        let mut response = request.send().await.map_err(reqwest::Error::without_url).context("reach the ledger")?;
        let status = response.status();
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let mut text = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(reqwest::Error::without_url).context("read the ledger's answer")?
        {
            text.extend_from_slice(&chunk);
            if text.len() as u64 > ANSWER_LIMIT {
                bail!("the ledger's answer is longer than {ANSWER_LIMIT} bytes");
            }
        }
        Ok(match status.as_u16() {
            200 => Answer::Given(serde_json::from_slice(&text).context("understand the ledger's answer")?),
            400 | 413 | 422 => Answer::Unacceptable(words(status, &text)),
            _ => Answer::Unreachable { why: words(status, &text), retry_after: retry_after.map(Duration::from_secs) },
        })
    }
}

fn words(status: reqwest::StatusCode, text: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(text).chars().take(300).collect();
    format!("the ledger answered {status}: {text}")
}
