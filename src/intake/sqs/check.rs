//! What must be true of a queue before we read it.

use super::{
    client::{Queue, said},
    settings::{Reject, Settings},
};
use anyhow::bail;
use aws_sdk_sqs::{
    error::{ProvideErrorMetadata as _, SdkError},
    types::QueueAttributeName,
};
use std::time::Duration;

/// A start waits so long for a queue's answer.
const START_LIMIT: Duration = Duration::from_secs(15);

/// What a look at the queue found.
enum Look {
    Good,
    /// It will not be good by itself.
    Wrong(String),
    /// It may be good; nobody has said otherwise.
    Unknown(String),
}

/// What is definitely wrong is an error. A queue that cannot be reached stops nobody: running transfers need their ledger.
pub async fn at_start(queue: &Queue, settings: &Settings) -> anyhow::Result<()> {
    match tokio::time::timeout(START_LIMIT, look(queue, settings)).await.unwrap_or_else(|_| late()) {
        Look::Good => Ok(()),
        Look::Wrong(why) => bail!("queue {}: {why}", queue.url),
        Look::Unknown(why) => {
            tracing::warn!(queue = queue.url, why, "the queue cannot be looked at; it is asked again");
            Ok(())
        }
    }
}

/// Whether the queue may be read now; why not.
pub async fn again(queue: &Queue, settings: &Settings) -> Result<(), String> {
    match look(queue, settings).await {
        Look::Good => Ok(()),
        Look::Wrong(why) | Look::Unknown(why) => Err(why),
    }
}

fn late() -> Look {
    Look::Unknown(format!("no answer within {START_LIMIT:?}"))
}

async fn look(queue: &Queue, settings: &Settings) -> Look {
    let asked = queue.client.get_queue_attributes().queue_url(&queue.url).attribute_names(QueueAttributeName::All);
    let attributes = match asked.send().await {
        Ok(answer) => answer.attributes.unwrap_or_default(),
        Err(SdkError::ServiceError(error)) if error.raw().status().is_client_error() => {
            let (code, words) = (error.err().code().unwrap_or("error"), error.err().message().unwrap_or_default());
            let why = format!("SQS says {code}: {words}");
            // Too many requests, or a clock that is being set: not the queue's fault.
            let passing = ["Throttl", "RequestExpired", "ExpiredToken"].iter().any(|part| code.contains(part));
            return if passing { Look::Unknown(why) } else { Look::Wrong(why) };
        }
        Err(error) => return Look::Unknown(said(&error)),
    };
    let redrives = attributes.get(&QueueAttributeName::RedrivePolicy).is_some_and(|policy| !policy.is_empty());
    if settings.reject == Reject::Redrive && !redrives {
        return Look::Wrong(
            "the queue has no redrive policy, so that a message that is refused would come for ever; give the queue a dead-letter \
             queue, or set reject = \"delete\""
                .into(),
        );
    }
    Look::Good
}
