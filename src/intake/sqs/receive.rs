//! A poller: receives a batch, brings it into the ledger, settles it, and only then receives again.

use super::{
    check::Known,
    client::{POLL, Queue, said},
    hand::{Hand, Message, TRACEPARENT},
    settings::{Reject, Settings},
    settle,
    stuck::Stuck,
};
use crate::ledger::{self, Ledger};
use aws_sdk_sqs::types::{Message as Sent, MessageSystemAttributeName};
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What one request brings at the most.
const BATCH: i32 = 10;

/// After a stop the batch in hand has so long to get into the ledger; then it is given back.
const LAST_BATCH: Duration = Duration::from_secs(4);

/// SQS hides a message no longer after one receipt
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html>).
const LONGEST_HOLD: Duration = Duration::from_secs(12 * 60 * 60);

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// One of a queue's pollers.
pub struct Poller {
    pub queue: Arc<Queue>,
    pub settings: Settings,
    pub ledger: Ledger,
    /// Shared with the queue's other pollers.
    pub stuck: Stuck,
    /// Rung when a job was taken.
    pub wake: Arc<Notify>,
}

/// Longer from trouble to trouble.
struct Pause(Duration);

impl Pause {
    fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    async fn rest(&mut self) {
        // Up to a half less, so that pollers that failed together do not come back together.
        let share = f64::from(u8::try_from(ledger::now().0.rem_euclid(128)).unwrap_or(0)) / 256.0;
        tokio::time::sleep(self.0.mul_f64(1.0 - share)).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

impl Poller {
    /// Until the stop. What is in hand then is settled.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut known = Known::nothing();
        loop {
            // A batch that SQS hands out in the moment of the stop comes again after its visibility timeout.
            let received = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                received = self.receive(&mut known) => received,
            };
            self.settle(Hand::of(received), &mut known, &shutdown).await;
        }
    }

    /// Until the queue is known to be as it must be.
    async fn looked_at(&self, known: &mut Known) {
        let mut pause = Pause::new();
        while let Err(why) = known.again(&self.queue, &self.settings).await {
            tracing::error!(queue = self.queue.url, why, "the queue is not read");
            pause.rest().await;
        }
    }

    /// The next batch that is not empty. While the ledger does not answer, or does not take what another poller holds, nothing is asked for.
    async fn receive(&self, known: &mut Known) -> Vec<Sent> {
        let mut pause = Pause::new();
        loop {
            self.stuck.none().await;
            self.looked_at(known).await;
            if let Err(error) = self.ledger.ping().await {
                tracing::warn!(queue = self.queue.url, "{error}; nothing is received meanwhile");
                pause.rest().await;
                continue;
            }
            let seconds = i32::try_from(POLL.as_secs()).unwrap_or(i32::MAX);
            let asked = self.queue.client.receive_message().queue_url(&self.queue.url);
            let asked = asked.max_number_of_messages(BATCH).wait_time_seconds(seconds);
            let asked = asked
                .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
                .message_system_attribute_names(MessageSystemAttributeName::AwsTraceHeader)
                .message_attribute_names(TRACEPARENT);
            match asked.send().await.map(|answer| answer.messages.unwrap_or_default()) {
                Ok(messages) if messages.is_empty() => pause = Pause::new(),
                Ok(messages) => return messages,
                Err(error) => {
                    tracing::warn!(queue = self.queue.url, why = said(&error), "not received");
                    pause.rest().await;
                }
            }
        }
    }

    /// Brings a batch to its end: into the ledger however long that takes, or back to the queue at a stop.
    async fn settle(&self, mut hand: Hand, known: &mut Known, shutdown: &CancellationToken) {
        let held = hand.rest();
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(LAST_BATCH).await;
        };
        tokio::select! {
            () = self.take(&mut hand) => {}
            () = late => {}
            never = self.hold(&held, known.visibility) => match never {},
        }
        if hand.new {
            self.wake.notify_one();
        }
        let mut done = std::mem::take(&mut hand.taken);
        match self.settings.reject {
            Reject::Delete => done.append(&mut hand.refused),
            // By its redrive policy alone they leave the queue.
            Reject::Redrive if !hand.refused.is_empty() => known.doubt(),
            Reject::Redrive => {}
        }
        settle::delete(&self.queue, done).await;
        settle::give_back(&self.queue, &hand.rest()).await;
    }

    /// Into the ledger, tried again and again.
    async fn take(&self, hand: &mut Hand) {
        let (mut pause, mut stuck) = (Pause::new(), None);
        while let Err(error) = hand.take(&self.ledger, &self.queue.url).await {
            stuck.get_or_insert_with(|| self.stuck.one());
            tracing::warn!(queue = self.queue.url, "{error}; the messages in hand are tried again");
            pause.rest().await;
        }
    }

    /// Keeps what is in hand from the queue's other readers: a message that is handed out again is a receipt nearer to the dead-letter queue.
    async fn hold(&self, messages: &[Message], visibility: Duration) -> Infallible {
        let (since, seconds) = (Instant::now(), i32::try_from(visibility.as_secs()).unwrap_or(i32::MAX));
        loop {
            tokio::time::sleep(visibility / 2).await;
            if since.elapsed() + visibility <= LONGEST_HOLD {
                settle::hold(&self.queue, messages, seconds).await;
            }
        }
    }
}
