//! What must be true of a queue before we read it, and for as long as we do.

use super::{
    client::{Queue, said},
    settings::{Reject, Settings},
};
use anyhow::bail;
use aws_sdk_sqs::{
    error::{ProvideErrorMetadata as _, SdkError},
    types::QueueAttributeName,
};
use std::time::{Duration, Instant};

/// A look waits so long for the queue's answer: a start and a poller have other things to do.
const LOOK_LIMIT: Duration = Duration::from_secs(15);

/// A queue that is read is looked at so often: somebody may take away what it needs, or the queue itself.
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// SQS's own, for a queue that does not say.
const VISIBILITY: Duration = Duration::from_secs(30);

/// A queue may hide nothing at all; what is in hand is.
const LEAST_VISIBILITY: Duration = Duration::from_secs(1);

/// What a look at the queue found.
enum Look {
    /// It hides for so long what it has handed out.
    Good(Duration),
    /// It will not be good by itself.
    Wrong(String),
    /// It may be good; nobody has said otherwise.
    Unknown(String),
}

/// What a poller knows of its queue.
pub struct Known {
    /// How long the queue hides what it has handed out.
    pub visibility: Duration,
    /// Whether nothing has been found wrong since it was found good.
    good: bool,
    /// When it is to be looked at again.
    due: Instant,
}

impl Known {
    pub fn nothing() -> Self {
        Self { visibility: VISIBILITY, good: false, due: Instant::now() }
    }

    /// Whether the queue may be read now; why not. It is looked at only when that is due. A look that finds out nothing changes nothing.
    pub async fn again(&mut self, queue: &Queue, settings: &Settings) -> Result<(), String> {
        if self.good && Instant::now() < self.due {
            return Ok(());
        }
        match look(queue, settings).await {
            Look::Good(visibility) => (self.visibility, self.good) = (visibility, true),
            Look::Unknown(why) if self.good => not_looked_at(queue, &why),
            Look::Wrong(why) | Look::Unknown(why) => {
                self.good = false;
                return Err(why);
            }
        }
        self.due = Instant::now() + LOOK_EVERY;
        Ok(())
    }

    /// Something has happened that only a good queue bears: it is looked at before it is read again.
    pub fn doubt(&mut self) {
        self.due = Instant::now();
    }
}

/// What is definitely wrong is an error. A queue that cannot be reached stops nobody: running transfers need their ledger.
pub async fn at_start(queue: &Queue, settings: &Settings) -> anyhow::Result<()> {
    match look(queue, settings).await {
        Look::Good(_) => {}
        Look::Wrong(why) => bail!("queue {}: {why}", queue.url),
        Look::Unknown(why) => not_looked_at(queue, &why),
    }
    Ok(())
}

fn not_looked_at(queue: &Queue, why: &str) {
    tracing::warn!(queue = queue.url, why, "the queue cannot be looked at; it is asked again");
}

async fn look(queue: &Queue, settings: &Settings) -> Look {
    let late = |_| Look::Unknown(format!("no answer within {LOOK_LIMIT:?}"));
    tokio::time::timeout(LOOK_LIMIT, ask(queue, settings)).await.unwrap_or_else(late)
}

async fn ask(queue: &Queue, settings: &Settings) -> Look {
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
    let visibility = attributes.get(&QueueAttributeName::VisibilityTimeout).and_then(|seconds| seconds.parse().ok());
    Look::Good(visibility.map_or(VISIBILITY, Duration::from_secs).max(LEAST_VISIBILITY))
}
