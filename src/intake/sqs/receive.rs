//! A poller: receives a batch, brings it into the ledger, settles it, and only then receives again.

use super::{
    check,
    client::{POLL, Queue, said},
    hand::{Hand, TRACEPARENT},
    settings::{Reject, Settings},
    settle,
};
use crate::ledger::{self, Ledger};
use aws_sdk_sqs::types::{Message as Sent, MessageSystemAttributeName};
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What one request brings at the most.
const BATCH: i32 = 10;

/// After a stop the batch in hand has so long to get into the ledger; then it is given back.
const LAST_BATCH: Duration = Duration::from_secs(4);

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// One of a queue's pollers.
pub struct Poller {
    pub queue: Arc<Queue>,
    pub settings: Settings,
    pub ledger: Ledger,
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
        tokio::select! {
            () = self.looked_at() => {}
            () = shutdown.cancelled() => return,
        }
        loop {
            // A batch that SQS hands out in the moment of the stop comes again after its visibility timeout.
            let received = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                received = self.receive() => received,
            };
            self.settle(Hand::of(received), &shutdown).await;
        }
    }

    /// Until the queue is known to be as it must be.
    async fn looked_at(&self) {
        let mut pause = Pause::new();
        while let Err(why) = check::again(&self.queue, &self.settings).await {
            tracing::error!(queue = self.queue.url, why, "the queue is not read");
            pause.rest().await;
        }
    }

    /// The next batch that is not empty. While the ledger does not answer nothing is asked for.
    async fn receive(&self) -> Vec<Sent> {
        let mut pause = Pause::new();
        loop {
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
    async fn settle(&self, mut hand: Hand, shutdown: &CancellationToken) {
        let mut pause = Pause::new();
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(LAST_BATCH).await;
        };
        let taken = async {
            while let Err(error) = hand.take(&self.ledger, &self.queue.url).await {
                tracing::warn!(queue = self.queue.url, "{error}; the messages in hand are tried again");
                pause.rest().await;
            }
        };
        tokio::select! {
            () = taken => {}
            () = late => {}
        }
        if hand.new {
            self.wake.notify_one();
        }
        let mut done = std::mem::take(&mut hand.taken);
        if self.settings.reject == Reject::Delete {
            done.append(&mut hand.refused);
        }
        settle::delete(&self.queue, done).await;
        settle::give_back(&self.queue, hand.rest()).await;
    }
}
