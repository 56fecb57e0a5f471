//! `[[queue]]`: what a person says of a queue.

use anyhow::bail;
use serde::{Deserialize, Serialize};

/// Enough for thousands of messages a second; more are a slip of the pen.
const MOST_POLLERS: usize = 64;

/// The width of the column that names a refusal's queue.
const URL_LIMIT: usize = 256;

/// What happens to a message that is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub enum Reject {
    /// It stays in the queue, whose redrive policy moves it to the dead-letter queue.
    #[default]
    Redrive,
    /// It is deleted once the refusal is in the ledger.
    Delete,
}

impl TryFrom<String> for Reject {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        match word.as_str() {
            "redrive" => Ok(Self::Redrive),
            "delete" => Ok(Self::Delete),
            other => Err(format!("reject: `{other}` is neither redrive nor delete")),
        }
    }
}

/// One queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub url: String,
    /// Each holds at most one batch of ten.
    #[serde(default = "pollers")]
    pub pollers: usize,
    #[serde(default)]
    pub reject: Reject,
    /// Where the address does not tell it, and the environment should not.
    #[serde(default)]
    pub region: Option<String>,
    /// Of the API, where it is not the region's own.
    #[serde(default)]
    pub endpoint: Option<String>,
}

fn pollers() -> usize {
    4
}

impl Settings {
    /// A queue that only its address is known of.
    pub fn of(url: &str) -> Self {
        Self { url: url.into(), pollers: pollers(), reject: Reject::default(), region: None, endpoint: None }
    }

    /// Its own name: the last part of its address.
    pub fn name(&self) -> &str {
        name(&self.url)
    }
}

/// A queue's own name.
pub fn name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// What can be seen to be wrong before any queue is asked.
pub fn check(queues: &[Settings]) -> anyhow::Result<()> {
    for (index, queue) in queues.iter().enumerate() {
        let url = &queue.url;
        check_url(url)?;
        if !(1..=MOST_POLLERS).contains(&queue.pollers) {
            bail!("queue {url}: pollers: {} is not 1 to {MOST_POLLERS}", queue.pollers);
        }
        if let Some(endpoint) = &queue.endpoint
            && !is_http(endpoint)
        {
            bail!("queue {url}: endpoint: `{endpoint}` must begin with http:// or https://");
        }
        if queues[..index].iter().any(|other| other.url == *url) {
            bail!("queue {url} is there twice; for more pollers raise `pollers`");
        }
    }
    Ok(())
}

/// An address as AWS gives it.
pub fn check_url(url: &str) -> anyhow::Result<()> {
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| path);
    if !is_http(url) || path.is_none_or(|path| path.is_empty() || path.ends_with('/')) {
        bail!(
            "queue: `{url}` is no queue's address; it looks like https://sqs.ap-northeast-1.amazonaws.com/123456789012/jobs"
        );
    }
    if url.len() > URL_LIMIT {
        bail!("queue: the address has {} bytes; {URL_LIMIT} is the limit", url.len());
    }
    Ok(())
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

/// The region that an address of AWS names: the queue is there and nowhere else.
pub fn region_of(url: &str) -> Option<&str> {
    let host = url.split_once("://")?.1.split('/').next()?;
    let (region, rest) = host.strip_prefix("sqs.")?.split_once('.')?;
    rest.starts_with("amazonaws.com").then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_tells_its_region_only_where_it_is_aws() {
        assert_eq!(region_of("https://sqs.ap-northeast-1.amazonaws.com/1/jobs"), Some("ap-northeast-1"));
        assert_eq!(region_of("https://sqs.cn-north-1.amazonaws.com.cn/1/jobs"), Some("cn-north-1"));
        for other in ["http://127.0.0.1:9324/000000000000/jobs", "https://sqs.example.org/1/jobs", "jobs"] {
            assert_eq!(region_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_queue_is_said_before_anything_is_asked() {
        let wrong = |change: fn(&mut Settings)| {
            let mut queue = Settings::of("https://sqs.eu-west-1.amazonaws.com/1/jobs");
            change(&mut queue);
            check(&[queue]).unwrap_err().to_string()
        };
        assert!(wrong(|queue| queue.url = "jobs".into()).contains("looks like"));
        assert!(wrong(|queue| queue.url = "https://sqs.eu-west-1.amazonaws.com/".into()).contains("looks like"));
        assert!(wrong(|queue| queue.url.push_str(&"x".repeat(256))).contains("256"));
        assert!(wrong(|queue| queue.pollers = 0).contains("pollers"));
        assert!(wrong(|queue| queue.endpoint = Some("localhost".into())).contains("endpoint"));
        let queue = Settings::of("https://sqs.eu-west-1.amazonaws.com/1/jobs");
        assert!(check(&[queue.clone(), queue.clone()]).unwrap_err().to_string().contains("twice"));
        check(&[queue]).unwrap();
    }
}
