//! The way to a queue: region, credentials and endpoint as the AWS SDK finds them.

use super::settings::{Settings, check_url, name, region_of};
use anyhow::Context as _;
use aws_config::{BehaviorVersion, Region, SdkConfig, timeout::TimeoutConfig};
use aws_sdk_sqs::{Client, config::SharedHttpClient, error::DisplayErrorContext};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use std::time::Duration;

/// A long poll: the longest that SQS knows
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html>).
pub const POLL: Duration = Duration::from_secs(20);

/// A request that takes longer than a long poll and this is lost.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A queue that can be asked.
pub struct Queue {
    pub client: Client,
    pub url: String,
    pub name: String,
}

impl Queue {
    pub async fn open(settings: &Settings) -> anyhow::Result<Self> {
        check_url(&settings.url)?;
        let region = settings.region.as_deref().or_else(|| region_of(&settings.url));
        let config = shared(region).await?;
        let mut builder = aws_sdk_sqs::config::Builder::from(&config);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        let client = Client::from_conf(builder.build());
        Ok(Self { client, url: settings.url.clone(), name: settings.name().to_owned() })
    }

    /// The same way to another queue.
    pub fn beside(&self, url: &str) -> Self {
        Self { client: self.client.clone(), url: url.into(), name: name(url).into() }
    }

    /// FIFO queues say so by their names.
    pub fn is_fifo(&self) -> bool {
        self.name.ends_with(".fifo")
    }
}

/// What the SDK finds: environment, profile, web identity, container (Pod identity too), the instance's metadata.
async fn shared(region: Option<&str>) -> anyhow::Result<SdkConfig> {
    let limits = TimeoutConfig::builder().connect_timeout(CONNECT_LIMIT).operation_attempt_timeout(POLL + ANSWER_LIMIT);
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http()).timeout_config(limits.build());
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    let config = loader.load().await;
    config.region().context(
        "queue: no region: the queue's address names none; set `region` beside `url`, AWS_REGION, or a profile's",
    )?;
    Ok(config)
}

/// With ring, as everything here that encrypts.
fn http() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

/// An SDK's error with its causes in one line.
pub fn said(error: &(impl std::error::Error + 'static)) -> String {
    // The long form repeats the answer's raw text behind this.
    let words = DisplayErrorContext(error).to_string();
    words.split(" (").next().unwrap_or(&words).to_owned()
}
